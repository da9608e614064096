"""Shards of features as tasks, and the process of some of them: python -m clipmem_core.audits.shards FOLDER SHARD…"""

import sys
from collections.abc import Sequence
from pathlib import Path

from clipmem_core.audits.executor import Executor, Looks, Task, in_this_process
from clipmem_core.features.shards import Elsewhere

SHARDS = 8  # of a task: its process starts, and loads the tower, once


def elsewhere(executor: Executor | None, threads: int) -> Elsewhere | None:
    """Return what has shards of features computed by an executor's tasks; None where this process computes them."""
    if executor is None or executor is in_this_process:
        return None

    def compute(part: Path, names: Sequence[str]) -> Looks:
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = (sys.executable, "-m", "clipmem_core.audits.shards", str(part.absolute()))
        owns = [tuple(names[at : at + SHARDS]) for at in range(0, len(names), SHARDS)]
        return executor([Task(tuple(part / name for name in own), program, own, threads, "shard") for own in owns])

    return compute


if __name__ == "__main__":
    from clipmem_core.audits.__main__ import main
    from clipmem_core.features.embed import run_shards

    sys.exit(main(sys.argv[1:], run_shards))
