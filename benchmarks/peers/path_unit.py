"""Run a path unit inside a systemd; it starts the pattern for unanswered audits when the folder changes.

path_unit.py PLACE COUNT AUDIT    drops COUNT audits; prints how many were answered, and in how many seconds
"""

import subprocess
import sys
import time
from pathlib import Path

place, count, audit = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
inbox, script, units = place / "inbox", place / "answer", Path("/run/systemd/system")
inbox.mkdir(parents=True)
script.write_text(
    f"""#!/bin/sh
for file in {inbox}/*[0-9].json; do
    [ -e "${{file%.json}}.bench.json" ] ||
        {sys.executable} {Path(__file__).with_name("golden.py")} --generate-config "$file"
done
""",
    encoding="utf-8",
)
script.chmod(0o755)
units.mkdir(parents=True, exist_ok=True)
(units / "peer.service").write_text(
    f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart={script}\n", encoding="ascii"
)
(units / "peer.path").write_text(f"[Path]\nPathChanged={inbox}\nTriggerLimitIntervalSec=0\n", encoding="ascii")
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["systemctl", "start", "peer.path"], check=True)

start = last = time.monotonic()
for number in range(count):
    (inbox / f"a{number}.json").write_bytes(audit)
answered = 0
while answered < count and time.monotonic() < last + 10:
    time.sleep(0.01)
    found = len(list(inbox.glob("*.bench.json")))
    if found > answered:
        answered, last = found, time.monotonic()
print(answered, last - start)
