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
    write_captions,
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


DRAWING = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE svg [<!ENTITY ns_dc "http://purl.org/dc/elements/1.1/">]>
<svg xmlns:cc="http://web.resource.org/cc/" xmlns:dc="&ns_dc;" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <title>a drawing's own title</title>
  <metadata><rdf:RDF><cc:Work rdf:about="">
    <dc:title>Grande chouette d'été</dc:title>
    <dc:description>Sits on
      a wall.</dc:description>
    <other:subject><rdf:Bag><rdf:li>bird</rdf:li><rdf:li></rdf:li><rdf:li>night</rdf:li></rdf:Bag></other:subject>
    <dc:creator><cc:Agent><dc:title>Ann Lee</dc:title></cc:Agent></dc:creator>
  </cc:Work></rdf:RDF></metadata>
  {rest}
</svg>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_fields_before_any_fault_are_read_in_any_declared_encoding(encoding: str) -> None:
    expected = DublinCore(
        "Grande chouette d'été", "Sits on a wall.", ["bird", "night"], ["Ann Lee"]
    )
    for rest in ('<path d="M 0 0"/>', "<path d=></wrong>"):
        svg = DRAWING.format(encoding=encoding, rest=rest).encode(encoding)
        assert read_dublin_core(svg) == expected
    for svg in (b"", b"\x89PNG\r\n", b"<svg><Work><title>Owl</svg>", b"<?xml encoding='x'?><a/>"):
        assert read_dublin_core(svg) == DublinCore()


def test_entities_are_never_expanded_nor_files_that_they_name_opened() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    titles = {
        f'[<!ENTITY l0 "ha">{laughs}]': "&l11;",
        '[<!ENTITY file SYSTEM "file:///etc/hostname">]': "&file;",
    }
    for entities, title in titles.items():
        svg = f'<!DOCTYPE svg {entities}><Work a="{title}"><title>{title}</title></Work>'
        assert read_dublin_core(svg.encode()) == DublinCore()


def caption(
    name: str, title: str = "", description: str = "", keywords: str = "", artist: str = ""
) -> str:
    core = DublinCore(title, description, keywords.split(","), [artist] if artist else [])
    return write_captions([(name, core)])[0]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # title, then name, then keywords, then description, and no word twice
        (
            (
                "barn_owl_on_wall_03",
                "Barn Owl",
                "A white owl at night. Drawn in 2004.",
                "owls,night_birds,Bird",
            ),
            "Barn Owl wall night birds white",
        ),
        # words of names without versions and running numbers; an abbreviated one is part of the
        # title
        (("sleepingCat2_v0.1-small_03",), "sleeping Cat small"),
        (("hotel_laundry_serv_01", "Hotel Laundry Service"), "Hotel Laundry Service"),
        # boilerplate of titles, and titles without information
        (("x", "Clipart by Ann Lee - Germany - Bavaria", "", "", "Ann Lee"), "Germany Bavaria"),
        (("x", "Part of the Flat Icon Collection (Wed Aug 25 23:29:46 2004)"), "Flat Icon"),
        (("x", "Dog&#39;s house 01"), "Dog's house"),
        *((("grey_cat_01", title), "grey cat") for title in ("", "Various Cliparts")),
        # the artist at the end of a name
        (
            ("cavallo_architetto_franc_01", "Cavallo", "", "", "Architetto Francesco Rossi"),
            "Cavallo",
        ),
        (("chapeau_celine_b_02", "", "", "", "Céline Bois"), "chapeau"),
        (
            (
                "cat",
                "",
                "",
                "hash,hash(0x8a3ecd4),0x8b754fc,unsorted,ann lee,11,clip art,pet",
                "Ann Lee",
            ),
            "cat pet",
        ),
    ],
)
def test_a_caption_starts_with_distinctive_words(facts: tuple[str, ...], expected: str) -> None:
    assert caption(*facts) == expected


def test_a_shared_title_comes_after_the_name_unless_the_names_are_numbered() -> None:
    core = DublinCore("gramastar", "One of a large family of shapes.", ["shape"])
    assert write_captions([(name, core) for name in ("red_star", "blue_star", "green_moon")]) == [
        "red star gramastar shape",
        "blue star gramastar shape",
        "green moon gramastar shape",
    ]
    assert (
        write_captions([(f"horse_0{n}", DublinCore("Cavallo")) for n in range(5)])
        == ["Cavallo horse"] * 5
    )
