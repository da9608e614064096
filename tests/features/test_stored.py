"""Features that were computed elsewhere, in the forms that other tools write."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.config import InputError
from clipmem_core.features.stored import SomeRows, Stored, is_stored, open_features, stored_features

RNG = np.random.default_rng(1)
IMAGE, TEXT = RNG.normal(size=(7, 5)).astype(np.float32), RNG.normal(size=(7, 4)).astype(np.float32)
CAPTIONS = [f"caption {i}" for i in range(7)]
IDS = [f"pictures/{i}.jpg" for i in range(7)]


def clip_retrieval(folder: Path, image: np.ndarray = IMAGE, text: np.ndarray = TEXT) -> Path:
    """Write what `clip-retrieval inference` leaves, in two parts."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir()
    for part, rows in enumerate((slice(0, 4), slice(4, 7))):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", image[rows])
        np.save(folder / "text_emb" / f"text_emb_{part}.npy", text[rows])
        table = pd.DataFrame({"image_path": IDS[rows], "caption": CAPTIONS[rows]})
        table.to_parquet(folder / "metadata" / f"metadata_{part}.parquet")
    return folder


def datacomp(folder: Path) -> Path:
    """Write DataComp's metadata: a table and an archive of arrays of the same name, in two parts."""
    for name, rows in (("0a", slice(0, 4)), ("1b", slice(4, 7))):
        table = pd.DataFrame({"uid": IDS[rows], "url": "https://example.org/a.jpg", "text": CAPTIONS[rows]})
        table.to_parquet(folder / f"{name}.parquet")
        np.savez(folder / f"{name}.npz", l14_img=IMAGE[rows], l14_txt=TEXT[rows], b32_img=IMAGE[rows, :3])
    return folder


def beside_table(folder: Path) -> tuple[Path, Path, Path]:
    """Write a table of captions with arrays beside it."""
    pd.DataFrame({"filepath": IDS, "title": CAPTIONS}).to_csv(folder / "a.csv", index=False)
    np.save(folder / "image.npy", IMAGE)
    np.save(folder / "text.npy", TEXT)
    return folder / "a.csv", folder / "image.npy", folder / "text.npy"


def read(form: str, folder: Path, cache: Path) -> Stored:
    """Write a form and read it."""
    if form == "table":
        table, image, text = beside_table(folder)
        return stored_features(table, image=str(image), text=str(text), folder=cache)
    return stored_features({"clip_retrieval": clip_retrieval, "datacomp": datacomp}[form](folder), folder=cache)


@pytest.mark.parametrize("form", ["clip_retrieval", "datacomp", "table"])
def test_every_form_gives_its_rows_as_halves(tmp_path: Path, form: str) -> None:
    (tmp_path / "set").mkdir()
    found = read(form, tmp_path / "set", tmp_path / "cache")
    assert found.pairs["pair_id"].tolist() == IDS
    assert found.pairs["captions"].map(list).tolist() == [[caption] for caption in CAPTIONS]
    assert isinstance(found.image, np.memmap)
    np.testing.assert_array_equal(found.image, IMAGE.astype(np.float16))
    np.testing.assert_array_equal(found.text, TEXT.astype(np.float16))
    assert found.offsets.tolist() == list(range(8))
    assert found.quarantine.empty


def test_rows_of_one_picture_are_one_pair_with_all_its_captions(tmp_path: Path) -> None:
    table = pd.DataFrame({"filepath": ["a", "b", "a", "c"], "caption": ["one", "two", "three", ""]})
    table.to_csv(tmp_path / "a.csv", index=False)
    np.save(tmp_path / "i.npy", IMAGE[:4])
    np.save(tmp_path / "t.npy", TEXT[:4])
    paths = {"image": str(tmp_path / "i.npy"), "text": str(tmp_path / "t.npy")}
    found = stored_features(tmp_path / "a.csv", **paths, folder=tmp_path / "cache")
    assert found.pairs["captions"].map(list).tolist() == [["one", "three"], ["two"]]
    np.testing.assert_array_equal(found.image, IMAGE[[0, 1]].astype(np.float16))
    np.testing.assert_array_equal(found.text, TEXT[[0, 2, 1]].astype(np.float16))
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.quarantine[["pair_id", "reason"]].to_numpy().tolist() == [["c", "caption is empty"]]


def test_rows_of_one_id_are_joined_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmem_core.features.stored.BLOCK", 2)
    ids, said = [0, 1, 2, 1, 3, 0, 1], ["a", "b", "c", "b", "d", "e", "f"]
    pd.DataFrame({"filepath": ids, "caption": said}).astype(str).to_csv(tmp_path / "a.csv", index=False)
    np.save(tmp_path / "i.npy", IMAGE)
    np.save(tmp_path / "t.npy", TEXT)
    paths = {"image": str(tmp_path / "i.npy"), "text": str(tmp_path / "t.npy")}
    found = stored_features(tmp_path / "a.csv", **paths, folder=tmp_path / "cache")
    assert found.pairs["captions"].map(list).tolist() == [["a", "e"], ["b", "f"], ["c"], ["d"]]
    np.testing.assert_array_equal(found.image, IMAGE[[0, 1, 2, 4]].astype(np.float16))
    np.testing.assert_array_equal(found.text, TEXT[[0, 5, 1, 6, 2, 4]].astype(np.float16))
    assert (
        found.pairs["sha256"].iloc[1]
        == hashlib.sha256(IMAGE[1].astype(np.float16).tobytes() + TEXT[[1, 6]].astype(np.float16).tobytes()).hexdigest()
    )


def test_a_list_of_captions_has_a_row_of_features_each(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "a", "captions": ["x", "y"]}\n{"image": "b", "captions": ["z"]}\n')
    np.save(tmp_path / "i.npy", IMAGE[:2])
    np.save(tmp_path / "t.npy", TEXT[:3])
    paths = {"image": str(tmp_path / "i.npy"), "text": str(tmp_path / "t.npy")}
    found = stored_features(tmp_path / "a.jsonl", **paths, folder=tmp_path / "cache")
    assert found.offsets.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(found.text, TEXT[:3].astype(np.float16))


@pytest.mark.parametrize(
    ("value", "reason"), [(0, "all zero"), (np.nan, "NaN or infinite"), (1e9, "NaN or infinite"), (2, "one number")]
)
def test_a_row_without_use_is_set_aside_with_the_reason(tmp_path: Path, value: float, reason: str) -> None:
    image, text = IMAGE.copy(), TEXT.copy()
    image[2], text[5] = value, value
    (tmp_path / "set").mkdir()
    found = stored_features(clip_retrieval(tmp_path / "set", image, text), folder=tmp_path / "cache")
    assert found.pairs["pair_id"].tolist() == [IDS[i] for i in (0, 1, 3, 4, 6)]
    assert found.quarantine["pair_id"].tolist() == [IDS[2], IDS[5]]
    assert found.quarantine["reason"].str.contains(reason).all()
    np.testing.assert_array_equal(found.image, IMAGE[[0, 1, 3, 4, 6]].astype(np.float16))


def test_the_same_again_reads_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    first = read("datacomp", tmp_path / "set", tmp_path / "cache")
    monkeypatch.setattr("clipmem_core.features.stored.read_arrow_files", None)
    again = stored_features(tmp_path / "set", folder=tmp_path / "cache")
    np.testing.assert_array_equal(first.text, again.text)
    assert first.pairs["pair_id"].equals(again.pairs["pair_id"])


def test_what_does_not_fit_is_one_line_that_names_it(tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path)
    part = folder / "img_emb" / "img_emb_1.npy"

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words) as error:
            stored_features(folder, folder=tmp_path / "cache")
        assert "\n" not in str(error.value)

    np.save(part, IMAGE[4:6])
    refused(r"img_emb_1.npy has 2 features, but .*metadata_1.parquet 3 rows")
    np.save(part, IMAGE[4:7, :3])
    refused("image features must be of one length, not 5 beside metadata_0.parquet and 3 beside metadata_1.parquet")
    np.save(part, IMAGE[4:7].astype(int))
    refused(r"must hold numbers \[n, dim\], not int64 \[3, 5\]")
    for path in folder.glob("*_emb/*.npy"):
        path.write_bytes(path.read_bytes()[:-9])
    refused("img_emb_0.npy is cut off or damaged")
    shutil.rmtree(folder / "text_emb")
    shutil.rmtree(folder / "img_emb")
    refused("img_emb_0.npy is missing")


@pytest.mark.parametrize("length", [None, 10, 300])
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("clip_retrieval", "img_emb/img_emb_1.npy"),
        ("clip_retrieval", "text_emb/text_emb_1.npy"),
        ("clip_retrieval", "metadata/metadata_1.parquet"),
        ("datacomp", "1b.npz"),
        ("datacomp", "1b.parquet"),
    ],
)
def test_a_part_that_is_missing_or_cut_off_is_set_aside_and_named(
    tmp_path: Path, form: str, name: str, length: int | None
) -> None:
    folder = {"clip_retrieval": clip_retrieval, "datacomp": datacomp}[form](tmp_path)
    whole = (folder / name).read_bytes()
    if length is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[: min(length, len(whole) - 9)])
    found = stored_features(folder, folder=tmp_path / "cache")
    assert found.pairs["pair_id"].tolist() == IDS[:4]
    np.testing.assert_array_equal(found.text, TEXT[:4].astype(np.float16))
    table = name.endswith(".parquet")
    assert found.quarantine["pair_id"].tolist() == ([""] if table else IDS[4:])
    assert found.quarantine["reason"].str.contains(Path(name).name, regex=False).all()
    (folder / name).write_bytes(whole)  # copied again, it is read
    assert stored_features(folder, folder=tmp_path / "cache").pairs["pair_id"].tolist() == IDS


def test_a_missing_file_or_array_is_named(tmp_path: Path) -> None:
    folder = datacomp(tmp_path)
    with pytest.raises(InputError, match="no array 'b32_txt' but l14_img, l14_txt, b32_img: name one"):
        stored_features(folder, text="b32_txt", folder=tmp_path / "cache")
    with pytest.raises(InputError, match="holds no features"):
        stored_features(tmp_path / "nowhere.csv", folder=tmp_path / "cache")


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of any size are read where they are."""
    monkeypatch.setattr("clipmem_core.features.stored.IN_PLACE_FROM", 0)


@pytest.mark.usefixtures("in_place")
def test_large_features_are_read_where_they_are_and_are_what_a_copy_would_be(tmp_path: Path) -> None:
    image, text = IMAGE.astype(np.float16), TEXT.astype(np.float16)
    image[2] = 0
    found = stored_features(clip_retrieval(tmp_path, image, text), folder=tmp_path / "cache")
    kept = [0, 1, 3, 4, 5, 6]
    assert sorted(path.name for path in found.folder.glob("*.npy")) == [
        "image_rows.npy",
        "offsets.npy",
        "text_rows.npy",
    ]
    assert isinstance(found.image, SomeRows)
    assert (found.image.shape, found.image.dtype, len(found.text)) == ((6, 5), np.float16, 6)
    keys = (slice(None), slice(1, 4), slice(2, 2), np.array([5, 0, 3]), np.array([4, 3]), np.arange(6) % 2 == 0)
    for key in keys:
        np.testing.assert_array_equal(found.image[key], image[kept][key])
        np.testing.assert_array_equal(found.text[key], text[kept][key])
    digest = hashlib.sha256(image[3].tobytes() + text[3].tobytes()).hexdigest()
    assert found.pairs["sha256"].iloc[2] == digest


@pytest.mark.usefixtures("in_place")
def test_a_file_that_is_read_in_place_and_changes_or_goes_is_told(tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path, IMAGE.astype(np.float16), TEXT.astype(np.float16))
    kept = stored_features(folder, folder=tmp_path / "cache").folder
    assert is_stored(kept)
    changed = folder / "img_emb" / "img_emb_1.npy"
    np.save(changed, IMAGE[4:7].astype(np.float32))
    assert not is_stored(kept)
    changed.unlink()
    with pytest.raises(InputError, match="img_emb_1.npy is missing: its features are read where they are"):
        open_features(kept, "image")
