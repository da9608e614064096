"""Each format as the tool reads it that it is for: pandas and open_clip, COCO, webdataset, DataComp, Pillow."""

import csv
import hashlib
import io
import json
import subprocess
import tarfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from clipmem_core.audits.store import PAIRS, Audit, write_json, write_table
from clipmem_core.exports import Summary, formats, write
from clipmem_core.exports.cleaned import Cleaned, suffix_of, webdataset_key
from clipmem_core.exports.formats import MISSING, packed, uid_of, write_csv
from clipmem_core.pairs.pictures import FORMATS
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from tests.exports.sources import CAPTIONS, LABELS, audited, make_source, picture
from tests.made_audit import made_record

TYPES = [
    ("row", pa.int64()),
    ("pair_id", pa.large_string()),
    ("image", pa.large_string()),
    ("captions", pa.large_list(pa.large_string())),
    ("label", pa.large_string()),
    ("recaptioned", pa.bool_()),
]


def cleaned(audit: Audit, captions: list[list[str]], root: Path) -> Cleaned:
    rows = [
        {"row": at, "pair_id": str(at), "image": "a.png", "captions": texts, "label": None, "recaptioned": False}
        for at, texts in enumerate(captions)
    ]
    pairs = pa.Table.from_pylist(rows, schema=pa.schema(TYPES))
    return Cleaned(audit, root, pairs, pairs.slice(0, 0), ())


def size_of(image: Image.Image) -> tuple[int, int]:
    with image:
        return image.size


SEPARATORS = {".csv": ",", ".tsv": "\t"}


def as_pandas_reads(path: Path, **how: object) -> pd.DataFrame:
    """With no more than the separator; a comma needs not even that."""
    return pd.read_csv(path, **({} if path.suffix == ".csv" else {"sep": "\t"}), **how)


def as_printed(summary: Summary) -> Namespace:
    """Parse the flags of the line that says how open_clip reads an export, as a shell and open_clip do."""
    line = next(note for note in summary.notes if note.startswith("open_clip reads it with "))
    script = f'printf "%s\\0" {line.removeprefix("open_clip reads it with ")}'
    typed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return pytest.importorskip("open_clip_train.params").parse_args(typed.split("\0")[:-1])


@pytest.mark.parametrize("suffix", SEPARATORS)
def test_pandas_reads_every_caption_and_every_picture_opens(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    write(audit, "csv", tmp_path / f"clean{suffix}")
    monkeypatch.chdir(data)
    table = as_pandas_reads(tmp_path / f"clean{suffix}")
    texts = [text for captions in CAPTIONS for text in captions]
    assert [str(text) for text in table["title"]][:-1] == texts[:-1]
    assert [size_of(Image.open(path)) for path in table["filepath"]] == [(24, 24)] * len(texts)


@pytest.mark.parametrize("suffix", SEPARATORS)
def test_open_clips_own_reader_takes_it_with_the_flags_that_are_printed(
    tmp_path: Path, data: Path, suffix: str
) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    printed = as_printed(write(audit, "csv", tmp_path / "its folder" / f"clean{suffix}"))
    assert printed.csv_separator == SEPARATORS[suffix]
    reader = pytest.importorskip("open_clip_train.data").CsvDataset
    read = reader(
        printed.train_data,
        size_of,
        printed.csv_img_key,
        printed.csv_caption_key,
        sep=printed.csv_separator,
        tokenizer=lambda texts: texts,
    )
    texts = [text for captions in CAPTIONS for text in captions]
    assert [read[at] for at in range(len(read) - 1)] == [((24, 24), text) for text in texts[:-1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1),
        min_size=1,
    )
)
def test_any_text_survives_pandas(tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    audit = Audit(folder)
    write_json(folder / "config.json", made_record("any", folder, "ensemble", np.array(["scored"])).values)
    for suffix in SEPARATORS:
        write_csv(cleaned(audit, captions, folder), folder / f"any{suffix}")
        read = as_pandas_reads(folder / f"any{suffix}", dtype=str, keep_default_na=False)
        assert read["title"].tolist() == [text for texts in captions for text in texts]
        assert read["pair_id"].tolist() == [str(at) for at, texts in enumerate(captions) for _ in texts]


def test_captions_that_pandas_takes_for_missing_are_counted(tmp_path: Path, data: Path) -> None:
    (tmp_path / "a.csv").write_text('"title"\t"x"\n' + "".join(f'"{text}"\t"x"\n' for text in MISSING))
    assert pd.read_csv(tmp_path / "a.csv", sep="\t")["title"].isna().all()
    audit = audited(make_source("csv", tmp_path / "set"))
    (tmp_path / "set/images/3.png").unlink()
    notes = write(audit, "csv", tmp_path / "clean.csv").notes
    assert [note for note in notes if note.startswith("1 captions spell a missing value")]
    assert "1 pictures are no longer there, first 'images/3.png'" in notes


@pytest.mark.parametrize(("format", "suffix"), [("csv", "csv"), ("coco", "json")])
def test_it_is_the_same_however_many_pairs_are_written_at_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, format: str, suffix: str
) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    write(audit, format, tmp_path / f"one.{suffix}")
    monkeypatch.setattr(formats, "AT_ONCE", 3)
    write(audit, format, tmp_path / f"two.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_an_audit_in_parts_of_a_table_keeps_its_order(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    write_table(audit.folder / PAIRS, audit.pairs.iloc[::-1])
    write(audit, "csv", tmp_path / "clean.csv")
    ids = pd.read_csv(tmp_path / "clean.csv")["pair_id"]
    assert list(dict.fromkeys(ids)) == [f"id {at}" for at in reversed(range(10))]


def test_it_is_laid_out_as_coco_is(tmp_path: Path, data: Path) -> None:
    write(audited(make_source("csv", tmp_path / "set")), "coco", tmp_path / "clean.json")
    value = json.loads((tmp_path / "clean.json").read_text(encoding="utf-8"))
    images = {image["id"]: image for image in value["images"]}
    assert list(images) == list(range(1, 11))
    known = {"id": 4, "file_name": "images/3.png", "width": 24, "height": 24, "pair_id": "id 3", "label": LABELS[3]}
    assert images[4] == known
    assert "label" not in images[2]
    assert [entry["id"] for entry in value["annotations"]] == list(range(1, sum(map(len, CAPTIONS)) + 1))
    for key, texts in enumerate(CAPTIONS, start=1):
        assert [entry["caption"] for entry in value["annotations"] if entry["image_id"] == key] == texts


def test_pictures_of_archives_are_named_relative_to_their_folder(tmp_path: Path, data: Path) -> None:
    summary = write(audited(make_source("parquet", tmp_path / "set")), "coco", tmp_path / "clean.json")
    value = json.loads((tmp_path / "clean.json").read_text(encoding="utf-8"))
    assert value["images"][1]["file_name"] == "00000001.png"
    assert (tmp_path / "clean_images/00000001.png").is_file()
    assert f"--image-folder {tmp_path / 'clean_images'}" in summary.command


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


@pytest.mark.parametrize("prefix", ["", "./deep.er/"])
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


@settings(max_examples=50)
@given(st.text(st.sampled_from("ab./_ é"), min_size=1, max_size=12))
def test_a_key_is_what_webdataset_makes_of_the_name(name: str) -> None:
    key, _ = base_plus_ext(name)
    assert key is None or webdataset_key(name) == key


UIDS = ["ffffffffffffffff0000000000000001", "000000000000000A00000000000000ff", "000000000000000a0000000000000001"]


def uid_source(folder: Path, ids: list[str]) -> Path:
    folder.mkdir()
    for number in range(len(ids)):
        (folder / f"{number}.png").write_bytes(picture(number))
    images = [f"{number}.png" for number in range(len(ids))]
    pd.DataFrame({"filepath": images, "title": "x", "uid": ids}).to_csv(folder / "set.csv", index=False)
    return folder / "set.csv"


def test_uids_are_two_numbers_each_sorted_by_hand(tmp_path: Path, data: Path) -> None:
    audit = audited(uid_source(tmp_path / "set", UIDS))
    summary = write(audit, "datacomp", tmp_path / "uids.npy")
    found = np.load(tmp_path / "uids.npy", allow_pickle=False)
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == [(10, 1), (10, 255), (2**64 - 1, 1)]
    assert (summary.notes, list(tmp_path.glob("*.csv"))) == ((), [])
    open_review(audit).decide([UIDS[0]], REMOVE)
    write(audit, "datacomp", tmp_path / "uids.npy", overwrite=True)
    assert np.load(tmp_path / "uids.npy").tolist() == [(10, 1), (10, 255)]


def test_other_ids_are_hashed_and_listed(tmp_path: Path, data: Path) -> None:
    audit = audited(uid_source(tmp_path / "set", ["a.jpg", UIDS[0], 'é, "x"']))
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


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**128 - 1)))
def test_packing_agrees_with_the_long_way(numbers: list[int]) -> None:
    slow = np.array(sorted((number >> 64, number % 2**64) for number in numbers), np.dtype("u8,u8"))
    assert packed([f"{number:032x}" for number in numbers]).tolist() == slow.tolist()


def test_what_is_no_uid_is_hashed() -> None:
    for almost in ("0" * 31, "0" * 33, "g" + "0" * 31, "0" * 31 + "\n", "０" * 32):
        assert uid_of(almost) == hashlib.sha256(almost.encode()).hexdigest()[:32]


def test_the_ending_is_one_that_pillow_has_for_the_format() -> None:
    Image.init()
    for format in [name for name in FORMATS if name != "MPO"]:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), "teal").save(stream, format)
        assert Image.registered_extensions()[suffix_of(stream.getvalue())] == format
    assert {suffix_of(data) for data in (b"", b"\xff", b"no picture")} == {".img"}
