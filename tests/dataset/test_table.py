"""The choice of the file of a folder, and the errors of sources that are no data set."""

from pathlib import Path

import pytest

from clipmem_core.utils.io import InputError
from tests.dataset.samples import draw, read

TABLE = "image,caption\na.png,x\n"
COCO = (
    '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, '
    '"caption": "x"}]}'
)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({"captions.csv": TABLE}, "csv"),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": "x"}'}, "jsonl"),
        ({"captions.csv": TABLE, "scores.csv": "a,b\n", "stats.json": "{}"}, "csv"),
        ({"captions.json": COCO}, "coco"),
        ({"captions.json": '[{"image": "a.png", "caption": "x"}]', "info.json": "{"}, "json"),
        ({"a.txt": "x", "info.json": '{"a": 1}', ".captions.csv": TABLE}, "folder"),
    ],
)
def test_the_captions_of_a_folder_are_found(
    tmp_path: Path, files: dict[str, str], chosen: str
) -> None:
    draw(tmp_path, "a.png")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    raw = read(tmp_path)
    assert (raw.format, raw.root) == (chosen, tmp_path)
    assert list(raw.pairs.captions) == [["x"]]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        *((name, {}) for name in ("none/gone.csv", "none/" + "x" * 5000, "nul\0", "{0.tar", "")),
        *((name, {name: b"data"}) for name in ("set.xlsx", "set", "set.tar.gz")),
        *((name, {name: b""}) for name in ("set.csv", "set.jsonl", "set.json", "set.parquet")),
        ("set.csv", {"set.csv": b'"open,caption\n'}),
        ("set.csv", {"set.csv": b"\x89PNG\r\n\x1a\n\x00\x00\x01\xff\xfe" * 50}),
        ("set.csv", {"set.csv": b"a.png,a cat\nb.png,a dog\n"}),
        ("set.jsonl", {"set.jsonl": b"[1, 2]"}),
        ("set.json", {"set.json": b"[1, 2]"}),
        ("set.json", {"set.json": b'{"images": []}'}),
        ("set.json", {"set.json": b'{"images": 1, "annotations": []}'}),
        ("set.parquet", {"set.parquet": b"PAR1 no"}),
        ("", {"train.csv": TABLE.encode(), "test.csv": TABLE.encode()}),
    ],
)
def test_what_is_no_data_set_is_one_line_that_names_it(
    tmp_path: Path, source: str, files: dict[str, bytes]
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(f"{tmp_path}/{source}")
    assert (source or tmp_path.name).replace("\0", r"\x00")[:70] in str(caught.value)
    assert "\n" not in str(caught.value)
