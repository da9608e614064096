"""Map a function over many items in worker processes that may crash, hang or be killed.

A worker is a fresh Python, not a fork: threads of the caller cannot deadlock it, and it ends when
the caller is killed. Every worker imports the module of the function: keep that import quick.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

Task = TypeVar("Task")
Result = TypeVar("Result")

SECONDS = 300.0  # limit of a chunk; the largest picture takes a few seconds


def cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_chunks(
    work: Callable[[list[Task]], Result], items: Sequence[Task], *, workers: int, chunk: int
) -> Generator[tuple[list[Task], Result | None], None, None]:
    """Yield each chunk of items with the result of `work`, a function of a module or a partial of
    one.

    The items of a chunk whose process died or hung are retried one by one at the end, in a single
    process. An item that crashes or hangs its process again has the result None; one whose process
    is killed again raises MemoryError.
    """
    chunks = [list(items[start : start + chunk]) for start in range(0, len(items), chunk)]
    retries = list[list[Task]]()
    for part, result, error in _results(work, chunks, workers):
        if error:
            retries += [[item] for item in part]
        else:
            yield part, result
    for part, result, error in _results(work, retries, 1):
        # by the system, for example when memory ran out
        if isinstance(error, ProcessExpired) and error.exitcode == -signal.SIGKILL:
            raise MemoryError(f"the process working on {part[0]!r} was killed, alone as well")
        yield part, result


def _results(
    work: Callable[[list[Task]], Result], chunks: Sequence[list[Task]], workers: int
) -> Generator[tuple[list[Task], Result | None, Exception | None], None, None]:
    """Yield each chunk in order with its result, or with the error that ended its process."""
    pool = ProcessPool(workers, initializer=_silence, context=multiprocessing.get_context("spawn"))
    try:
        futures = deque(pool.schedule(work, (part,), timeout=SECONDS) for part in chunks)
        for part in chunks:
            result = None
            failure = None
            try:
                result = futures.popleft().result()
            except (ProcessExpired, TimeoutError) as error:
                failure = error
            yield part, result, failure
    finally:
        pool.stop()
        pool.join()


def _silence() -> None:
    """Discard the output of libraries."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
