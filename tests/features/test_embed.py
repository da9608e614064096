"""Pictures and captions through a locked tower: each different one once, whatever stops it."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.config import DATA_VARIABLE
from clipmem_core.features import embed
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.utils.io import InputError


def of_caption(caption: str) -> np.ndarray:
    """Return the first bytes of a caption's hash: only equal captions have equal features."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:8], np.uint8).astype(np.float32)


def of_square(square: np.ndarray) -> np.ndarray:
    """Return a picture's mean colour and the colour of its first pixel."""
    return np.concatenate([square.mean(axis=(0, 1)), square[0, 0]]).astype(np.float32)


def extractor(
    computed: list[int], make: Callable[[Any], np.ndarray], root: Path = Path(), **facts: Any
) -> FeatureExtractor:
    """Return the extractor of a tower whose tokens are words; it adds the number of different
    inputs of each batch to `computed`."""

    def embed(batch: Sequence[Any]) -> np.ndarray:
        features = np.stack([make(each) for each in batch])
        computed.append(len(np.unique(features, axis=0)))
        return features

    def count_words(captions: Sequence[Any]) -> np.ndarray:
        is_text = facts["kind"] == "text"
        return np.array([len(each.split()) if is_text else 0 for each in captions], np.int32)

    tower = Tower(
        name="fake",
        version="1",
        licence="",
        sha256="0" * 64,
        load=lambda _: Opened(embed, count_words),
        **facts,
    )
    return FeatureExtractor(tower, root)


def texts_by(
    computed: list[int], make: Callable[[str], np.ndarray] = of_caption
) -> FeatureExtractor:
    return extractor(computed, make, kind="text", dim=8, context=6)


def images_by(computed: list[int], root: Path, *, size: int = 16) -> FeatureExtractor:
    return extractor(computed, of_square, root, kind="image", dim=6, size=size)


TEXTS = [
    text
    for i in range(200)
    for text in (f"caption {i} of {'very ' * (i % 5)}many", f"number {i % 40}")
]
COLOURS = [(i * 3, 255 - i * 5, 7) for i in range(40)] + [(0, 255, 7), (9, 240, 7)]


def expected(captions: list[str]) -> np.ndarray:
    return np.stack([of_caption(text) for text in captions])


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two batches, computed on one core."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(embed, "cores", lambda: 1)
    monkeypatch.setattr(embed, "SHARD", {"image": 32, "text": 128})


def a_set(folder: Path, colours: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Draw a picture of each colour and return their table; equal colours have equal bytes."""
    names = [f"{i}.png" for i in range(len(colours))]
    for name, colour in zip(names, colours, strict=True):
        Image.new("RGB", (20, 30), colour).save(folder / name)
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return pd.DataFrame({"image": names, "sha256": hashes})


def test_each_different_caption_is_embedded_once() -> None:
    computed = list[int]()
    texts_by([]).captions(["of another set"])
    for captions in (TEXTS[:100], TEXTS[::-1], TEXTS):
        features = texts_by(computed).captions(captions)
        assert features.dtype == np.float16
        np.testing.assert_array_equal(features[:], expected(captions))
    assert sum(computed) == len(set(TEXTS))
    # `caption 3 of very very very many` has seven words.
    truncated = sum(len(text.split()) > 6 for text in TEXTS)
    assert texts_by(computed).truncated(TEXTS).sum() == truncated > 0
    assert texts_by(computed).captions([]).shape == (0, 8)


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_a_tower_that_gives_no_number_names_the_caption(bad: float) -> None:
    def make(text: str) -> np.ndarray:
        return of_caption(text) if text != "number 7" else np.full(8, bad)

    with pytest.raises(InputError, match="'number 7'"):
        texts_by([], make).captions(TEXTS)


def test_each_different_picture_is_embedded_once_at_each_size(tmp_path: Path) -> None:
    pairs = a_set(tmp_path, COLOURS)
    computed = list[int]()
    for size in (16, 24, 16):
        features = images_by(computed, tmp_path, size=size).images(pairs)
        np.testing.assert_array_equal(features[:], [[*colour, *colour] for colour in COLOURS])
    assert sum(computed) == 2 * 40


@pytest.mark.parametrize("fault", ["cannot be read", "has changed", "not a picture"])
def test_a_picture_that_has_changed_is_named(tmp_path: Path, fault: str) -> None:
    pairs = a_set(tmp_path, COLOURS[:5])
    (tmp_path / "3.png").write_bytes(b"something else")
    if fault == "cannot be read":
        (tmp_path / "3.png").unlink()
    if fault == "not a picture":
        pairs.loc[3, "sha256"] = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(InputError, match=r"'3\.png'"):
        images_by([], tmp_path).images(pairs)


def test_shards_of_a_stopped_run_are_kept(tmp_path: Path) -> None:
    computed = list[int]()
    whole = texts_by(computed)

    def stop_in_second(done: int, total: int) -> None:
        if done > 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(whole, progress=stop_in_second).captions(TEXTS)
    n_before = sum(computed)
    np.testing.assert_array_equal(whole.captions(TEXTS)[:], expected(TEXTS))
    assert sum(computed) - n_before == 240 - 128
    assert not list(tmp_path.rglob(".part"))


@pytest.mark.parametrize("name", ["features.faiss", "keys.parquet"])
def test_damaged_features_are_one_line_that_names_them(tmp_path: Path, name: str) -> None:
    texts_by([]).captions(TEXTS)
    (path,) = tmp_path.rglob(name)
    os.truncate(path, 100)
    with pytest.raises(InputError, match=f"{name} cannot be read .*: delete its folder"):
        texts_by([]).captions(TEXTS)
