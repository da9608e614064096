"""Work in processes is done once, also when processes crash, hang or are killed."""

import functools
from pathlib import Path

import pytest

from clipmem_core.dataset import pictures
from clipmem_core.dataset.pictures import map_chunks
from tests.dataset.faulty import killed, misbehave


def test_a_crash_or_a_hang_costs_only_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SECONDS", 0.5)
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
