import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.store import MANIFEST, PAIRS, write_table
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.exports import FORMATS, formats, write
from clipmem_core.pairs.table import read_source
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from tests.exports.sources import audited, make_source
from tests.made_fixtures import Copy

FILES = [name for name, about in FORMATS.items() if not about.is_folder]


@pytest.mark.parametrize("format", FILES)
def test_every_format_is_written_whole_and_replaces_only_when_asked(format: str, copy: Copy, tmp_path: Path) -> None:
    audit, out = copy(), tmp_path / "out"
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide(ids[:3], REMOVE)
    open_review(audit).decide(ids[3:5], RECAPTION, captions=["new"])
    for suffix in FORMATS[format].suffixes:
        path = out / f"it{suffix}"
        assert write(audit, format, path).line == "97 pairs kept, 3 removed, 2 recaptioned"
        path.write_text("mine")
        with pytest.raises(InputError, match="is there already: take another --out, or replace it with --overwrite"):
            write(audit, format, path)
        assert path.read_text() == "mine"
    write(audit, format, path, overwrite=True)
    assert path.read_bytes() not in (b"", b"mine")
    assert not list(out.glob(".*"))
    (audit.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="audit 'made' is not finished: run it again"):
        write(audit, format, tmp_path / f"it{FORMATS[format].suffix}")


def test_pictures_that_were_written_out_are_replaced_only_when_asked(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    (tmp_path / "clean_images").mkdir()
    (tmp_path / "clean_images/old.png").write_text("old")
    with pytest.raises(InputError, match="clean_images is there already"):
        write(audit, "coco", tmp_path / "clean.json")
    assert (tmp_path / "clean_images/old.png").exists()
    write(audit, "coco", tmp_path / "clean.json", overwrite=True)
    assert len(list((tmp_path / "clean_images").iterdir())) == 10
    assert not (tmp_path / "clean_images/old.png").exists()


def test_what_killed_exports_left_goes_with_the_next_one_and_what_others_work_on_stays(
    tmp_path: Path, data: Path
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    script = (
        "import sys, os, signal; from pathlib import Path; from clipmem_core.audits.store import open_audit;"
        "from clipmem_core.exports import write;"
        "write(open_audit('mine'), 'csv', Path(sys.argv[1]), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    dead = subprocess.run([sys.executable, "-c", script, str(tmp_path / "o.csv")], check=False)
    assert dead.returncode == -signal.SIGKILL
    left = next(tmp_path.glob(".o_images.*"))
    left.rename(left.with_name(f"{left.name}.old"))
    others = [tmp_path / f".o_images.{os.getppid()}", tmp_path / ".p_images.999999999", tmp_path / ".o_images.mine"]
    for folder in (*others, left):
        folder.mkdir()
    write(audit, "csv", tmp_path / "o.csv")
    assert sorted(tmp_path.glob(".[op]_images*")) == sorted(others)


def test_what_fails_halfway_leaves_everything_as_it_was(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    write(audit, "coco", tmp_path / "clean.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("clean*") if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "_annotations", fail)
    open_review(audit).decide([audit.pairs["pair_id"][0]], REMOVE)
    with pytest.raises(InputError, match=r"clean.json cannot be written: No space left on device"):
        write(audit, "coco", tmp_path / "clean.json", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("clean*") if path.is_file()} == before
    assert not list(tmp_path.glob(".clean*"))


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        (
            "xml",
            "it.xml",
            "--format 'xml' is unknown: choose one of csv, coco, folder, imagefolder, wds, datacomp, html, decisions",
        ),
        ("csv", "it.txt", r"--out '.*it.txt' must end in .csv or .tsv for --format csv"),
        ("decisions", "it", r"--out '.*it' must end in .csv or .parquet for --format decisions"),
        ("html", "folder.html", r"folder.html' is a folder: give the file to write"),
        ("html", "file/it.html", r"it.html cannot be written: (Not a directory|File exists)"),
    ],
)
def test_a_wrong_word_is_one_line(format: str, name: str, message: str, copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        write(copy(), format, tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "tar"])
def test_a_data_set_that_is_gone_is_named(kind: str, tmp_path: Path, data: Path) -> None:
    audit = audited(make_source(kind, tmp_path / "set"))
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="the data set's folder .*set is gone: bring it back"):
        write(audit, "csv", tmp_path / "clean.csv")


def test_a_shard_that_is_gone_is_named(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    (tmp_path / "set/shard-1.tar").unlink()
    with pytest.raises(InputError, match=r"picture 'shard-1.tar/deep/0005.png' cannot be read"):
        write(audit, "csv", tmp_path / "clean.csv")
    assert [path.name for path in tmp_path.iterdir() if "clean" in path.name] == []


def test_hostile_captions_come_through_every_cleaned_set(copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    expected = {row.pair_id: [text.strip() for text in row.captions] for row in audit.pairs.itertuples()}
    write(audit, "coco", tmp_path / "it.json")
    value = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    ids = {image["id"]: image["pair_id"] for image in value["images"]}
    found: dict[str, list[str]] = {}
    for entry in value["annotations"]:
        found.setdefault(ids[entry["image_id"]], []).append(entry["caption"].strip())
    assert found == expected
    write(audit, "csv", tmp_path / "it.csv")
    root = audit.record.root
    pairs = read_source(str(tmp_path / "it.csv"), SourceOptions(image_folder=root), data=tmp_path).pairs
    assert dict(zip(pairs["pair_id"], pairs["captions"], strict=True)) == expected


def test_decisions_come_as_csv_and_as_parquet(copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    ids = audit.pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide(ids[:2], REMOVE, audit="made")
    review.decide([ids[5]], RECAPTION, captions=['a "b"', "c\n🐊"], note="=1+1, \t<b>", audit="made")
    review.decide([ids[7]], None, note="only a note")
    for suffix in (".csv", ".parquet"):
        write(audit, "decisions", tmp_path / f"it{suffix}")
    table = pd.read_parquet(tmp_path / "it.parquet")
    assert sorted(table["pair_id"]) == sorted([*ids[:2], ids[5], ids[7]])
    row = table.set_index("pair_id").loc[ids[5]]
    assert (row["decision"], list(row["captions"]), row["note"]) == (RECAPTION, ['a "b"', "c\n🐊"], "=1+1, \t<b>")
    assert (row["image"], row["label"]) == (ids[5], audit.pairs["label"][5])
    for score in ("clipmem", "misfit", "similarity_out"):
        assert row[score] == audit.scores[score][5]
    text = pd.read_csv(tmp_path / "it.csv", keep_default_na=False)
    assert text["pair_id"].tolist() == table["pair_id"].tolist()
    assert [json.loads(cell) for cell in text["captions"]] == [list(texts) for texts in table["captions"]]
    assert text.set_index("pair_id")["note"][ids[5]] == "'=1+1, \t<b>"  # no spreadsheet is to compute it


@pytest.mark.parametrize("text", ["=1+1", "-1", "\t=1", "\r=1", "a=1", "'=1", ""])
def test_no_cell_of_the_decisions_begins_as_a_formula_does(text: str, copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    write_table(audit.folder / PAIRS, audit.pairs.assign(label=text or None))
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide([ids[0], f"{text} id"], RECAPTION, captions=[f"{text} new"], note=text, audit=f"{text}")
    write(audit, "decisions", tmp_path / "it.csv")
    with (tmp_path / "it.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert len(rows) == 2
    for name, cell in ((name, cell) for row in rows for name, cell in zip(head, row, strict=True)):
        assert not cell.startswith(("=", "+", "@", "\t", "\r", "-")) or name in ("clipmem", "misfit", "similarity_out")
    there = dict(zip(head, rows[-1], strict=True))
    quote = "'" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else ""
    assert (there["note"], there["audit"]) == (quote + text, quote + text)
    assert json.loads(there["captions"]) == [f"{text} new".strip()]


def test_no_decisions_are_an_empty_table(copy: Copy, tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        write(copy(name=f"a{suffix[1:]}"), "decisions", tmp_path / f"it{suffix}")
    assert (
        pd.read_csv(tmp_path / "it.csv").columns.tolist() == pd.read_parquet(tmp_path / "it.parquet").columns.tolist()
    )
    assert len(pd.read_parquet(tmp_path / "it.parquet")) == 0
