import json
import subprocess
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipmem_core.audits.store import PAIRS, Audit, write_table
from clipmem_core.exports import Summary, write, writers
from clipmem_core.exports.cleaned import Cleaned
from clipmem_core.exports.writers import MISSING, write_csv
from tests.exports.sources import CAPTIONS, LABELS, audited, make_source

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


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1),
        min_size=1,
    )
)
def test_any_text_survives_pandas(tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    audit = Audit(folder)
    (folder / "config.json").write_text('{"config": {}}')
    for suffix in SEPARATORS:
        write_csv(cleaned(audit, captions, folder), folder / f"any{suffix}")
        read = as_pandas_reads(folder / f"any{suffix}", dtype=str, keep_default_na=False)
        assert read["title"].tolist() == [text for texts in captions for text in texts]
        assert read["pair_id"].tolist() == [str(at) for at, texts in enumerate(captions) for _ in texts]


@pytest.mark.parametrize("text", MISSING)
def test_pandas_does_read_these_as_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(f'"title"\t"x"\n"{text}"\t"x"\n')
    assert pd.read_csv(tmp_path / "a.csv", sep="\t")["title"].isna().all()


def test_captions_that_pandas_takes_for_missing_are_counted(tmp_path: Path, data: Path) -> None:
    summary = write(audited(make_source("csv", tmp_path / "set")), "csv", tmp_path / "clean.csv")
    assert [note for note in summary.notes if note.startswith("1 captions spell a missing value")]


@pytest.mark.parametrize(("format", "suffix"), [("csv", "csv"), ("coco", "json")])
def test_it_is_the_same_however_many_pairs_are_written_at_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, format: str, suffix: str
) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    write(audit, format, tmp_path / f"one.{suffix}")
    monkeypatch.setattr(writers, "PAIRS_AT_ONCE", 3)
    write(audit, format, tmp_path / f"two.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_pictures_that_are_gone_are_counted(tmp_path: Path, data: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    (tmp_path / "set/images/3.png").unlink()
    summary = write(audit, "csv", tmp_path / "clean.csv")
    assert "1 pictures are no longer there, first 'images/3.png'" in summary.notes


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
