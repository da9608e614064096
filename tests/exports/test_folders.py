"""Folders of pictures as trainers read them: by our own reader, by the library datasets, and as files on the disk."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.prepare import DataSet, load_data_set
from clipmem_core.commands import parse
from clipmem_core.config import InputError
from clipmem_core.exports import Summary, write
from clipmem_core.exports.folders import MARK
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from tests.exports.sources import LABELS, audited, make_source, picture

KINDS = ["folder", "csv", "tar", "parquet"]


def read_back(summary: Summary) -> DataSet:
    command = parse(shlex.split(summary.command)[3:])
    return load_data_set(command.source, command.config)


def one_line(captions: list[str]) -> list[str]:
    return [" ".join(part.strip() for part in text.splitlines()) for text in captions]


@pytest.mark.parametrize("kind", KINDS)
def test_an_imagefolder_audited_again_has_the_same_pairs(kind: str, tmp_path: Path, data: Path) -> None:
    audit = audited(make_source(kind, tmp_path / "a set" / kind))
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide([ids[1]], REMOVE)
    open_review(audit).decide([ids[5]], RECAPTION, captions=["new"])
    back = read_back(write(audit, "imagefolder", tmp_path / "out" / "images v1.0"))
    expected = audit.pairs.drop(index=[1])
    expected.at[5, "captions"] = ["new"]
    assert back.quarantine.empty
    for column in ("pair_id", "label", "sha256"):
        assert back.pairs[column].fillna("").tolist() == expected[column].fillna("").tolist(), column
    assert [list(texts) for texts in back.pairs["captions"]] == [list(texts) for texts in expected["captions"]]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_with_texts_audited_again_have_the_same_captions(kind: str, tmp_path: Path, data: Path) -> None:
    audit = audited(make_source(kind, tmp_path / kind))
    open_review(audit).decide([audit.pairs["pair_id"][1]], REMOVE)
    back = read_back(write(audit, "folder", tmp_path / "out")).pairs.set_index("sha256")
    expected = audit.pairs.drop(index=[1]).set_index("sha256")
    assert set(back.index) == set(expected.index)
    for sha256, pair in expected.iterrows():
        assert list(back["captions"][sha256]) == one_line(pair["captions"])
    if kind == "folder":  # paths, and with them ids and labels, are those of the data set
        assert back["pair_id"].to_dict() == expected["pair_id"].to_dict()
        assert back["label"].to_dict() == expected["label"].to_dict()


def test_the_library_datasets_reads_captions_and_ids_beside_pictures(tmp_path: Path, data: Path) -> None:
    datasets = pytest.importorskip("datasets")
    audit = audited(make_source("csv", tmp_path / "set"))
    write(audit, "imagefolder", tmp_path / "out")
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = {row["pair_id"]: row for row in read}
    assert set(read.column_names) == {"image", "text", "pair_id", "label"}
    assert [rows[f"id {at}"]["text"] for at in range(10)] == [list(texts) for texts in audit.pairs["captions"]]
    assert [rows[f"id {at}"]["label"] for at in (0, 2, 5)] == [LABELS[at] for at in (0, 2, 5)]
    assert all(row["image"].size == (24, 24) for row in read)


def test_of_pairs_with_one_caption_each_the_text_is_no_list(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"), captions=1)
    write(audit, "imagefolder", tmp_path / "out")
    table = pd.read_json(tmp_path / "out" / "metadata.jsonl", lines=True, dtype=False)
    assert table["text"].tolist() == [" ".join(texts[0].split("\r")) for texts in audit.pairs["captions"]]


def test_an_edited_copy_leaves_the_data_set_as_it_is(tmp_path: Path, data: Path) -> None:
    summary = write(audited(make_source("csv", tmp_path / "set")), "folder", tmp_path / "out")
    assert "2 captions have spaces in it for their line breaks" in summary.notes
    for number in range(10):
        with (tmp_path / f"out/images/{number}.png").open("r+b") as file:
            file.write(b"edited")
        assert (tmp_path / f"set/images/{number}.png").read_bytes() == picture(number)
    write(audited(make_source("tar", tmp_path / "tars"), "other"), "folder", tmp_path / "of an archive")
    assert (tmp_path / "of an archive/00000003.jpg").read_bytes() == picture(3)


def test_an_export_that_stopped_leaves_what_was_there(tmp_path: Path, data: Path) -> None:
    audit, lost = audited(make_source("csv", tmp_path / "set")), tmp_path / "set/images/7.png"
    write(audit, "folder", tmp_path / "out")
    lost.rename(tmp_path / "set/kept")
    there = {*tmp_path.rglob("*")}
    with pytest.raises(InputError, match="7.png is gone: bring it back"):
        write(audit, "folder", tmp_path / "out", overwrite=True)
    assert {*tmp_path.rglob("*")} == there
    assert (tmp_path / "out/images/7.png").read_bytes() == picture(7)
    (tmp_path / "set/kept").rename(lost)
    open_review(audit).decide([audit.pairs["pair_id"][9]], RECAPTION, captions=["new"])
    write(audit, "folder", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/images/9.txt").read_text() == "new\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARK, "images"}


def test_two_pictures_of_one_name_each_have_their_own_text(tmp_path: Path, data: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "a.png").write_bytes(picture(1))
    (root / "A.jpg").write_bytes(picture(3))
    (root / "metadata.png").write_bytes(picture(2))
    rows = [("a.png", "one"), ("A.jpg", "two"), ("metadata.png", "three")]
    pd.DataFrame(rows, columns=["image", "caption"]).to_csv(root / "captions.csv", index=False)
    audit = audited(root / "captions.csv")
    back = read_back(write(audit, "folder", tmp_path / "out"))
    assert dict(zip(back.pairs["sha256"], map(list, back.pairs["captions"]), strict=True)) == {
        pair.sha256: list(pair.captions) for pair in audit.pairs.itertuples()
    }


def test_only_what_an_export_wrote_is_replaced(tmp_path: Path, data: Path) -> None:
    audit, out = audited(make_source("csv", tmp_path / "set")), tmp_path / "out"
    with pytest.raises(InputError, match="set holds something else than an export: take another --out"):
        write(audit, "folder", tmp_path / "set", overwrite=True)
    out.mkdir()  # an empty folder is as good as none
    write(audit, "folder", out)
    with pytest.raises(InputError, match="out is there already: take another --out"):
        write(audit, "imagefolder", out)
    write(audit, "imagefolder", out, overwrite=True)
    assert (out / "metadata.jsonl").is_file()
    assert not list(out.rglob("*.txt"))
    with pytest.raises(InputError, match="is a file: give the folder to write"):
        write(audit, "folder", tmp_path / "set/captions.csv")
