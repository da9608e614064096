"""For any data set, `inspect` ends with exit code 0 and accounts for every row, or with 2 and one
line."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.cli import main
from tests.dataset.samples import draw, picture_bytes, write_tar

PICTURES = [f"{at}.png" for at in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of pictures, a data folder, and a wide terminal."""
    folder = tmp_path_factory.mktemp("any")
    draw(folder, *PICTURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setenv("CLIPMEM_DATA", str(folder / "data"))
        yield folder


def inspected(source: Path) -> tuple[int, int, int] | None:
    """Return rows, pairs and rows in quarantine; None for a refused source."""
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["inspect", str(source)])
    if code:
        lines = err.getvalue().splitlines()
        assert (code, len(lines)) == (2, 1), err.getvalue()
        return None
    counts = re.findall(
        r"^(?:rows|pairs that can be used|in quarantine) +([\d,]+)", out.getvalue(), re.MULTILINE
    )
    rows, pairs, refused = (int(number.replace(",", "")) for number in counts)
    return rows, pairs, refused


def check_balance(source: Path) -> None:
    """Check a source in which every picture has one row: its rows are the pairs and the
    quarantine."""
    counts = inspected(source)
    if counts is not None:
        rows, pairs, refused = counts
        assert rows == pairs + refused


@pytest.mark.parametrize("name", ["a.csv", "a.tar", "a"])
def test_a_source_that_is_a_pipe_or_a_device_is_one_line(
    folder: Path, tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    assert inspected(tmp_path / name) is None
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert inspected(tmp_path / name) is None


JUNK: list[Any] = [
    *(None, "", " ", "x", "nan", float("nan"), float("inf"), 0, 1.0, True, 10**400),
    *([], {}, ["x", ""], [1], {"a": 1}),
    *("0.png", "image", "../0.png", "/etc/passwd", "a\0b", "\ud83d", "\x1b[31m", "[bold]"),
    *('"', "a\nb", "a/" * 3000, "a.tar/0.png", "set.parquet#0", "%2e%2e/a", "C:\\a", "vague"),
]
VALUES = st.sampled_from(JUNK)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"caption": VALUES}, optional={"label": VALUES, "id": VALUES, "injected": VALUES}
    ),
    max_size=3,
)


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def write_rows(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows, each of its own picture, in a format; the last is one of no picture."""
    names = [*PICTURES[: len(rows) - 1], None]
    named = [{"image": name, **row} for name, row in zip(names, rows, strict=True)]
    path = folder / f"any.{kind}"
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        keys = ["image", *dict.fromkeys(key for row in rows for key in row)]
        writer = csv.DictWriter(text, keys, delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(named)
        path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    elif kind == "jsonl":
        path.write_bytes(b"\n".join(map(encoded, named)))
    elif kind == "json":
        path.write_bytes(encoded(named))
    elif kind == "coco.json":
        images = [{"id": at, "file_name": row["image"], **row} for at, row in enumerate(named)]
        texts = [{"image_id": at, "caption": row["caption"]} for at, row in enumerate(named)]
        path.write_bytes(encoded({"images": images, "annotations": texts}))
    else:
        pictures = {name: picture_bytes(at) for at, name in enumerate(PICTURES)}
        write_tar(path, pictures | {f"{at}.json": encoded(row) for at, row in enumerate(named)})
    return path


@given(
    kind=st.sampled_from(["csv", "tsv", "jsonl", "json", "coco.json", "tar"]),
    rows=ROWS,
    last=VALUES,
)
@settings(max_examples=30)
def test_values_of_any_kind_are_read_or_set_aside(
    folder: Path, kind: str, rows: list[dict[str, Any]], last: Any
) -> None:
    rows = [{"caption": "good"}, *rows, {"caption": last}]
    check_balance(write_rows(folder, kind, rows[: len(PICTURES)]))


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["csv", "tsv", "jsonl", "json", "coco.json", "tar", "parquet"]),
    cut=st.floats(0, 1),
    size=st.integers(0, 40),
    new=st.binary(max_size=6),
)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    folder: Path, kind: str, cut: float, size: int, new: bytes
) -> None:
    path = folder / "damaged.parquet"
    if kind == "parquet":
        table = pa.table({"image": [{"bytes": picture_bytes()}] * 2, "text": ["x", "y"]})
        pq.write_table(table, path)
    else:
        texts = ["x, “y”", 'a "b"', "c"]
        path = write_rows(folder, kind, [{"caption": text} for text in texts])
    data = path.read_bytes()
    at = int(cut * len(data))
    path.write_bytes(data[:at] + new + data[at + size :])
    counts = inspected(path)
    if counts is not None:
        rows, pairs, refused = counts
        assert rows >= pairs + refused  # two rows may now name one picture
