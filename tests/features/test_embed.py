"""Pictures and captions through a locked tower: each different one once, here or in shards, whatever stops the work."""

import hashlib
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipmem_core.config import InputError
from clipmem_core.features import cache, embed
from clipmem_core.features.cache import FEATURES_FILE
from clipmem_core.features.embed import image_features, run_shards, text_features
from tests.features.made_towers import Seen, fake_images, fake_texts, of_caption

MANY = [[f"caption {i} of {'very ' * (i % 5)}many", f"number {i % 40}"] for i in range(200)]


def expected(captions: list[list[str]]) -> np.ndarray:
    return np.stack([of_caption(text) for pair in captions for text in pair])


@settings(max_examples=6)
@given(st.lists(st.lists(st.text(max_size=4), max_size=3), max_size=8))
def test_every_caption_has_its_own_row(captions: list[list[str]]) -> None:
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        found = text_features(captions, fake_texts(seen), folder=Path(folder), workers=1)
    texts = [text for pair in captions for text in pair]
    assert sum(seen.batches) == len(set(texts))
    assert found.features.dtype == np.float16
    assert found.offsets.tolist() == np.cumsum([0, *map(len, captions)]).tolist()
    np.testing.assert_array_equal(found.features, [of_caption(text) for text in texts] or np.empty((0, 8)))


def test_the_same_again_opens_no_tower(tmp_path: Path) -> None:
    seen, said = Seen(), list[str]()
    first = text_features(MANY, fake_texts(seen), folder=tmp_path, say=said.append)
    again = text_features(MANY, fake_texts(seen), folder=tmp_path, say=said.append)
    assert seen.opened == 1
    assert isinstance(again.features, np.memmap)
    np.testing.assert_array_equal(first.features, again.features)
    # `caption 3 of very very very many` has seven words
    assert first.cut == again.cut == sum(len(text.split()) > 6 for pair in MANY for text in pair)
    assert said == [f"{first.cut} of 400 captions are longer than the 6 tokens that fake reads"] * 2


def test_captions_known_from_another_data_set_are_not_embedded_again(tmp_path: Path) -> None:
    seen = Seen()
    text_features(MANY[:50], fake_texts(seen), folder=tmp_path)
    known = sum(seen.batches)
    found = text_features(MANY[::-1], fake_texts(seen), folder=tmp_path)
    assert sum(seen.batches) == len({text for pair in MANY for text in pair}) > known
    np.testing.assert_array_equal(found.features, expected(MANY[::-1]))


@pytest.mark.parametrize("spoil", ["nothing", "half a line", "a row"])
def test_what_was_stopped_goes_on_with_the_batches_that_are_left(tmp_path: Path, spoil: str) -> None:
    first, second = Seen(), Seen()
    with pytest.raises(KeyboardInterrupt):
        text_features(MANY, fake_texts(first, fail_after=2), folder=tmp_path, workers=1)
    (part,) = tmp_path.glob("*/*.part")
    journal = part / "batches.jsonl"
    noted = journal.read_text().count("crc32")
    if spoil == "half a line":
        journal.write_text(journal.read_text().rstrip()[:-3])
    if spoil == "a row":
        with (part / FEATURES_FILE).open("r+b") as file:
            file.seek(int(np.load(part / "order.npy")[0]) * 16 + 128)
            file.write(b"\xff\xff")
    found = text_features(MANY, fake_texts(second), folder=tmp_path, workers=1)
    np.testing.assert_array_equal(found.features, expected(MANY))
    batches = -(-len({text for pair in MANY for text in pair}) // embed.TEXT_BATCH)
    assert noted >= 1
    assert len(second.batches) == batches - noted + (spoil != "nothing")
    assert not list(tmp_path.glob("*/*.part"))


@pytest.mark.parametrize("file", ["features.npy", "keys.npy", "features.json"])
def test_a_damaged_file_is_said_and_made_again(tmp_path: Path, file: str) -> None:
    seen, said = Seen(), list[str]()
    text_features(MANY[:9], fake_texts(seen), folder=tmp_path)
    (path,) = tmp_path.glob(f"*/*/{file}")
    path.write_bytes(path.read_bytes()[:-7])
    found = text_features(MANY[:9], fake_texts(seen), folder=tmp_path, say=said.append)
    assert seen.opened == 2
    assert "is broken: computing its features again" in said[0]
    np.testing.assert_array_equal(found.features, expected(MANY[:9]))


@pytest.mark.parametrize(
    ("bad", "words"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (1e6, "too large for float16")]
)
def test_a_tower_that_gives_no_number_names_the_caption(tmp_path: Path, bad: float, words: str) -> None:
    tower = fake_texts(Seen(), make=lambda text: of_caption(text) if text != "number 7" else np.full(8, bad))
    with pytest.raises(InputError, match=f"{words} for caption 'number 7'"):
        text_features(MANY, tower, folder=tmp_path)


def test_a_tower_that_tells_nothing_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives the same for caption 'caption 0 of many' as for caption 'number 0'"):
        text_features(MANY, fake_texts(Seen(), make=lambda text: np.ones(8)), folder=tmp_path)


def a_set(folder: Path, colours: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Draw a picture of each colour and return their table; equal colours have equal bytes."""
    names = [f"{i}.png" for i in range(len(colours))]
    for name, colour in zip(names, colours, strict=True):
        Image.new("RGB", (20, 30), colour).save(folder / name)
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return pd.DataFrame({"image": names, "sha256": hashes})


COLOURS = [(i * 3, 255 - i * 5, 7) for i in range(40)] + [(0, 255, 7), (9, 240, 7)]


def test_each_different_picture_is_embedded_once_and_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    seen = Seen()
    found = image_features(a_set(tmp_path, COLOURS), tmp_path, fake_images(seen), folder=tmp_path / "cache", workers=1)
    np.testing.assert_array_equal(found, np.array([[*colour, *colour] for colour in COLOURS], np.float16))
    assert sum(seen.batches) == 40


def test_another_size_is_another_cache(tmp_path: Path) -> None:
    pairs, seen = a_set(tmp_path, COLOURS[:3]), Seen()
    for size in (16, 24, 16):
        image_features(pairs, tmp_path, fake_images(seen, size=size), folder=tmp_path / "cache", workers=1)
    assert seen.opened == 2


@pytest.mark.parametrize("fault", ["gone", "another", "no picture"])
def test_a_picture_that_is_no_longer_what_it_was_is_named(tmp_path: Path, fault: str) -> None:
    pairs = a_set(tmp_path, COLOURS[:5])
    if fault == "gone":
        (tmp_path / "3.png").unlink()
    else:
        (tmp_path / "3.png").write_bytes(b"something else")
    if fault == "no picture":
        pairs.loc[3, "sha256"] = hashlib.sha256(b"something else").hexdigest()
    reason = {"gone": "cannot be read", "another": "not what it was", "no picture": "not a picture"}[fault]
    with pytest.raises(InputError, match=f"picture '3.png' is no longer to be had .*{reason}"):
        image_features(pairs, tmp_path, fake_images(Seen()), folder=tmp_path / "cache", workers=1)


def test_a_tower_that_gives_nan_names_the_picture(tmp_path: Path) -> None:
    tower = fake_images(Seen(), make=lambda square: np.full(6, np.nan if square[0, 0, 0] == 6 else 1.0))
    with pytest.raises(InputError, match="NaN or infinity for picture '2.png'"):
        image_features(a_set(tmp_path, COLOURS[:5]), tmp_path, tower, folder=tmp_path / "cache", workers=1)


CAPTIONS = [[f"{'word ' * (row % 150 % 7)}{row % 150}", f"other {row}"] for row in range(200)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Shards of two batches, computed by towers that `named` finds here; what they were given."""
    seen = Seen()
    monkeypatch.setattr(cache, "BATCHES", 2)
    monkeypatch.setattr(cache, "SECONDS_BETWEEN_LOOKS", 0.0)
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
