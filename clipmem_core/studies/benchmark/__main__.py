"""The process of some plantings of a benchmark: python -m clipmem_core.studies.benchmark FOLDER PLANTING…"""

import sys

from clipmem_core.audits.__main__ import main
from clipmem_core.studies.benchmark.planting import run_pieces

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_pieces))
