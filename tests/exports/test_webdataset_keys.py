import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from clipmem_core.audits.store import Audit
from clipmem_core.exports import write
from clipmem_core.exports.writers import webdataset_key
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from tests.exports.sources import audited, make_source, picture


def write_tar(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            text = f"caption of {name}".encode()
            for member, data in ((name, picture(number)), (f"{name.rpartition('.')[0]}.txt", text)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def kept_by_webdataset(folder: Path, keys: Path) -> list[str]:
    wanted = set(keys.read_text().splitlines())
    keys_found = []
    for shard in sorted(folder.glob("*.tar")):
        with shard.open("rb") as stream:  # webdataset would leave it open
            samples = group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}]))
            keys_found += [sample["__key__"] for sample in samples if sample["__key__"] in wanted]
    return keys_found


def remove(audit: Audit, *rows: int) -> None:
    open_review(audit).decide([audit.pairs["pair_id"][row] for row in rows], REMOVE)


@pytest.mark.parametrize("prefix", ["", "./", "deep/er/", "./deep.er/"])
def test_webdataset_keeps_exactly_the_samples_of_the_list(tmp_path: Path, data: Path, prefix: str) -> None:
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set/a.tar", [f"{prefix}{at}.jpg" for at in range(4)])
    write_tar(tmp_path / "set/b.tar", [f"{prefix}{at}.png" for at in (9, 8, 7)])
    audit = audited(tmp_path / "set")
    remove(audit, 1, 5)
    summary = write(audit, "wds", tmp_path / "keys.txt")
    expected = [f"{prefix}{at}" for at in (0, 2, 3, 9, 7)]
    assert (tmp_path / "keys.txt").read_text().splitlines() == expected
    assert kept_by_webdataset(tmp_path / "set", tmp_path / "keys.txt") == expected
    assert (summary.kept, summary.removed, summary.notes, summary.command) == (5, 2, (), "")


def test_samples_that_share_a_key_are_told(tmp_path: Path, data: Path) -> None:
    (tmp_path / "set").mkdir()
    for shard in "ab":
        write_tar(tmp_path / f"set/{shard}.tar", ["1.jpg", "2.jpg"])
    audit = audited(tmp_path / "set")
    remove(audit, 2)
    summary = write(audit, "wds", tmp_path / "keys.txt")
    assert summary.notes == ("1 removed samples have the key of a kept one and stay: export csv to be rid of them",)


def test_new_captions_go_into_a_file_beside_it_and_away_again(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    review = open_review(audit)
    review.decide([audit.pairs["pair_id"][3]], RECAPTION, captions=["new 🐊"])
    summary = write(audit, "wds", tmp_path / "keys.txt")
    assert summary.notes == ("1 new captions cannot be in a list of keys: see keys.txt.captions.jsonl",)
    beside = tmp_path / "keys.txt.captions.jsonl"
    assert json.loads(beside.read_text()) == {"key": "./deep/0003", "captions": ["new 🐊"]}
    review.undo()
    write(audit, "wds", tmp_path / "keys.txt", overwrite=True)
    assert not beside.exists()


@pytest.mark.parametrize(("kind", "first"), [("csv", "images/0"), ("parquet", "set.parquet#0")])
def test_other_data_sets_are_listed_by_their_references(tmp_path: Path, data: Path, kind: str, first: str) -> None:
    write(audited(make_source(kind, tmp_path / "set")), "wds", tmp_path / "keys.txt")
    lines = (tmp_path / "keys.txt").read_text().splitlines()
    assert (lines[0], len(lines)) == (first, 10)


@given(st.text(st.sampled_from("ab./_ é"), min_size=1, max_size=12))
def test_a_key_is_what_webdataset_makes_of_the_name(name: str) -> None:
    key, _ = base_plus_ext(name)
    assert key is None or webdataset_key(name) == key
