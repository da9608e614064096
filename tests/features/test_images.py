"""Pictures through a locked tower: decoded from their own files, each different one once."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.config import InputError
from clipmem_core.features.embed import image_features
from tests.features.made_towers import Seen, fake_images


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
