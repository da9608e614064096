import csv
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.exports import write
from clipmem_core.exports.writers import packed, uid_of
from clipmem_core.review.decisions import REMOVE, open_review
from tests.exports.sources import audited, picture

UIDS = ["ffffffffffffffff0000000000000001", "000000000000000A00000000000000ff", "000000000000000a0000000000000001"]


def source(folder: Path, ids: list[str]) -> Path:
    folder.mkdir()
    for number in range(len(ids)):
        (folder / f"{number}.png").write_bytes(picture(number))
    images = [f"{number}.png" for number in range(len(ids))]
    pd.DataFrame({"filepath": images, "title": "x", "uid": ids}).to_csv(folder / "set.csv", index=False)
    return folder / "set.csv"


def test_uids_are_two_numbers_each_sorted_by_hand(tmp_path: Path, data: Path) -> None:
    summary = write(audited(source(tmp_path / "set", UIDS)), "datacomp", tmp_path / "uids.npy")
    found = np.load(tmp_path / "uids.npy", allow_pickle=False)
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == [(10, 1), (10, 255), (2**64 - 1, 1)]
    assert (summary.notes, list(tmp_path.glob("*.csv"))) == ((), [])


def test_other_ids_are_hashed_and_listed(tmp_path: Path, data: Path) -> None:
    audit = audited(source(tmp_path / "set", ["a.jpg", UIDS[0], 'é, "x"']))
    summary = write(audit, "datacomp", tmp_path / "uids.npy")
    with (tmp_path / "uids.uids.csv").open(newline="", encoding="utf-8") as file:
        listed = dict(list(csv.reader(file))[1:])
    # printf a.jpg | sha256sum
    assert listed["a.jpg"] == "509b0d4641a7c3ba088ffa28559d1f57"
    assert listed == {
        "a.jpg": hashlib.sha256(b"a.jpg").hexdigest()[:32],
        UIDS[0]: UIDS[0],
        'é, "x"': hashlib.sha256('é, "x"'.encode()).hexdigest()[:32],
    }
    found = np.load(tmp_path / "uids.npy", allow_pickle=False)
    assert (0x509B0D4641A7C3BA, 0x088FFA28559D1F57) in found.tolist()
    assert summary.notes[0].startswith("2 ids are no uids")


def test_removed_pairs_are_not_in_it(tmp_path: Path, data: Path) -> None:
    audit = audited(source(tmp_path / "set", UIDS))
    open_review(audit).decide([UIDS[0]], REMOVE)
    write(audit, "datacomp", tmp_path / "uids.npy")
    assert np.load(tmp_path / "uids.npy").tolist() == [(10, 1), (10, 255)]


@given(st.lists(st.integers(0, 2**128 - 1)))
def test_packing_agrees_with_the_long_way(numbers: list[int]) -> None:
    slow = np.array(sorted((number >> 64, number % 2**64) for number in numbers), np.dtype("u8,u8"))
    assert packed([f"{number:032x}" for number in numbers]).tolist() == slow.tolist()


@pytest.mark.parametrize("almost", ["0" * 31, "0" * 33, "g" + "0" * 31, "0" * 31 + "\n", "０" * 32])
def test_what_is_no_uid_is_hashed(almost: str) -> None:
    assert uid_of(almost) == hashlib.sha256(almost.encode()).hexdigest()[:32]
