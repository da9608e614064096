"""Features that were computed elsewhere, in the forms that other tools write."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clipmem_core.config import SourceOptions
from clipmem_core.features.precomputed import (
    Stored,
    caption_rows,
    feature_parts,
    map_features,
    stored_features,
)
from clipmem_core.utils.io import InputError

RNG = np.random.default_rng(1)
IMAGE = RNG.normal(size=(7, 5)).astype(np.float32)
TEXT = RNG.normal(size=(7, 4)).astype(np.float32)
CAPTIONS = [f"caption {i}" for i in range(7)]
IDS = [f"pictures/{i}.jpg" for i in range(7)]


def clip_retrieval(
    folder: Path,
    image: np.ndarray = IMAGE,
    text: np.ndarray = TEXT,
    ids: list[str] = IDS,
    captions: list[str] = CAPTIONS,
) -> Path:
    """Write what `clip-retrieval inference` leaves, in two parts."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for part, rows in enumerate((slice(0, 4), slice(4, None))):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", image[rows])
        np.save(folder / "text_emb" / f"text_emb_{part}.npy", text[rows])
        table = pd.DataFrame({"image_path": ids[rows], "caption": captions[rows]})
        table.to_parquet(folder / "metadata" / f"metadata_{part}.parquet")
    return folder


def datacomp(folder: Path) -> Path:
    """Write DataComp's metadata: a table and an archive of arrays of the same name, in two
    parts."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("0a", slice(0, 4)), ("1b", slice(4, 7))):
        table = pd.DataFrame(
            {"uid": IDS[rows], "url": "https://example.org/a.jpg", "text": CAPTIONS[rows]}
        )
        table.to_parquet(folder / f"{name}.parquet")
        np.savez(
            folder / f"{name}.npz", l14_img=IMAGE[rows], l14_txt=TEXT[rows], b32_img=IMAGE[rows, :3]
        )
    return folder


def beside_table(
    folder: Path, table: pd.DataFrame, image: np.ndarray = IMAGE, text: np.ndarray = TEXT
) -> Stored:
    """Write a table with arrays beside it, and read them."""
    (folder / "a.jsonl").write_text(table.to_json(orient="records", lines=True))
    np.save(folder / "image.npy", image)
    np.save(folder / "text.npy", text)
    return read(folder, folder / "cache")


def read(source: Path, cache: Path) -> Stored:
    return stored_features(feature_parts(source, source), SourceOptions(), folder=cache)


def check(found: Stored, captions: list[list[str]], image: list[int], text: list[int]) -> None:
    """Check the captions of each pair, and which rows of the arrays the features are."""
    assert found.pairs["captions"].map(list).tolist() == captions
    features = [map_features(found.folder, side) for side in ("image", "text")]
    for own, given, rows in zip(features, (IMAGE, TEXT), (image, text), strict=True):
        assert own.dtype == np.float16
        np.testing.assert_array_equal(own[:], given[rows].astype(np.float16))


def sha256(image: int, text: list[int]) -> str:
    return hashlib.sha256(
        IMAGE[image].astype(np.float16).tobytes() + TEXT[text].astype(np.float16).tobytes()
    ).hexdigest()


@pytest.mark.parametrize("form", ["clip_retrieval", "datacomp", "table"])
def test_every_form_gives_its_rows_as_halves(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "table":
        found = beside_table(tmp_path, pd.DataFrame({"filepath": IDS, "title": CAPTIONS}))
    else:
        source = {"clip_retrieval": clip_retrieval, "datacomp": datacomp}[form](tmp_path / "set")
        found = read(source, tmp_path / "cache")
        monkeypatch.setattr("clipmem_core.features.precomputed.READERS", ())  # read once
        assert read(source, tmp_path / "cache").pairs["sha256"].equals(found.pairs["sha256"])
    check(found, [[caption] for caption in CAPTIONS], list(range(7)), list(range(7)))
    assert found.pairs["pair_id"].tolist() == IDS
    assert found.pairs["sha256"].tolist() == [sha256(i, [i]) for i in range(7)]
    assert found.quarantine.empty


def test_rows_of_one_id_are_one_pair_with_all_its_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipmem_core.features.precomputed.ROWS_AT_ONCE", 2)
    captions = ["one", "two", "", "two", "three", "four", "five"]
    table = pd.DataFrame({"filepath": list("abcbdab"), "caption": captions})
    stored = beside_table(tmp_path, table)
    check(stored, [["one", "four"], ["two", "five"], ["three"]], [0, 1, 4], [0, 5, 1, 6, 4])
    assert stored.pairs["sha256"].iloc[1] == sha256(1, [1, 6])
    skipped = stored.quarantine[["pair_id", "reason"]].to_numpy().tolist()
    assert skipped == [["c", "caption is empty"]]


def test_a_list_of_captions_has_a_row_of_features_each_and_captions_are_found_where_they_moved(
    tmp_path: Path,
) -> None:
    table = pd.DataFrame({"image": ["a", "b", "c"], "captions": [["x", "y"], ["z"], ["w"]]})
    found = beside_table(tmp_path, table, IMAGE[:3], TEXT[:4])
    check(found, [["x", "y"], ["z"], ["w"]], [0, 1, 2], [0, 1, 2, 3])
    moved = [pa.array([["x"], ["y", "w"]]), pa.array([["z"]])]
    assert caption_rows(found.folder, moved).tolist() == [0, 1, 3, 2]
    with pytest.raises(InputError, match="caption 'new' has no precomputed features"):
        caption_rows(found.folder, [pa.array([["new"]])])


@pytest.mark.parametrize(
    ("value", "reason"),
    [(0, "constant"), (np.nan, "NaN or infinite"), (1e9, "NaN or infinite"), (2, "constant")],
)
def test_a_row_that_cannot_be_used_is_in_quarantine_with_the_reason(
    tmp_path: Path, value: float, reason: str
) -> None:
    image = IMAGE.copy()
    text = TEXT.copy()
    image[2] = value
    text[5] = value
    found = read(clip_retrieval(tmp_path / "set", image, text), tmp_path / "cache")
    rows = [0, 1, 3, 4, 6]
    check(found, [[CAPTIONS[i]] for i in rows], rows, rows)
    assert found.pairs["pair_id"].tolist() == [IDS[i] for i in rows]
    assert found.quarantine["pair_id"].tolist() == [IDS[2], IDS[5]]
    assert found.quarantine["reason"].str.contains(reason).all()


def test_files_that_do_not_fit_are_one_line_that_names_them(tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path / "set")
    part = folder / "img_emb" / "img_emb_1.npy"

    def refused(words: str, source: Path = folder) -> None:
        with pytest.raises(InputError, match=words) as error:
            read(source, tmp_path / "cache")
        assert "\n" not in str(error.value)

    for features, words in (
        (IMAGE[4:6], "metadata_1.parquet has 3 pictures with 3 captions, but .* of 2 and 3"),
        (IMAGE[4:7, :3], "img_emb_1.npy, 3"),
        (IMAGE[4:7].astype(int), r"img_emb_1.npy must hold numbers .* int64 \[3, 5\]"),
    ):
        np.save(part, features)
        refused(words)
    np.save(part, IMAGE[4:7])
    part.write_bytes(part.read_bytes()[:-9])
    refused("img_emb_1.npy")
    shutil.rmtree(folder / "img_emb")
    refused("img_emb_0.npy is missing")
    datacomp(tmp_path / "dc")
    np.savez(tmp_path / "dc" / "0a.npz", l14_img=IMAGE[:4], b32_txt=TEXT[:4])
    refused("0a.npz .*l14_txt", tmp_path / "dc")
    assert not feature_parts(tmp_path, tmp_path)
