"""Processes that work through many items and may die: a crash costs the item it happened on, no more, and one that is
killed from outside, as happens where memory runs out, costs none.

A worker is a fresh Python, not a fork: threads of the caller cannot deadlock it, and it ends by itself once the caller
is gone, however that went. The function is pickled by its name; keep its module quick to import.
"""

import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar

from clipmem_core.shortage import shortage

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_COMMAND = "from clipmem_core.pairs.workers import serve; serve()"
_READY = "ready"
# What a process does to itself. Any other end came from outside, or it had no memory left to go on with.
_CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE, -signal.SIGTRAP}


class Killed(MemoryError):
    """A process that worked on one item alone was killed, twice; `args` is the item."""


def cores() -> int:
    """Return the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_chunks(
    work: Callable[[list[Item]], Answer],
    items: Sequence[Item],
    *,
    workers: int,
    chunk: int,
    alike: Callable[[Item], Any] = lambda item: None,
) -> Generator[tuple[list[Item], Answer | None], None, None]:
    """Yield each chunk of items with what `work` returned for it, in the order they get done.

    A chunk whose process died is cut in halves and tried again, so that the one item at fault is yielded alone,
    with None for an answer. Where the process did not crash but was killed, that item is tried once more when all
    others are done, in the only process there is. Close the iterator to stop early: the processes end at once.

    Args:
        work: a function of a module, or a `functools.partial` of one.
        items: what to work on.
        workers: processes.
        chunk: items handed over at a time, at most.
        alike: gives what neighbours that are handed over together have in common.

    Raises:
        Killed: a process was killed then, too.
        OSError, MemoryError: `work` ran short of something.
        RuntimeError: a process cannot start, or `work` raised; the message ends with the traceback.
    """
    with tempfile.TemporaryFile() as noise:
        killed: list[Item] = []
        parts = cut(items, chunk, alike)
        with contextlib.closing(_answers(_Crew(work, noise), parts, workers)) as answers:
            for part, outcome in answers:
                if outcome is _KILLED:
                    killed += part
                else:
                    yield part, outcome
        with contextlib.closing(_answers(_Crew(work, noise), cut(killed, 1), 1)) as answers:
            for part, outcome in answers:
                if outcome is _KILLED:
                    raise Killed(part[0])
                yield part, outcome


def cut(items: Sequence[Item], chunk: int, alike: Callable[[Item], Any] = lambda item: None) -> Iterator[list[Item]]:
    """Yield what is handed over at a time, as `map_chunks` is asked for it."""
    for _, group in itertools.groupby(items, alike):
        while part := list(itertools.islice(group, chunk)):
            yield part


def serve() -> None:
    """Be a worker: read the function, then answer chunk after chunk, until the caller's end of the pipe closes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not mix with the answers
    work = pickle.load(sys.stdin.buffer)
    _send(answers, _READY)
    while True:
        try:
            chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = (True, work(chunk))
        except Exception as error:
            reply = (False, error if shortage(error) else traceback.format_exc())
        _send(answers, reply)


def _answers(crew: "_Crew", parts: Iterable[list[Any]], workers: int) -> Generator[tuple[list[Any], Any], None, None]:
    """Yield what `map_chunks` yields, or an item alone with `_KILLED`, and leave no process and no thread behind."""
    left, threads = 0, ThreadPoolExecutor(workers)
    try:
        for part in parts:
            left += len(part)
            threads.submit(crew.answer, part)
        while left:
            part, outcome = crew.answers.get()
            if isinstance(outcome, BaseException):
                raise outcome
            if isinstance(outcome, _Died) and len(part) > 1:
                threads.submit(crew.answer, part[: len(part) // 2])
                threads.submit(crew.answer, part[len(part) // 2 :])
                continue
            left -= len(part)
            yield part, None if outcome is _CRASHED else outcome
    finally:
        crew.stop()
        threads.shutdown(cancel_futures=True)
        crew.close()


class _Died:
    """What takes an answer's place when the process is gone."""


_CRASHED, _KILLED = _Died(), _Died()


class _Crew:
    """Worker processes, each in the hands of one thread at a time, started when first needed and after a death."""

    def __init__(self, work: Callable[..., Any], noise: IO[bytes]) -> None:
        self.answers: queue.SimpleQueue[tuple[list[Any], Any]] = queue.SimpleQueue()
        self._work = work
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._started: list[subprocess.Popen[bytes]] = []
        self._stopped = False
        self._lock = threading.Lock()
        self._noise = noise  # what they print

    def answer(self, part: list[Any]) -> None:
        """Put the part with its answer, with how the process ended, or with what there is to raise into the queue."""
        try:
            self.answers.put((part, self._ask(part)))
        except BaseException as error:
            self.answers.put((part, error))

    def stop(self) -> None:
        """Kill every process, so that the threads waiting for one come back."""
        with self._lock:
            self._stopped = True
            for process in self._started:
                process.kill()

    def close(self) -> None:
        """Collect the dead processes and close their pipes."""
        for process in self._started:
            process.wait()
            _close(process)

    def _ask(self, part: list[Any]) -> Any:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, part)
            fine, answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            process.kill()
            return _CRASHED if process.wait() in _CRASHES else _KILLED
        self._idle.put(process)
        if isinstance(answer, Exception):
            raise answer
        if not fine:
            raise RuntimeError(f"a worker process failed:\n{answer}")
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise RuntimeError("the worker processes were stopped")
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,  # Ctrl-C is the caller's to handle
            )
            self._started.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, self._work)
            pickle.load(process.stdout)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a worker process cannot start:\n{self._last_noise()}") from error
        return process

    def _last_noise(self) -> str:
        self._noise.seek(0)
        return self._noise.read()[-2000:].decode(errors="replace")


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # the rest of a message to a process that is gone
            if pipe is not None:
                pipe.close()
