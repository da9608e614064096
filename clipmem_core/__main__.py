"""The command line: python -m clipmem_core inspect | fetch | audit | score …"""

import sys

from clipmem_core.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
