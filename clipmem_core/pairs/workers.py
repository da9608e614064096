"""Map a function over many items in worker processes that may crash, hang or be killed.

A worker is a fresh Python, not a fork: threads of the caller cannot deadlock it, and it ends when the caller does, even
if that is killed. The function is pickled by its name; keep its module quick to import.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

Item = TypeVar("Item")
Answer = TypeVar("Answer")

SECONDS = 300.0  # that a chunk may take; the largest picture takes a few
_AHEAD = 32  # chunks a worker that wait for the caller
# What a process does to itself. Any other end came from outside, or it had no memory left to go on with.
_CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE, -signal.SIGTRAP}


def cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_chunks(
    work: Callable[[list[Item]], Answer], items: Sequence[Item], *, workers: int, chunk: int
) -> Generator[tuple[list[Item], Answer | None], None, None]:
    """Yield each chunk of items with what `work`, a function of a module or a partial of one, returned for it.

    The items of a chunk whose process died or hung are retried one by one at the end, in a single process. Then an item
    that crashes or hangs its process has None for an answer. Close the iterator to stop early: the processes end.

    Raises:
        MemoryError: a process that worked on one item alone was killed, too; or `work` ran out of memory.
        Exception: what `work` raised.
    """
    alone: list[list[Item]] = []
    for part, answer, died in _answers(work, (items[at : at + chunk] for at in range(0, len(items), chunk)), workers):
        if died:
            alone += [[item] for item in part]
        else:
            yield part, answer
    for part, answer, died in _answers(work, alone, 1):
        if isinstance(died, ProcessExpired) and died.exitcode not in _CRASHES:
            raise MemoryError(f"the process working on {part[0]!r} was killed, alone as well")
        yield part, answer


def _answers(
    work: Callable[[list[Item]], Answer], parts: Iterable[Sequence[Item]], workers: int
) -> Generator[tuple[list[Item], Answer | None, Exception | None], None, None]:
    """Yield each part in order with its answer, or with how its process ended."""
    waiting: deque[tuple[list[Item], Any]] = deque()
    pool = ProcessPool(workers, initializer=_silence, context=multiprocessing.get_context("spawn"))
    todo = iter(parts)
    try:
        while True:
            while len(waiting) < _AHEAD * workers and (part := list(next(todo, []))):
                waiting.append((part, pool.schedule(work, (part,), timeout=SECONDS)))
            if not waiting:
                return
            part, future = waiting.popleft()
            try:
                answer, died = future.result(), None
            except (ProcessExpired, TimeoutError) as error:
                answer, died = None, error
            yield part, answer, died
    finally:
        pool.stop()
        pool.join()


def _silence() -> None:
    """Keep what libraries print off the caller's screen."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
