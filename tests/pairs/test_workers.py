"""Work split over processes is done once, whatever dies on the way."""

import errno
import functools
import os
import signal
import time
from pathlib import Path

import pytest

from clipmem_core.pairs import workers
from clipmem_core.pairs.workers import map_chunks


def squares(chunk: list[int]) -> list[int]:
    """Return the squares."""
    print("printing does not disturb the answers")
    return [item * item for item in chunk]


def fatal(chunk: list[int], *, item: int) -> list[int]:
    """Die, as a decoder in C would, on one item."""
    if item in chunk:
        os.kill(os.getpid(), signal.SIGSEGV)
    return chunk


def hanging(chunk: list[int], *, item: int) -> list[int]:
    """Never answer for one item."""
    if item in chunk:
        time.sleep(1000)
    return chunk


def killed(chunk: list[int], *, item: int, mark: Path, times: int) -> list[int]:
    """Be killed on one item, as where memory runs out, some times; note how many items were at hand each time."""
    if item in chunk:
        known = mark.read_text().split() if mark.exists() else []
        mark.write_text(" ".join([*known, str(len(chunk))]))
        if len(known) < times:
            os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def short(chunk: list[int], *, number: int) -> list[int]:
    """Run short of something."""
    raise OSError(number, os.strerror(number), "/some/file") if number else MemoryError("of this much")


def process_id(chunk: list[int]) -> int:
    """Return who works."""
    return os.getpid()


def test_every_item_is_answered_once() -> None:
    answers = dict[int, int]()
    for chunk, answer in map_chunks(squares, range(50), workers=2, chunk=7):
        answers.update(zip(chunk, answer or [], strict=True))
    assert answers == {item: item * item for item in range(50)}


def test_a_crash_costs_only_the_item_it_happens_on() -> None:
    answers = list(map_chunks(functools.partial(fatal, item=5), range(12), workers=2, chunk=4))
    assert [chunk for chunk, answer in answers if answer is None] == [[5]]
    assert sorted(item for chunk, _ in answers for item in chunk) == list(range(12))


def test_a_hang_costs_only_the_item_it_happens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SECONDS", 0.5)
    answers = list(map_chunks(functools.partial(hanging, item=5), range(8), workers=2, chunk=4))
    assert [chunk for chunk, answer in answers if answer is None] == [[5]]
    assert sorted(item for chunk, _ in answers for item in chunk) == list(range(8))


def test_an_item_that_a_process_was_killed_on_is_retried_alone_and_is_not_blamed(tmp_path: Path) -> None:
    work = functools.partial(killed, item=2, mark=tmp_path / "mark", times=1)
    answers = list(map_chunks(work, range(12), workers=2, chunk=4))
    assert sorted(item for _, answer in answers for item in answer or []) == list(range(12))
    assert (tmp_path / "mark").read_text() == "4 1"
    with pytest.raises(MemoryError, match="working on 2 was killed"):
        list(map_chunks(functools.partial(work, times=9), range(12), workers=2, chunk=4))


@pytest.mark.parametrize("number", [errno.ENOSPC, 0])
def test_what_ran_short_reaches_the_caller_as_it_was(number: int) -> None:
    with pytest.raises(OSError if number else MemoryError) as error:  # noqa: PT011
        list(map_chunks(functools.partial(short, number=number), range(3), workers=1, chunk=2))
    assert getattr(error.value, "errno", 0) == number
    assert ("/some/file" if number else "of this much") in str(error.value)


def test_closing_early_ends_the_processes() -> None:
    answers = map_chunks(process_id, range(100), workers=1, chunk=1)
    _, process = next(answers)
    answers.close()
    assert process is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
