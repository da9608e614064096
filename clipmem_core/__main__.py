"""The command line: python -m clipmem_core inspect | audit | judge …"""

import atexit
import gc
import sys

# Libraries make a million objects. Searching them for garbage takes seconds, while libraries are
# imported and at the end of a process.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)


def run() -> int:
    """Run the command that was typed, and return its exit code."""
    from clipmem_core.cli import main  # worker processes import this file and need no command

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
