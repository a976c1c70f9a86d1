"""A process that prints the config of the audit file named on its command line, by the library's public functions."""

import sys
from pathlib import Path

import benchd

if __name__ == "__main__":
    audit = benchd.read_audit(Path(sys.argv[1]).read_bytes(), name="a.json")
    sys.stdout.buffer.write(benchd.bench_config(audit, benchd.select(audit)))
