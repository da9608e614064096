"""Fetching from Debian's archive, with tiny packages built here instead of downloads."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipmem_core.config import InputError
from clipmem_core.pairs.debian import fetch as debian

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb builds the packages")

OWL = """<svg><Work><title>Barn Owl</title><subject><Bag><li>bird</li></Bag></subject></Work></svg>"""


def picture(path: Path, colour: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), colour).save(path)
    return path.read_bytes()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def build_package(tree: Path, archive: Path) -> None:
    control = (
        f"Package: {archive.stem.split('_')[0]}\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: t\n"
    )
    write(tree / "DEBIAN" / "control", control)
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(archive)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def openclipart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures: with metadata, a link to it in another folder, and one with a broken drawing."""
    archive = tmp_path / "archive"
    archive.mkdir()
    png = tmp_path / "png" / "usr/share/openclipart/png"
    picture(png / "animals/birds/barn_owl_02.png", "white")
    picture(png / "plants/old_tree.png", "green")
    (png / "logos").mkdir()
    (png / "logos/barn_owl_02.png").symlink_to("../animals/birds/barn_owl_02.png")
    (png / "logos/astray.png").symlink_to("/etc/hostname")
    build_package(tmp_path / "png", archive / "openclipart-png_1_all.deb")
    svg = tmp_path / "svg" / "usr/share/openclipart/svg"
    write(svg / "animals/birds/barn_owl_02.svg", OWL)
    write(svg / "plants/old_tree.svg", "<svg><Work><title>Tree</svg>")
    build_package(tmp_path / "svg", archive / "openclipart-svg_1_all.deb")
    stand_in(archive, monkeypatch)
    return tmp_path / "data"


@pytest.fixture
def tuxpaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stamps with a text, a mirror image, only a translation, only a drawing."""
    archive = tmp_path / "archive"
    archive.mkdir()
    stamps = tmp_path / "tree" / "usr/share/tuxpaint/stamps"
    for name in ("food/apple", "food/apple_mirror", "town/oldHouse", "town/tree"):
        picture(stamps / f"{name}.png", "red")
    write(stamps / "food/apple.txt", "A  “red” apple.\nde.utf8=Ein Apfel.\n")
    write(stamps / "town/tree.txt", "de.utf8=Ein Baum.\n")
    write(stamps / "food/pear.svg", "<svg/>")
    write(stamps / "food/apple.svg", "<svg/>")
    build_package(tmp_path / "tree", archive / "tuxpaint-stamps-default_1_all.deb")
    stand_in(archive, monkeypatch)
    return tmp_path / "data"


def stand_in(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(package: str, folder: Path) -> Path:
        return Path(shutil.copy(archive / f"{package}_1_all.deb", folder))

    monkeypatch.setattr(debian, "download", download)
    monkeypatch.setattr(debian, "_require_tools", lambda name: None)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").split("\n")[:-1]]


@needs_dpkg
def test_openclipart_becomes_pictures_and_captions_sorted_by_path(openclipart: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = debian.fetch("openclipart", data=openclipart, report=lines.append)
    assert folder == openclipart / "sets" / "openclipart"
    assert rows(folder) == [
        {"image": "images/animals/birds/barn_owl_02.png", "captions": ["Barn Owl bird"], "label": "animals"},
        {"image": "images/logos/barn_owl_02.png", "captions": ["barn owl"], "label": "logos"},
        {"image": "images/plants/old_tree.png", "captions": ["old tree"], "label": "plants"},
    ]
    assert lines[0] == "downloading 1/2: openclipart-png"
    assert "left out 1 links to pictures that are not in the package" in lines
    assert lines[-2:] == ["captions 3 of 3", f"{folder}: 3 pictures"]
    original = tmp_path / "png/usr/share/openclipart/png/animals/birds/barn_owl_02.png"
    link = folder / "images/logos/barn_owl_02.png"
    assert link.read_bytes() == original.read_bytes()
    assert not link.is_symlink()
    assert {path.name for path in openclipart.joinpath("sets").iterdir()} == {"openclipart", ".openclipart.lock"}
    assert not list(openclipart.rglob("*.deb"))


@needs_dpkg
def test_pictures_are_copied_where_links_are_impossible(openclipart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = debian.fetch("openclipart", data=openclipart, report=lambda line: None)
    with Image.open(folder / "images/logos/barn_owl_02.png") as copied:
        assert copied.size == (3, 2)


@needs_dpkg
def test_a_second_fetch_changes_nothing_and_a_new_one_writes_the_same_bytes(openclipart: Path) -> None:
    first = debian.fetch("openclipart", data=openclipart, report=lambda line: None)
    captions = (first / "captions.jsonl").read_bytes()
    lines: list[str] = []
    debian.fetch("openclipart", data=openclipart, report=lines.append)
    assert lines == [f"{first}: 3 pictures"]
    again = debian.fetch("openclipart", data=openclipart.with_name("other"), report=lambda line: None)
    assert (again / "captions.jsonl").read_bytes() == captions


@needs_dpkg
def test_an_interrupted_fetch_leaves_nothing_and_a_killed_one_is_cleaned_up(openclipart: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("captions"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        debian.fetch("openclipart", data=openclipart, report=interrupt)
    assert [path.name for path in openclipart.joinpath("sets").iterdir()] == [".openclipart.lock"]
    write(openclipart / "sets/.openclipart.partial-1/openclipart/captions.jsonl", "left by a kill")
    assert len(rows(debian.fetch("openclipart", data=openclipart, report=lambda line: None))) == 3
    assert not (openclipart / "sets/.openclipart.partial-1").exists()


@needs_dpkg
def test_stamps_take_their_english_text_and_else_their_name(tuxpaint: Path) -> None:
    lines: list[str] = []
    folder = debian.fetch("tuxpaint", data=tuxpaint, report=lines.append)
    assert rows(folder) == [
        {"image": "images/food/apple.png", "captions": ["A “red” apple."], "label": "food"},
        {"image": "images/food/apple_mirror.png", "captions": ["A “red” apple."], "label": "food"},
        {"image": "images/town/oldHouse.png", "captions": ["old House"], "label": "town"},
        {"image": "images/town/tree.png", "captions": ["tree"], "label": "town"},
    ]
    assert "left out 1 stamps that are SVG only" in lines


@needs_dpkg
def test_a_package_with_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tree/usr/share/other/a.txt", "nothing")
    build_package(tmp_path / "tree", tmp_path / "tuxpaint-stamps-default_1_all.deb")
    stand_in(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="no pictures below stamps/ in the package.*scenes"):
        debian.fetch("tuxpaint", data=tmp_path / "data", report=lambda line: None)
    write(tmp_path / "tuxpaint-stamps-default_1_all.deb", "half a down")
    stand_in(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="tuxpaint-stamps-default cannot be unpacked .*fetch again"):
        debian.fetch("tuxpaint", data=tmp_path / "data", report=lambda line: None)
    assert not list((tmp_path / "data").rglob("*.deb"))


def test_an_unknown_set_and_a_machine_without_apt_are_refused_with_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="data set 'imagenet' is unknown: choose one of openclipart, tuxpaint"):
        debian.fetch("imagenet", data=tmp_path, report=print)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(InputError, match="needs apt-get and dpkg-deb, found on Debian and Ubuntu only: .*`scenes`"):
        debian.fetch("tuxpaint", data=tmp_path, report=print)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_finished_set_is_not_touched(tuxpaint_tools: Path) -> None:
    write(tuxpaint_tools / "sets/tuxpaint/mine.txt", "mine")
    with pytest.raises(InputError, match="tuxpaint is there but has no captions.jsonl: move it away"):
        debian.fetch("tuxpaint", data=tuxpaint_tools, report=print)
    assert (tuxpaint_tools / "sets/tuxpaint/mine.txt").read_text() == "mine"


def test_a_data_folder_that_cannot_be_made_is_named(tuxpaint_tools: Path) -> None:
    write(tuxpaint_tools, "a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written .*set CLIPMEM_DATA to another folder"):
        debian.fetch("tuxpaint", data=tuxpaint_tools, report=print)


@pytest.fixture
def tuxpaint_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(debian, "_require_tools", lambda name: None)
    return tmp_path / "data"
