"""The command line: python -m clipmem_core inspect | fetch | audit | score …"""

import sys

if __name__ == "__main__":  # worker processes import this file, and need none of the commands
    from clipmem_core.cli import main

    sys.exit(main(sys.argv[1:]))
