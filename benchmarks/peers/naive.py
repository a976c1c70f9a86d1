"""A watcher that takes an afternoon to write: watchdog's Observer, `json`, the ladder, a file and a print.

naive.py INBOX
"""

import json
import sys
import time

import golden
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer


class Handler(FileSystemEventHandler):
    """Answers files that were closed or renamed into place."""

    def on_closed(self, event):
        self.answer(event.src_path)

    def on_moved(self, event):
        self.answer(event.dest_path)

    def answer(self, path):
        if not path.endswith(".json") or path.endswith(".bench.json"):
            return
        with open(path, encoding="utf-8") as file:
            config = golden.bench_config(json.load(file))
        golden.write(path, config)
        print(path, config["selection"]["strategy"], flush=True)


observer = Observer()
observer.schedule(Handler(), sys.argv[1])
observer.start()
print("ready", flush=True)
while True:
    time.sleep(1)
