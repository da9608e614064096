"""Pictures are decoded once, cached, and have the same squares from the cache and from their
files."""

import errno
import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pebble import ProcessPool
from PIL import Image

from clipmem_core.dataset import pictures
from clipmem_core.dataset.pictures import (
    Fact,
    Pixels,
    check_picture,
    check_pictures,
    read_square,
)
from clipmem_core.utils.io import shortage

IMAGES = ["a.png", "turned.jpg", "broken.png", "sub/clear.png", "a.png", "missing.png"]
GOOD = np.array([0, 1, 3, 4])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set that no test changes, with its cache beside it."""
    folder = tmp_path_factory.mktemp("pixels") / "set"
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a.png")
    picture.save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:500])
    picture.convert("RGBA").rotate(30, expand=True).save(folder / "sub" / "clear.png")
    check(folder)
    return folder


@pytest.fixture
def root(shared: Path, tmp_path: Path) -> Path:
    """Copy the data set and make its cache."""
    root = Path(shutil.copytree(shared, tmp_path / "copy" / "set"))
    check(root)
    return root


def check(
    root: Path, *, budget: int = 1 << 20, images: list[str] = IMAGES, **options: Any
) -> tuple[pd.DataFrame, Pixels]:
    """Check the pictures into a cache beside them."""
    settings = {"size": 24, "resize_mode": "shortest", **options}
    cache = root.parent / ("cache" if budget else "streamed")
    return check_pictures(root, images, cache=cache, budget_bytes=budget, **settings)


def calls(root: Path, **options: Any) -> int:
    """Return how often progress was reported: never, when nothing is decoded."""
    reports: list[int] = []
    check(root, progress=lambda done, total: reports.append(done), **options)
    return len(reports)


def test_facts_and_squares_match_the_files(shared: Path) -> None:
    facts, pixels = check(shared)
    assert facts["width"].tolist() == [300, 200, 0, facts["width"][3], 300, 0]
    assert facts["height"].tolist()[:3] == [200, 300, 0]
    expected = [hashlib.sha256((shared / image).read_bytes()).hexdigest() for image in IMAGES[:5]]
    assert facts["sha256"].tolist() == [*expected, ""]
    assert facts["reason"][GOOD].isna().all()
    assert "truncated" in facts["reason"][2]
    assert "missing.png" in facts["reason"][5]
    squares = pixels.gather(np.array([3, 0]))
    for square, image in zip(squares, ("sub/clear.png", "a.png"), strict=True):
        assert np.array_equal(square, read_square(shared, image, size=24, resize_mode="shortest"))


def test_a_cache_is_reused_unless_an_input_changes(root: Path) -> None:
    check(root)
    assert calls(root) == 0
    assert calls(root, resize_mode="squash") > 0
    assert calls(root, images=IMAGES[:3]) > 0
    Image.new("RGB", (7, 7)).save(root / "broken.png")
    assert calls(root) > 0
    assert check(root)[0]["width"][2] == 7


def crash(image: str, **settings: Any) -> tuple[Fact, bytes]:
    """Check a picture, but crash as a decoder in C would on one of them."""
    if image == "turned.jpg":
        os.kill(os.getpid(), signal.SIGSEGV)
    return check_picture(image, **settings)


def test_a_picture_whose_decoder_crashes_is_listed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "set"))
    monkeypatch.setattr(pictures, "ProcessPool", ProcessPool)
    monkeypatch.setattr(pictures, "check_picture", crash)
    facts, pixels = check(root)
    assert facts["reason"][1] == "its decoder crashed"
    assert not pixels.gather(np.array([1])).any()
    expected, squares = check(shared)
    pd.testing.assert_frame_equal(facts.drop(index=1), expected.drop(index=1))
    others = np.array([0, 3, 4])
    assert np.array_equal(pixels.gather(others), squares.gather(others))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError()])
def test_a_shortage_marks_no_picture(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "set"))

    def run_out(folder: Path, image: str) -> bytes:
        if image == "turned.jpg":
            raise error
        return (folder / image).read_bytes()

    monkeypatch.setattr(pictures, "read_bytes", run_out)
    with pytest.raises((OSError, MemoryError)) as caught:
        check(root, images=IMAGES[:2])
    assert shortage(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
