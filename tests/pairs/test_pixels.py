"""Pictures are decoded once, kept, and come back the same from the file and from their own bytes."""

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

from clipmem_core.io import shortage
from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.pairs.pixels import Pixels, check_pictures, open_pixels
from clipmem_core.pairs.workers import map_chunks

Meet = Callable[[str], None]
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
    """Check the pictures with one process into a cache beside them."""
    asked = {"size": 24, "resize_mode": "shortest", "workers": 1, **options}
    cache = root.parent / ("cache" if budget else "streamed")
    return check_pictures(root, images, cache=cache, budget_bytes=budget, **asked)


def calls(root: Path, **options: Any) -> int:
    """Return how often progress was reported: never, when nothing is decoded."""
    seen: list[tuple[int, int]] = []
    check(root, progress=lambda done, total: seen.append((done, total)), **options)
    return len(seen)


def test_facts_and_squares_are_those_of_the_files(shared: Path) -> None:
    facts, _ = check(shared)
    assert facts["width"].tolist() == [300, 200, 0, facts["width"][3], 300, 0]
    assert facts["height"].tolist()[:3] == [200, 300, 0]
    assert facts["width"][3] > 300
    expected = [hashlib.sha256((shared / image).read_bytes()).hexdigest() for image in IMAGES[:5]]
    assert facts["sha256"].tolist() == [*expected, ""]
    assert [facts["reason"][row] for row in GOOD] == [None] * 4
    assert "truncated" in facts["reason"][2]
    assert "missing.png" in facts["reason"][5]
    _, pixels = check(shared)
    assert len(pixels) == len(IMAGES)
    assert pixels.size == 24
    squares = pixels.gather(np.array([3, 0, 0]))
    expected = [resize(decode((shared / IMAGES[row]).read_bytes(), size=24), 24, "shortest") for row in (3, 0, 0)]
    assert np.array_equal(squares, expected)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_streamed_and_cached_squares_are_the_same_bytes(shared: Path, mode: str) -> None:
    _, streamed = check(shared, budget=0, resize_mode=mode)
    assert streamed.stored is None
    assert not (streamed.folder / "pixels.npy").exists()
    _, cached = check(shared, resize_mode=mode)
    assert cached.stored is not None
    with pytest.raises(PictureError, match=r"broken\.png: truncated"):
        streamed.gather(np.array([0, 2]))
    rows = GOOD[[2, 0, 1, 1, 3]]
    assert cached.gather(rows).tobytes() == streamed.gather(rows).tobytes()
    assert np.array_equal(cached.descriptors(), streamed.descriptors())


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_selection_is_addressed_from_zero_and_opens_again_elsewhere(shared: Path, budget: int) -> None:
    _, pixels = check(shared, budget=budget)
    some = pixels.select(GOOD).select(np.array([1, 2]))
    assert len(some) == 2
    assert np.array_equal(some.gather(np.array([1, 0])), pixels.gather(np.array([3, 1])))
    again = open_pixels(some.folder, rows=some.rows, root=shared, images=["turned.jpg", "sub/clear.png"])
    assert np.array_equal(again.gather(np.arange(2)), some.gather(np.arange(2)))
    assert np.array_equal(again.descriptors(), pixels.descriptors()[[1, 3]])
    facts, none = check(shared, images=[], budget=budget)
    assert len(facts) == len(none) == 0
    assert none.descriptors().shape == (0, 768)
    assert none.gather(np.arange(0)).shape == (0, 24, 24, 3)


def test_a_cache_is_used_again_and_made_anew_for_what_changes_it(root: Path) -> None:
    first, pixels = check(root)
    assert calls(root) == 0
    pd.testing.assert_frame_equal(check(root)[0], first)
    (pixels.folder / "pixels.npy").unlink()  # as a run with a smaller budget leaves it
    assert calls(root) > 0
    assert calls(root, size=16) > 0
    assert calls(root, resize_mode="squash") > 0
    assert calls(root, images=IMAGES[:3]) > 0
    Image.new("RGB", (7, 7)).save(root / "broken.png")
    assert calls(root) > 0
    assert check(root)[0]["width"][2] == 7


@pytest.mark.parametrize("name", ["pixels.npy", "descriptors.npy", "facts.parquet", "cache.json"])
def test_a_damaged_cache_is_named_and_made_anew(root: Path, name: str) -> None:
    first, pixels = check(root)
    whole = {path.name: path.read_bytes() for path in pixels.folder.iterdir()}
    (pixels.folder / name).write_bytes(whole[name][:20])
    said: list[str] = []
    again, _ = check(root, say=said.append)
    assert [str(pixels.folder / name) in line for line in said] == [True]
    pd.testing.assert_frame_equal(again, first)
    assert {path.name: path.read_bytes() for path in pixels.folder.iterdir()} == whole
    assert calls(root) == 0


# Runs in every worker process before anything else; SHORT is what happens when turned.jpg is opened.
STARTUP = """
import os, resource, signal, sys
from pathlib import Path

def memory(spare):
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + spare, -1))

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("turned.jpg"):
        SHORT

sys.addaudithook(hook)
"""
SHORTAGES = {
    "no room for a file": "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1))",
    "no memory": "memory(64 << 20)",
    "killed for memory": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def workers_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let something happen to every worker process that opens turned.jpg."""
    (tmp_path / "startup").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "startup"), prepend=os.pathsep)
    monkeypatch.setattr("clipmem_core.pairs.pixels.map_chunks", map_chunks)

    def prepare(what: str) -> None:
        startup = STARTUP.replace("SHORT", SHORTAGES.get(what, what))
        (tmp_path / "startup" / "sitecustomize.py").write_text(startup)

    return prepare


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks at a process's memory through /proc")
@pytest.mark.parametrize("what", SHORTAGES)
def test_a_shortage_is_no_fact_of_a_picture(shared: Path, tmp_path: Path, workers_meet: Meet, what: str) -> None:
    facts, pixels = check(shared)
    Image.new("RGB", (8000, 8000)).save(tmp_path / "wide.png")  # 192 MB when it is decoded
    root = Path(shutil.copytree(shared, tmp_path / "set"))
    images = [*IMAGES, "wide.png"] if what == "no memory" else IMAGES
    (tmp_path / "wide.png").rename(root / "wide.png")
    workers_meet(what)
    with pytest.raises((OSError, MemoryError)) as error:
        check(root, images=images)
    assert shortage(error.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    workers_meet("pass")
    again, squares = check(root, images=images)
    pd.testing.assert_frame_equal(again[: len(IMAGES)], facts)
    assert again["reason"].isna().sum() == len(images) - 2  # broken.png and missing.png
    assert np.array_equal(squares.gather(GOOD), pixels.gather(GOOD))


def test_a_picture_that_a_process_crashes_on_is_set_aside(shared: Path, tmp_path: Path, workers_meet: Meet) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "set"))
    workers_meet("os.kill(os.getpid(), signal.SIGSEGV)")
    facts, _ = check(root)
    assert "crashed" in facts["reason"][1]
    assert facts["reason"].isna().tolist() == [True, False, False, True, True, False]


def test_an_interruption_leaves_no_cache_and_what_a_kill_left_is_replaced(root: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    _, pixels = check(root)
    left = pixels.folder.with_name(f"{pixels.folder.name}.part")
    shutil.move(pixels.folder, left)
    (left / "cache.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        check(root, progress=stop)
    assert [path.suffix for path in (root.parent / "cache").iterdir()] == [".lock"]
    seen: list[tuple[int, int]] = []
    check(root, images=["a.png"] * 40, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (40, 40)
