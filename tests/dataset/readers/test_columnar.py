"""Parquet files and folders of `save_to_disk`, with pictures inside or paths to them."""

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow

from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.source import RawPairs
from clipmem_core.utils.io import InputError
from tests.dataset.samples import check_reasons, draw, picture_bytes, read


def saved(n: int = 5) -> Dataset:
    """A data set of the datasets library: pictures, several captions each, named classes."""
    classes = ClassLabel(names=["cat", "dog"])
    features = Features(image=Image(), captions=List(Value("string")), label=classes)
    columns = {
        "image": [{"bytes": picture_bytes(at), "path": f"{at}.png"} for at in range(n)],
        "captions": [[f"{at} a", f"{at} b"] for at in range(n)],
        "label": [at % 2 for at in range(n)],
    }
    return Dataset.from_dict(columns, features=features)


def check(raw: RawPairs, references: list[str]) -> None:
    assert list(raw.pairs.image) == references
    assert list(raw.pairs.captions) == [[f"{at} a", f"{at} b"] for at in range(len(references))]
    assert list(raw.pairs.label) == [("cat", "dog")[at % 2] for at in range(len(references))]
    for at, image in enumerate(references):
        picture = Pillow.open(io.BytesIO(read_bytes(raw.root, image)))
        assert picture.getpixel((0, 0)) == (at, 80, 20)
    assert (raw.rows, len(raw.quarantine)) == (len(references), 0)


def test_a_folder_of_save_to_disk_and_the_split_of_a_saved_dictionary_are_read(
    tmp_path: Path,
) -> None:
    saved().save_to_disk(tmp_path / "set", num_shards=2)
    DatasetDict({"train": saved(), "test": saved(2)}).save_to_disk(tmp_path / "sets")
    for folder, split, n in (("set", "train", 5), ("sets", "train", 5), ("sets", "test", 2)):
        raw = read(tmp_path / folder, data=tmp_path / "data", split=split)
        check(raw, [f"{split}-00000-of-00001.parquet#{row}" for row in range(n)])
        assert raw.format == "huggingface"
    saved(3).save_to_disk(tmp_path / "set")  # over the other
    assert read(tmp_path / "set", data=tmp_path / "data").rows == 3
    with pytest.raises(InputError, match="no split 'val'.*--split"):
        read(tmp_path / "sets", data=tmp_path / "data", split="val")


def test_parquet_files_written_by_datasets_are_read_alone_or_as_the_split_of_a_folder(
    tmp_path: Path,
) -> None:
    saved().to_parquet(tmp_path / "set.parquet", batch_size=2)
    check(read(tmp_path / "set.parquet"), [f"set.parquet#{row}" for row in range(5)])
    (tmp_path / "set/data").mkdir(parents=True)
    for split, n in {"train": 5, "test": 2}.items():
        name = f"data/{split}-00000-of-00001.parquet"
        saved(n).to_parquet(tmp_path / "set" / name)
        raw = read(tmp_path / "set", split=split)
        check(raw, [f"{name}#{row}" for row in range(n)])
    with pytest.raises(InputError, match="no split 'all': choose one of test, train with --split"):
        read(tmp_path / "set", split="all")


def test_a_parquet_table_of_paths_written_by_pandas_is_read(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png")
    frame = pd.DataFrame(
        {
            "path": ["a.png", "b.png", "a.png", "gone.png", None, "b.png"],
            "text": ["x", "y", "z", "w", "v", None],
            "id": [1.0, 2.0, 1.0, 4.0, 5.0, float("nan")],
            "class": ["c", None, "d", "c", "c", "c"],
            "injected": ["vague", "odd", None, None, None, None],
        }
    )
    frame.to_parquet(tmp_path / "set.parquet")
    raw = read(tmp_path / "set.parquet")
    assert raw.pairs.drop(columns="group_key").to_numpy().tolist() == [
        ["1", "a.png", ["x", "z"], "c", "vague"],
        ["2", "b.png", ["y"], None, None],
    ]
    reasons = {3: "No such", 4: "image", 5: "caption is empty"}
    check_reasons(raw, {f"set.parquet#{row}": reason for row, reason in reasons.items()})
    assert list(raw.quarantine.pair_id) == ["4", "5", "b.png"]


def test_rows_without_caption_are_quarantined_and_null_pictures_when_they_are_read(
    tmp_path: Path,
) -> None:
    blobs = [{"bytes": b"a"}, {"bytes": None}, {"bytes": b"c"}, None]
    pictures = pa.array(blobs, pa.struct({"bytes": pa.binary()}))
    table = pa.table({"text": ["x", "x", " ", "x"], "jpg": pictures})
    pq.write_table(table, tmp_path / "set.parquet")
    # a flag that pictures inside do not need
    raw = read(tmp_path / "set.parquet", image_folder=str(tmp_path))
    check_reasons(raw, {"set.parquet#2": "caption is empty"})
    assert read_bytes(raw.root, raw.pairs.image[0]) == b"a"
    for image in raw.pairs.image[1:]:
        with pytest.raises(FileNotFoundError, match="holds no picture bytes"):
            read_bytes(raw.root, image)


def test_a_file_that_a_link_puts_into_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    saved(2).to_parquet(tmp_path / "out.parquet")
    (tmp_path / "set/0.parquet").symlink_to(tmp_path / "out.parquet")
    with pytest.raises(InputError, match="0.parquet: file is reached by a link that leaves"):
        read(tmp_path / "set")


def test_a_damaged_saved_folder_is_one_line(tmp_path: Path) -> None:
    saved().save_to_disk(tmp_path / "set")
    for name, text in (("data-00000-of-00001.arrow", "cut"), ("state.json", "{}")):
        (tmp_path / "set" / name).write_text(text)
        with pytest.raises(InputError, match="can be read") as caught:
            read(tmp_path / "set", data=tmp_path)
        assert "\n" not in str(caught.value)
