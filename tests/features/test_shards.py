"""Features in shards that other processes compute: as those computed here, whatever is killed on the way."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmem_core.config import InputError
from clipmem_core.features import embed, shards
from clipmem_core.features.embed import image_features, run_shards, text_features
from tests.features.made_towers import Seen, fake_images, fake_texts
from tests.features.test_images import COLOURS, a_set

CAPTIONS = [[f"{'word ' * (row % 150 % 7)}{row % 150}", f"other {row}"] for row in range(200)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Shards of two batches, computed by towers that `named` finds here; what they were given."""
    seen = Seen()
    monkeypatch.setattr(shards, "BATCHES", 2)
    monkeypatch.setattr(shards, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(embed, "image_tower", lambda **_: fake_images(seen))
    monkeypatch.setattr(embed, "text_tower", lambda **_: fake_texts(seen))
    return seen


class Compute:
    """Computes shards when they are asked for, and keeps which; an odd one is computed last."""

    def __init__(self, *, stop_after: int = 10**9) -> None:
        self.asked: list[list[str]] = []
        self.stop_after = stop_after

    def __call__(self, part: Path, names: Sequence[str]) -> Generator[Any, None, None]:
        self.asked.append(list(names))
        for count, name in enumerate(sorted(names, key=lambda name: (int(name) % 2, name))):
            if count == self.stop_after:
                raise KeyboardInterrupt
            run_shards(part, [name])
            yield None


def test_captions_and_pictures_are_what_they_are_without_shards(tmp_path: Path, small: Seen) -> None:
    pairs, compute, told = a_set(tmp_path, COLOURS), Compute(), list[tuple[int, int]]()
    folders = {"folder": tmp_path / "sharded", "elsewhere": compute}
    here = text_features(CAPTIONS, fake_texts(Seen()), folder=tmp_path / "here", workers=1)
    found = text_features(CAPTIONS, fake_texts(Seen()), **folders, progress=lambda *so_far: told.append(so_far))
    np.testing.assert_array_equal(found.features, here.features)
    assert found.cut == here.cut > 0
    assert told[-1] == (350, 350)
    assert len(told) == 7
    assert small.batches == [64, 64, 64, 30, 64, 64]
    image = {"folder": tmp_path / "here", "workers": 1}
    np.testing.assert_array_equal(
        image_features(pairs, tmp_path, fake_images(Seen()), **folders),
        image_features(pairs, tmp_path, fake_images(Seen()), **image),
    )
    assert [sorted(names) for names in compute.asked] == [["0", "1", "2"], ["0", "1"]]
    assert {path.name for path in (tmp_path / "sharded").rglob("*.*") if path.is_file()} == {
        *("keys.npy", "features.npy", "features.json"),
        *(path.name for path in (tmp_path / "sharded").rglob("*.lock")),
    }


def test_what_was_stopped_goes_on_from_the_shards_and_batches_that_are_there(tmp_path: Path, small: Seen) -> None:
    here = text_features(CAPTIONS, fake_texts(Seen()), folder=tmp_path / "here", workers=1)
    folder = tmp_path / "sharded"
    with pytest.raises(KeyboardInterrupt):  # the first batch here, the rest of its shard elsewhere
        text_features(CAPTIONS, fake_texts(Seen(), fail_after=1), folder=folder, workers=1)
    with pytest.raises(KeyboardInterrupt):
        text_features(CAPTIONS, fake_texts(Seen()), folder=folder, elsewhere=Compute(stop_after=1))
    (part,) = folder.glob("*/*.part")
    run_shards(part, ["2"])  # by a process that outlived who asked for it
    small.batches.clear()
    compute = Compute()
    found = text_features(CAPTIONS, fake_texts(Seen()), folder=folder, elsewhere=compute)
    np.testing.assert_array_equal(found.features, here.features)
    assert compute.asked == [["1", "2"]]
    assert small.batches == [64, 64]


def test_another_tower_on_a_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "text_tower", lambda **_: fake_texts(Seen(), context=9))
    with pytest.raises(InputError, match=r"the text tower fake on .* is fake-\w+ and not fake-\w+: install the same"):
        text_features(CAPTIONS, fake_texts(Seen()), folder=tmp_path, elsewhere=Compute())


def test_a_tower_that_gives_nan_on_a_worker_names_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = fake_images(Seen(), make=lambda square: np.full(6, np.nan if square[0, 0, 0] == 6 else 1.0))
    monkeypatch.setattr(embed, "image_tower", lambda **_: tower)
    with pytest.raises(InputError, match="NaN or infinity for picture '2.png'"):
        image_features(a_set(tmp_path, COLOURS), tmp_path, tower, folder=tmp_path / "cache", elsewhere=Compute())
