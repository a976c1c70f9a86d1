"""A process that claims the folder named on its command line and keeps it until its standard input ends."""

import sys

from benchd.watching.lock import FolderLock

if __name__ == "__main__":
    FolderLock(sys.argv[1]).acquire()
    print("held", flush=True)
    sys.stdin.read()
