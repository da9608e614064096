"""The choice of the file of a folder, and the errors of sources that are no data set."""

from pathlib import Path

import pytest

from clipmem_core.dataset.source import FORMATS
from clipmem_core.io import InputError
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


@pytest.mark.parametrize("source", ["gone.csv", "x" * 5000, "nul\0"])
def test_a_missing_source_lists_the_formats(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError) as caught:
        read(f"{tmp_path}/none/{source}")
    assert source[:20].strip("/\0") in str(caught.value)
    assert FORMATS in str(caught.value) or "too long" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_data_set_lists_the_formats_and_several_tables_are_an_error(tmp_path: Path) -> None:
    for name in ("set.xlsx", "set", "set.tar.gz", "empty.csv"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"data")
        with pytest.raises(InputError, match="of a known format|is empty") as caught:
            read(tmp_path / name)
        assert FORMATS in str(caught.value)
    (tmp_path / "deep").mkdir()
    with pytest.raises(InputError, match="holds no data set"):
        read(tmp_path / "deep")
    for name in ("train.csv", "test.csv"):
        (tmp_path / "deep" / name).write_text(TABLE)
    with pytest.raises(
        InputError, match=r"several tables \(test.csv, train.csv\): give the one to read itself"
    ):
        read(tmp_path / "deep")
