"""The process of a task: python -m clipmem_core.audit MODULE:FUNCTION FOLDER NAME…"""

import json
import logging
import os
import stat
import sys
import threading
from collections.abc import Sequence

from clipmem_core.audit.executor import RAN_SHORT, do_work
from clipmem_core.config import InputError
from clipmem_core.io import keep_memory, shortage


def _end_with_parent() -> None:
    """Exit when the parent process ends and closes its pipe; a resumed audit starts this work again."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        os.read(0, 1)
        os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Run a task. An error is one line of JSON on stderr, or an exit code if disk or memory ran out."""
    logging.getLogger().setLevel(logging.ERROR)
    keep_memory()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        do_work(arguments)
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 2
    except OSError as error:
        if not shortage(error) or not error.errno:
            raise
        return RAN_SHORT + error.errno
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
