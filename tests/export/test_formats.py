"""Exports: read back unchanged, complete or missing, replaced only with --overwrite."""

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core import open_audit
from clipmem_core.auditing.folder.prepare import DataSet, load_data_set
from clipmem_core.auditing.folder.store import CAPTION_TABLE, MANIFEST, PAIRS
from clipmem_core.cli import main, parse_command
from clipmem_core.export.cleaned import clean
from clipmem_core.export.formats import CERTIFICATE, FORMATS, Summary, export_audit
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.review.log import Choice
from clipmem_core.review.progress_and_repair import review_order
from clipmem_core.scores.registry import EXPORT_SCORES
from clipmem_core.utils.io import InputError
from tests.export.sources import audited, make_source
from tests.fixtures import Copy, caption_rows, rewrite

NEW = ["new, and\t“better”", 'second\n"line"']


def counts(summary: Summary) -> list[int]:
    return list(map(int, re.findall("[0-9]+", summary.line)))


def read_back(summary: Summary) -> DataSet:
    """Read what the printed command names, as an audit would."""
    words = shlex.split(summary.command)
    assert words[:3] == ["python", "-m", "clipmem_core"]
    command = parse_command(words[3:])
    assert (command.config.preset, command.config.protocol) == ("tiny", "paper")
    return load_data_set(command.source, command.config)


@pytest.mark.parametrize(
    ("kind", "out"),
    [("folder", "clean.csv"), ("csv", "clean.csv"), ("tar", "clean.json"), ("tar", "images v1.0")],
)
def test_a_cleaned_data_set_is_read_back_as_it_was_written(
    kind: str, out: str, tmp_path: Path, data: Path
) -> None:
    audit = audited(make_source(kind, tmp_path / "a set" / kind), protocol="paper")
    ids = audit.pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide([ids[1], ids[4], "nowhere"], REMOVE)
    review.decide([ids[5]], RECAPTION, captions=[f" {NEW[0]} ", NEW[1], NEW[0], ""])
    review.decide([ids[2]], "keep", note="fine")
    expected = audit.pairs.drop(index=[1, 4])
    expected.at[5, "captions"] = NEW
    expected.at[0, "captions"] = list(audit.pairs["captions"][0][:1])
    format = {".csv": "csv", ".json": "coco"}.get(Path(out).suffix, "imagefolder")
    review.decide([ids[0]], RECAPTION, captions=audit.pairs["captions"][0][:1])

    def decide(done: int, total: int) -> None:  # while pictures are extracted
        review.decide([ids[7]], REMOVE)

    summary = export_audit(audit, format, tmp_path / "out folder" / out, progress=decide)
    assert counts(summary) == [8, 5, 2, 1, 1]
    assert any("1 unusable" in note for note in summary.notes) == (kind == "csv")
    back = read_back(summary)
    assert back.quarantine.empty
    for column in ("pair_id", "label", "sha256", "width", "height"):
        assert back.pairs[column].fillna("").tolist() == expected[column].fillna("").tolist()
    assert list(map(list, back.pairs["captions"])) == list(map(list, expected["captions"]))
    written = {path.name for path in (tmp_path / "out folder").iterdir()}
    assert written - {out, CERTIFICATE} == ({"clean_images"} if out == "clean.json" else set())


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_pictures_with_texts_are_read_back_with_the_same_captions(
    kind: str, tmp_path: Path, data: Path
) -> None:
    audit = audited(make_source(kind, tmp_path / kind), protocol="paper")
    open_review(audit).decide([audit.pairs["pair_id"][1]], REMOVE)
    back = read_back(export_audit(audit, "folder", tmp_path / "out")).pairs.set_index("sha256")
    expected = audit.pairs.drop(index=[1]).set_index("sha256")
    assert set(back.index) == set(expected.index)
    for sha256, captions in expected["captions"].items():
        lines = [" ".join(map(str.strip, text.splitlines())) for text in captions]
        assert list(back["captions"][sha256]) == lines
    if kind == "folder":  # paths, and with them ids, are those of the data set
        for column in ("pair_id", "label"):
            assert back[column].to_dict() == expected[column].to_dict()


# datacomp takes other ids: test_writers has it
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "datacomp"])
def test_every_format_is_complete_and_replaces_only_with_overwrite(
    format: str, copy: Copy, tmp_path: Path
) -> None:
    audit = copy()
    out = tmp_path / "out"
    about = FORMATS[format]
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide(ids[:3], REMOVE)
    open_review(audit).decide(ids[3:5], RECAPTION, captions=["new"])
    for suffix in about.suffixes:
        path = out / f"it{suffix}"
        summary = export_audit(audit, format, path)
        own = {"decisions": [5], "html": [100]}
        assert counts(summary) == own.get(format, [97, 95, 3, 0, 2])
        mark = path / "metadata.jsonl" if about.is_folder else path
        mark.write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            export_audit(audit, format, path)
        assert mark.read_text() == "mine"
    export_audit(audit, format, path, overwrite=True)
    assert not mark.exists() or mark.read_bytes() not in (b"", b"mine")
    assert not list(out.glob(".*"))
    (audit.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="audit 'made' is not finished"):
        export_audit(audit, format, tmp_path / f"new{about.suffixes[0]}")


def test_only_what_an_export_wrote_is_replaced(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    for name in ("clean", ".clean.old", ".clean.unfinished", "clean_images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.png").write_text("mine")
        for format, out in (("coco", "clean.json"), ("folder", "clean")):
            if name.endswith("images") == (format == "coco"):
                with pytest.raises(
                    InputError, match=f"{name} has other files than an export: move it"
                ):
                    export_audit(audit, format, tmp_path / out, overwrite=True)
        assert [path.name for path in (tmp_path / name).iterdir()] == ["mine.png"]
        (tmp_path / name / "mine.png").unlink()
    with pytest.raises(InputError, match="clean_images exists already"):
        export_audit(audit, "coco", tmp_path / "clean.json")
    for _ in range(2):
        export_audit(audit, "coco", tmp_path / "clean.json", overwrite=True)
        assert sorted(path.name for path in (tmp_path / "clean_images").glob("[!.]*")) == [
            f"{at:08d}.{'png' if at % 3 else 'jpg'}" for at in range(10)
        ]


# Exports and dies after the first picture.
EXPORT_SCRIPT = """
import os, signal, sys
from pathlib import Path
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.export.formats import export_audit

def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)

export_audit(Audit.open("mine"), sys.argv[2], Path(sys.argv[1]), progress=die)
"""


def test_a_certificate_lists_the_random_checks_and_replaces_no_other_file(
    copy: Copy, tmp_path: Path
) -> None:
    audit = copy()
    export_audit(audit, "html", tmp_path / "before.html")
    written = json.loads((tmp_path / CERTIFICATE).read_text())
    assert written["statement"]
    assert (written["checks"], written["share"], written["most_wrong"]) == (0, None, None)
    drawn = audit.pairs["pair_id"][review_order(audit).drawn[:25]].tolist()
    open_review(audit).decide(drawn[:1], REMOVE)
    open_review(audit).decide(drawn[1:], "keep")
    export_audit(audit, "csv", tmp_path / "clean.csv")
    written = json.loads((tmp_path / CERTIFICATE).read_text())
    assert [draw["pair_id"] for draw in written["draws"]] == drawn
    assert [draw["wrong"] for draw in written["draws"]] == [True] + [False] * 24
    bound = open_audit(audit.name).progress().certificate
    assert (written["most_wrong"], written["kept"]) == (bound.most, bound.kept)
    assert 0.05 < written["share"] < 0.5
    (tmp_path / CERTIFICATE).write_text("{}")
    with pytest.raises(InputError, match=CERTIFICATE):
        export_audit(audit, "html", tmp_path / "report.html", overwrite=True)


@pytest.mark.parametrize("out", ["o.csv", "folder"])
def test_the_files_of_a_killed_export_are_removed_by_the_next(
    out: str, tmp_path: Path, data: Path
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    format = "csv" if "." in out else out
    path = tmp_path / "out" / out
    killed = subprocess.run([sys.executable, "-c", EXPORT_SCRIPT, str(path), format])
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert list(path.parent.glob(".*"))
    export_audit(audit, format, path)
    assert len(list(path.parent.rglob("*.[jp][pn]g"))) == len(audit.pairs)
    assert not [each for each in path.parent.glob(".*") if each.is_dir()]


def test_an_export_makes_no_folder_outside_of_the_data_folder(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audited(make_source("csv", tmp_path / "set"))
    arguments = ["export", "mine", "--format", "csv", "--out"]
    assert main([*arguments, str(tmp_path.parent / "nowhere/it.csv")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path.parent / "nowhere").exists()


@pytest.mark.parametrize("text", ["=1+1", "\r=1", "a=1", ""])
def test_no_cell_of_the_decisions_begins_as_a_formula_does(
    text: str, copy: Copy, tmp_path: Path
) -> None:
    audit = copy()
    rewrite(audit.folder / PAIRS, audit.pairs.assign(label=text or None))
    pair_id = audit.pairs["pair_id"][0]
    captions = [f"{text} new"]
    review = open_review(audit)
    review.decide([pair_id, f"{text} id"], RECAPTION, captions=captions, note=text, audit=text)
    export_audit(audit, "decisions", tmp_path / "it.csv")
    with (tmp_path / "it.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    quote = "" if text in ("a=1", "") else "'"
    for row in rows:
        formulas = [
            name for name, cell in row.items() if cell.startswith(("=", "+", "-", "@", "\r"))
        ]
        assert set(formulas) <= set(EXPORT_SCORES)
        assert (row["note"], row["audit"]) == (quote + text, quote + text)
        assert json.loads(row["captions"]) == [captions[0].strip()]


OWN = ["a frog", "a toad", "a newt in a pond"]
NEW_CAPTIONS = {
    "images/020.png": ["a frog", "a newt in a pond"],
    "images/021.png": ["a frog", "a treefrog", "a newt in a pond"],
}


@pytest.mark.parametrize("name", ["decisions.csv", "decisions.parquet"])
def test_decisions_have_old_and_new_captions_and_the_scores_of_each(
    copy: Copy, tmp_path: Path, name: str
) -> None:
    audit = copy()
    path = tmp_path / name
    pairs = audit.pairs.set_index("pair_id", drop=False)
    for pair_id in NEW_CAPTIONS:
        pairs.at[pair_id, "captions"] = OWN
    rewrite(audit.folder / PAIRS, pairs)
    scores = caption_rows(audit)
    place = scores["caption"]
    scores = scores.assign(similarity_out=place / 4, p_wrong=place.where(place > 0) / 4)
    rewrite(audit.folder / CAPTION_TABLE, scores)
    edits = {pair_id: Choice(None, tuple(captions)) for pair_id, captions in NEW_CAPTIONS.items()}
    open_review(audit).decide_each(edits)
    export_audit(audit, "decisions", path)
    read = pd.read_parquet if path.suffix == ".parquet" else pd.read_csv
    table = read(path).set_index("pair_id")

    def listed(pair_id: str, column: str) -> list[object]:
        value = table.at[pair_id, column]
        values = json.loads(value) if isinstance(value, str) else value
        return [None if pd.isna(each) else each for each in values]

    for pair_id, captions in NEW_CAPTIONS.items():
        assert (listed(pair_id, "captions"), listed(pair_id, "own_captions")) == (captions, OWN)
    assert listed("images/020.png", "similarity_out_by_caption") == [0, 0.25, 0.5]
    assert listed("images/020.png", "p_wrong_by_caption") == [None, 0.25, 0.5]
    assert table["word_changes"][list(NEW_CAPTIONS)].tolist() == [
        "a frog [/ a toad → –] / a newt in a pond",
        "a frog / a [toad → treefrog] / a newt in a pond",
    ]
    cleaned = clean(audit).pairs.set_index("pair_id")["captions"]
    assert cleaned[list(NEW_CAPTIONS)].to_dict() == NEW_CAPTIONS
