"""Pictures are decoded once, cached, and have the same squares from the cache and from their
files."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.dataset.pictures import Pixels, check_pictures, map_chunks, read_square
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
    assert [facts["reason"][row] for row in GOOD] == [None] * 4
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


# Runs in every worker process before anything else; SHORT happens when turned.jpg is opened.
STARTUP = """
import os, resource, signal, sys
from pathlib import Path

def memory(spare):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, -1))

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("turned.jpg"):
        SHORT

sys.addaudithook(hook)
"""


@pytest.fixture
def in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a statement in every worker process that opens turned.jpg."""
    (tmp_path / "startup").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "startup"), prepend=os.pathsep)
    monkeypatch.setattr("clipmem_core.dataset.pictures.map_chunks", map_chunks)

    def prepare(statement: str) -> None:
        (tmp_path / "startup" / "sitecustomize.py").write_text(STARTUP.replace("SHORT", statement))

    return prepare


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads a process's memory in /proc"
)
@pytest.mark.parametrize(
    "statement", ["resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1))", "memory(64 << 20)"]
)
def test_a_shortage_marks_no_picture(
    shared: Path, tmp_path: Path, in_workers: Callable[[str], None], statement: str
) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "set"))
    Image.new("RGB", (8000, 8000)).save(root / "wide.png")  # 192 MB when it is decoded
    in_workers(statement)
    with pytest.raises((OSError, MemoryError)) as error:
        check(root, images=[*IMAGES, "wide.png"])
    assert shortage(error.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_picture_that_a_process_crashes_on_is_unusable(
    shared: Path, tmp_path: Path, in_workers: Callable[[str], None]
) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "set"))
    in_workers("os.kill(os.getpid(), signal.SIGSEGV)")
    facts, _ = check(root, images=IMAGES[:2])
    assert facts["reason"][0] is None
    assert "crashed" in facts["reason"][1]
