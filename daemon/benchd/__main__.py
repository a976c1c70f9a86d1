"""`python -m benchd`."""

from benchd.cli import main

if __name__ == "__main__":
    main(prog_name="benchd")
