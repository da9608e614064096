"""Work in processes is done once, also when processes crash, hang or are killed."""

import functools
import os
import signal
import time
from pathlib import Path

import pytest

from clipmem_core.dataset import pixels
from clipmem_core.dataset.pixels import map_chunks


def misbehave(chunk: list[int], *, crash: int = -1, hang: int = -1) -> list[int]:
    """Return the squares, but crash as a decoder in C would on one item, and never return on
    another."""
    print("printing does not disturb the results")
    if crash in chunk:
        os.kill(os.getpid(), signal.SIGSEGV)
    if hang in chunk:
        time.sleep(1000)
    return [item * item for item in chunk]


def killed(chunk: list[int], *, item: int, log: Path, times: int) -> list[int]:
    """Be killed on one item a number of times, as when memory runs out; log the length of the chunk
    each time."""
    if item in chunk:
        lengths = log.read_text().split() if log.exists() else []
        log.write_text(" ".join([*lengths, str(len(chunk))]))
        if len(lengths) < times:
            os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def test_a_crash_or_a_hang_costs_only_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SECONDS", 0.5)
    work = functools.partial(misbehave, crash=5, hang=6)
    results = dict[int, int | None]()
    for chunk, squares in map_chunks(work, range(50), workers=2, chunk=7):
        assert not set(chunk) & set(results)
        results.update(zip(chunk, squares or [None] * len(chunk), strict=True))
    assert results == {item: None if item in (5, 6) else item * item for item in range(50)}


def test_an_item_whose_process_was_killed_is_retried_alone(tmp_path: Path) -> None:
    work = functools.partial(killed, item=2, log=tmp_path / "log", times=1)
    results = list(map_chunks(work, range(8), workers=1, chunk=4))
    assert sorted(item for _, result in results for item in result or []) == list(range(8))
    assert (tmp_path / "log").read_text() == "4 1"
    with pytest.raises(MemoryError, match="working on 2 was killed"):
        list(map_chunks(functools.partial(work, times=9), range(2, 4), workers=1, chunk=2))
