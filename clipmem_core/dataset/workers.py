"""Map a function over many items in worker processes that may crash, hang or be killed.

A worker is a fresh Python, not a fork: threads of the caller cannot deadlock it, and it ends when
the caller is killed. Every worker imports the module of the function: keep that import quick.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS = 300.0  # limit of a chunk; the largest picture takes a few seconds
_AHEAD = 32  # finished chunks a worker that may wait for the caller
# Signals that a process raises itself. Any other one was sent from outside, for example when memory
# ran out.
_CRASHES = {
    -signal.SIGSEGV,
    -signal.SIGBUS,
    -signal.SIGABRT,
    -signal.SIGILL,
    -signal.SIGFPE,
    -signal.SIGTRAP,
}


def cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_chunks(
    work: Callable[[list[Item]], Result], items: Sequence[Item], *, workers: int, chunk: int
) -> Generator[tuple[list[Item], Result | None], None, None]:
    """Yield each chunk of items with the result of `work`, a function of a module or a partial of
    one.

    The items of a chunk whose process died or hung are retried one by one at the end, in a single
    process. An item that crashes or hangs its process again has the result None; one whose process
    is killed again raises MemoryError.
    """
    retries: list[list[Item]] = []
    chunks = (list(items[start : start + chunk]) for start in range(0, len(items), chunk))
    for part, result, error in _results(work, chunks, workers):
        if error:
            retries += [[item] for item in part]
        else:
            yield part, result
    for part, result, error in _results(work, iter(retries), 1):
        if isinstance(error, ProcessExpired) and error.exitcode not in _CRASHES:
            raise MemoryError(f"the process working on {part[0]!r} was killed, alone as well")
        yield part, result


def _results(
    work: Callable[[list[Item]], Result], chunks: Iterator[list[Item]], workers: int
) -> Generator[tuple[list[Item], Result | None, Exception | None], None, None]:
    """Yield each chunk in order with its result, or with the error that ended its process."""
    waiting: deque[tuple[list[Item], Any]] = deque()
    pool = ProcessPool(workers, initializer=_silence, context=multiprocessing.get_context("spawn"))
    try:
        while True:
            for part in islice(chunks, _AHEAD * workers - len(waiting)):
                waiting.append((part, pool.schedule(work, (part,), timeout=SECONDS)))
            if not waiting:
                return
            part, future = waiting.popleft()
            result = None
            died = None
            try:
                result = future.result()
            except (ProcessExpired, TimeoutError) as error:
                died = error
            yield part, result, died
    finally:
        pool.stop()
        pool.join()


def _silence() -> None:
    """Discard the output of libraries."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
