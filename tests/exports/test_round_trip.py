"""What an export holds is what `audit` reads back from it, whatever the data set came from."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.prepare import DataSet, load_data_set
from clipmem_core.audits.store import Audit
from clipmem_core.commands import parse
from clipmem_core.exports import Summary, write
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from tests.exports.sources import KINDS, audited, make_source

OUT = [("csv", "clean.csv"), ("csv", "clean.tsv"), ("coco", "clean.json")]
NEW = ["new, and\t“better”", 'second\n"line"']


def read_back(summary: Summary) -> DataSet:
    """Read what the printed command names, as an audit would."""
    words = shlex.split(summary.command)
    assert words[:3] == ["python", "-m", "clipmem_core"]
    command = parse(words[3:])
    return load_data_set(command.source, command.config)


def expected_of(audit: Audit) -> pd.DataFrame:
    """Apply the decisions below by hand."""
    pairs = audit.pairs.drop(index=[1, 4])
    pairs.at[5, "captions"] = NEW
    return pairs


def decide(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide([ids[1], ids[4], "nowhere"], REMOVE)
    review.decide([ids[5]], RECAPTION, captions=[f" {NEW[0]} ", NEW[1], NEW[0], ""])
    review.decide([ids[2]], "keep", note="fine")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleaned_data_set_is_read_back_as_it_was_written(kind: str, tmp_path: Path, data: Path) -> None:
    audit = audited(make_source(kind, tmp_path / "a set" / kind))
    decide(audit)
    expected = expected_of(audit)
    for format, out in OUT if kind == "tar" else OUT[1:]:
        summary = write(audit, format, tmp_path / f"out folder {out}" / out)
        assert (summary.kept, summary.removed, summary.recaptioned) == (8, 2, 1)
        back = read_back(summary)
        assert back.quarantine.empty
        for column in ("pair_id", "label", "sha256", "width", "height"):
            assert back.pairs[column].fillna("").tolist() == expected[column].fillna("").tolist(), column
        assert [list(texts) for texts in back.pairs["captions"]] == [list(texts) for texts in expected["captions"]]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pictures_in_archives_are_written_out_byte_for_byte(kind: str, tmp_path: Path, data: Path) -> None:
    audit = audited(make_source(kind, tmp_path / kind))
    done: list[tuple[int, int]] = []
    write(audit, "csv", tmp_path / "clean.csv", progress=lambda *counts: done.append(counts))
    written = sorted((tmp_path / "clean_images").iterdir())
    assert [path.name for path in written] == [f"{at:08d}.{'png' if at % 3 else 'jpg'}" for at in range(10)]
    assert done[-1] == (10, 10)
    assert not list(tmp_path.glob(".clean*"))


def test_plain_files_stay_where_they_are(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    summary = write(audit, "csv", tmp_path / "out/clean.csv")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clean.csv"]
    assert f"--image-folder {tmp_path / 'set'}" in summary.command
    assert "1 quarantined input rows are not in it" in summary.notes


def test_an_export_of_a_read_back_export_is_the_same(tmp_path: Path, data: Path) -> None:
    first = write(audited(make_source("csv", tmp_path / "set")), "csv", tmp_path / "one.csv")
    command = parse(shlex.split(first.command)[3:])
    again = audited(command.source, "again", source=command.config.source)
    write(again, "csv", tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_the_command_asks_for_the_same_preset_and_protocol(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"), protocol="paper")
    config = parse(shlex.split(write(audit, "csv", tmp_path / "it's.csv").command)[3:]).config
    assert (config.preset, config.protocol) == ("tiny", "paper")
