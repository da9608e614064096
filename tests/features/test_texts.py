"""Captions through a locked tower: each different one once, whatever stops the work on its way."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError
from clipmem_core.features import embed
from clipmem_core.features.cache import FEATURES_FILE
from clipmem_core.features.embed import TextFeatures, text_features
from tests.features.made_towers import Seen, fake_texts, of_caption

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


def test_progress_ends_where_it_says(tmp_path: Path) -> None:
    calls = list[tuple[int, int]]()
    text_features(MANY, fake_texts(Seen()), folder=tmp_path, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 240)
    assert calls[-1] == (240, 240)
    assert calls == sorted(calls)


def test_what_is_kept_tells_its_tower(tmp_path: Path) -> None:
    found: TextFeatures = text_features(MANY[:3], fake_texts(Seen()), folder=tmp_path)
    (made,) = tmp_path.glob("*/*/features.json")
    told = json.loads(made.read_text())["tower"]
    assert (told["name"], told["sha256"], told["context"], found.cut) == ("fake", "0" * 64, 6, 0)
