"""OpenClipart from tiny packages that the tests build, and its captions."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.bench.openclipart import (
    PACKAGES,
    DublinCore,
    fetch_openclipart,
    read_dublin_core,
)

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb builds the packages"
)

OWL = (
    """<svg><Work><title>Barn Owl</title><subject><Bag><li>bird</li></Bag></subject></Work></svg>"""
)


def write(path: Path, content: str | bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (3, 2), "red").save(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of a fake apt-get, with three pictures."""
    png, svg = (
        tmp_path / f"openclipart-{kind}/usr/share/openclipart/{kind}" for kind in ("png", "svg")
    )
    write(png / "animals/birds/barn_owl_02.png")
    write(png / "plants/old_tree.png")
    (png / "logos").mkdir()
    (png / "logos/barn_owl_02.png").symlink_to("../animals/birds/barn_owl_02.png")
    (png / "logos/astray.png").symlink_to("/etc/hostname")
    write(svg / "animals/birds/barn_owl_02.svg", OWL)
    write(svg / "plants/old_tree.svg", "<svg><Work><title>Tree</svg>")
    for package in PACKAGES:
        build(tmp_path / package, tmp_path / "archive")
    write(
        tmp_path / "bin/apt-get",
        f'#!/bin/sh\nfor last; do :; done; cp {tmp_path}/archive/"$last"_1_all.deb .\n',
    )
    (tmp_path / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "archive"


def build(tree: Path, archive: Path) -> None:
    """Build a package out of a folder that is named after it."""
    archive.mkdir(exist_ok=True)
    control = (
        f"Package: {tree.name}\nVersion: 1\nArchitecture: all\nMaintainer: A "
        "<a@b.c>\nDescription: t\n"
    )
    write(tree / "DEBIAN" / "control", control)
    command = [
        "dpkg-deb",
        "--root-owner-group",
        "-Znone",
        "--build",
        tree,
        archive / f"{tree.name}_1_all.deb",
    ]
    subprocess.run(command, check=True, capture_output=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").split("\n")[:-1]
    ]


@needs_dpkg
def test_openclipart_becomes_pictures_and_captions_sorted_by_path(
    archive: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    folder = fetch_openclipart(tmp_path / "data", lines.append)
    assert folder == tmp_path / "data/sets/openclipart"
    assert rows(folder) == [
        {
            "image": "images/animals/birds/barn_owl_02.png",
            "captions": ["Barn Owl bird"],
            "label": "animals",
        },
        {"image": "images/logos/barn_owl_02.png", "captions": ["barn owl"], "label": "logos"},
        {"image": "images/plants/old_tree.png", "captions": ["old tree"], "label": "plants"},
    ]
    copied = folder / "images/logos/barn_owl_02.png"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (folder / "images/animals/birds/barn_owl_02.png").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["openclipart"]
    assert len(lines) == 3
    fetch_openclipart(tmp_path / "data", lines.append)
    assert len(lines) == 3  # nothing is fetched twice


def test_entities_are_never_expanded_nor_files_that_they_name_opened() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    titles = {
        f'[<!ENTITY l0 "ha">{laughs}]': "&l11;",
        '[<!ENTITY file SYSTEM "file:///etc/hostname">]': "&file;",
    }
    for entities, title in titles.items():
        svg = f'<!DOCTYPE svg {entities}><Work a="{title}"><title>{title}</title></Work>'
        assert read_dublin_core(svg.encode()) == DublinCore()
