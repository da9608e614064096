"""The process of some plantings of a benchmark: python -m clipmem_core.studies.benchmark FOLDER PLANTING…"""

import json
import logging
import os
import sys
import threading
from pathlib import Path

from clipmem_core.audits.__main__ import end_with_parent
from clipmem_core.config import InputError
from clipmem_core.studies.benchmark.planting import run_pieces


def main(arguments: list[str]) -> int:
    """Run plantings; an error is one line of JSON on stderr, for the process that started this."""
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_pieces(Path(arguments[0]), arguments[1:])
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
