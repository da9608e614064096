"""The command line: python -m clipmem_core inspect | audit | judge …"""

import atexit
import gc
import sys

# Libraries make a million objects. Searching them for garbage takes seconds, while libraries are
# imported and at the end of a process.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)

if __name__ == "__main__":  # worker processes import this file, and need none of the commands
    from clipmem_core.cli import main

    sys.exit(main(sys.argv[1:]))
