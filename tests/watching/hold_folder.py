"""Lock the folder that the command line names, until standard input ends."""

import sys

from benchd.watching.lock import FolderLock

if __name__ == "__main__":
    FolderLock(sys.argv[1]).acquire()
    print("held", flush=True)
    sys.stdin.read()
