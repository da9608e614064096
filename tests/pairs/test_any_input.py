"""Whatever a data set holds, `inspect` ends with exit code 0, every row accounted for, or with 2 and one line."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import socket
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from braceexpand import braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.commands import main
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.files import TABLE
from clipmem_core.pairs.readers.shards import expand_pattern
from clipmem_core.pairs.readers.tables import read_delimited
from clipmem_core.pairs.table import read_source
from tests.pairs.samples import draw, picture_bytes, write_tar

HUGE = 3 * 10**9  # bytes of a sparse file: more than is read of any
PICTURES = [f"{at}.png" for at in range(4)]


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A data folder, and a terminal wide enough for whole lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("data")))
        yield


def _too_late(*_: object) -> None:
    raise AssertionError("it hangs")


def inspected(source: Path | str, *flags: str) -> tuple[int, str]:
    """Return the exit code and what was printed: all of it, or the one line of an error."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(60)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["inspect", str(source), *flags])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if code == 0:
        return code, out.getvalue()
    lines = err.getvalue().splitlines()
    assert (code, len(lines)) == (2, 1), err.getvalue()
    return code, lines[0]


def counts(printed: str) -> tuple[int, int, int]:
    """Return rows, pairs and rows in quarantine, as printed."""
    found = re.findall(r"^(?:rows|pairs that can be used|in quarantine) +([\d,]+)", printed, re.MULTILINE)
    rows, pairs, aside = (int(number.replace(",", "")) for number in found)
    return rows, pairs, aside


def check_balance(source: Path | str, *flags: str, rows: int | None = None) -> None:
    """Check a source in which every picture has one row: its rows are the pairs and what was set aside."""
    code, printed = inspected(source, *flags)
    if code == 0:
        total, pairs, aside = counts(printed)
        assert total == pairs + aside
        assert rows in (None, total)


def sparse(path: Path, *, size: int = HUGE, start: bytes = b"", end: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)
    return path


def make(path: Path, kind: str) -> None:
    """Make something that is not a regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # whole paths may be too long
            server.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


# What is not a regular file


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_regular_file_is_set_aside_in_a_folder_of_pictures(tmp_path: Path, kind: str) -> None:
    draw(tmp_path, "good.png", "odd.png")
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "lone.txt").write_text("picture")
    make(tmp_path / "odd.txt", kind)
    make(tmp_path / "lone.png", kind)
    make(tmp_path / "table.csv", kind)
    code, printed = inspected(tmp_path)
    assert code == 0
    assert counts(printed)[1] == 1
    assert counts(printed)[0] == 1 + counts(printed)[2]
    assert "odd.png" in printed
    assert "regular file" in printed or kind == "folder"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("name", ["odd.tar", "odd.parquet"])
def test_what_is_no_regular_file_is_set_aside_beside_good_ones(tmp_path: Path, kind: str, name: str) -> None:
    write_tar(tmp_path / "good.tar", {"0.png": picture_bytes(), "0.txt": b"x"})
    table = pa.table({"image": [{"bytes": picture_bytes()}], "text": ["x"]})
    if name.endswith("parquet"):
        (tmp_path / "good.tar").unlink()
        pq.write_table(table, tmp_path / "good.parquet")
    make(tmp_path / name, kind)
    code, printed = inspected(tmp_path)
    assert (code, counts(printed)) == (0, (2, 1, 1))
    assert "not a regular file" in printed


def test_folders_named_like_shards_or_tables_are_looked_into(tmp_path: Path) -> None:
    draw(tmp_path, "photos.tar/a.png")
    (tmp_path / "photos.tar/a.txt").write_text("a")
    (tmp_path / "odd.parquet").mkdir()
    assert counts(inspected(tmp_path)[1]) == (1, 1, 0)
    pq.write_table(pa.table({"image": [{"bytes": picture_bytes()}], "text": ["x"]}), tmp_path / "odd.parquet/0.parquet")
    (tmp_path / "photos.tar/a.txt").unlink()
    assert counts(inspected(tmp_path)[1]) == (1, 1, 0)


@pytest.mark.parametrize("name", ["a.csv", "a.tar", "a.parquet", "a.json", "a.jsonl", "a.txt", "a", "{a,b}.tar"])
def test_a_source_that_is_a_pipe_or_a_device_is_one_line(tmp_path: Path, name: str) -> None:
    made = name.replace("{a,b}", "a")
    os.mkfifo(tmp_path / made)
    assert "regular file" in inspected(tmp_path / name)[1]
    (tmp_path / made).unlink()
    (tmp_path / made).symlink_to("/dev/zero")
    assert re.search("regular file|link that leaves", inspected(tmp_path / name)[1])


@pytest.mark.parametrize("source", ["~nobody/x", "~nobody/x.csv", "~none-such/x.tar", "~none-such"])
def test_a_home_that_is_nobodys_is_one_line(source: str) -> None:
    assert "there is no" in inspected(source)[1]


def test_an_image_folder_in_a_home_that_is_nobodys_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\na.png,x\n")
    assert "~nobody/x is not a folder" in inspected(tmp_path / "a.csv", "--image-folder", "~nobody/x")[1]


# Sizes


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.json", "a.jsonl", "a.ndjson"])
def test_a_table_above_the_limit_is_refused_unread(tmp_path: Path, name: str) -> None:
    assert "MiB, the most that is read: write it as" in inspected(sparse(tmp_path / name))[1]
    if name != "a.txt":  # which is a caption file there
        assert "MiB, the most that is read: write it as" in inspected(tmp_path)[1]


def test_a_huge_list_or_index_is_one_line(tmp_path: Path) -> None:
    sparse(tmp_path / "state.json")
    assert "MiB, the most that is read" in inspected(tmp_path)[1]
    size = 10**9
    sparse(tmp_path / "a.parquet", size=size, start=b"PAR1", end=struct.pack("<I", size - 12) + b"PAR1")
    assert "index is larger than 64 MiB" in inspected(tmp_path / "a.parquet")[1]


def test_captions_and_pictures_above_the_limit_are_set_aside(tmp_path: Path) -> None:
    draw(tmp_path, "good.png", "long.png")
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "large.txt").write_text("large")
    sparse(tmp_path / "long.txt")
    sparse(tmp_path / "large.png")
    code, printed = inspected(tmp_path)
    assert (code, counts(printed)) == (0, (3, 1, 2))
    assert "long.txt is larger than 1 MiB" in printed
    assert "large.png is larger than 1,024 MiB" in printed


def test_parquet_columns_that_unpack_to_more_than_the_limit_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"image": ["a.png"], "caption": ["x" * 5000], "caption_vectors": ["x" * 50_000]}
    draw(tmp_path, "a.png")
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", compression="zstd")
    limit = "clipmem_core.pairs.readers.columnar.TABLE"
    monkeypatch.setattr(limit, TABLE._replace(size=20_000))
    assert inspected(tmp_path / "a.parquet")[0] == 0
    monkeypatch.setattr(limit, TABLE._replace(size=4000))
    assert "columns image, caption are larger than" in inspected(tmp_path / "a.parquet")[1]


def test_links_and_members_above_the_limit_are_set_aside_and_a_header_of_digits_ends_a_tar(tmp_path: Path) -> None:
    long = b"x" * (1 << 20) + b"y"
    members = {"0.png": picture_bytes(), "0.txt": b"x", "1.png": picture_bytes(), "1.txt": long, "2.json": long}
    write_tar(tmp_path / "a.tar", members)
    code, printed = inspected(tmp_path / "a.tar")
    assert (code, counts(printed)) == (0, (4, 1, 3))
    assert "a.tar/1.txt" in printed
    assert "member is larger than 1 MiB" in printed
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in [("0.png", b"0"), ("0.txt", b"0"), ("1.png", b"1"), ("folder", b"5"), ("pipe", b"6")]:
            info, data = tarfile.TarInfo(name), picture_bytes() if kind == b"0" else b""
            info.size, info.type, info.linkname = len(data), kind, "0.png"
            tar.addfile(info, io.BytesIO(data))
    code, printed = inspected(tmp_path / "a.tar")
    assert (code, counts(printed)) == (0, (3, 1, 2))
    assert "member is a link" in printed
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in [("0.png", {}), ("0.txt", {}), ("1.png", {"comment": "7" * 120_000})]:
            info, data = tarfile.TarInfo(name), picture_bytes()
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    assert counts(inspected(tmp_path / "a.tar")[1]) == (2, 1, 1)


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_a_header_of_gigabytes_ends_a_tar(tmp_path: Path, kind: bytes) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": picture_bytes(), "0.txt": b"x"})
    info = tarfile.TarInfo("1.png")
    info.type, info.size = kind, HUGE
    start = (tmp_path / "a.tar").read_bytes()[:2048]
    sparse(tmp_path / "a.tar", start=start + info.tobuf(tarfile.GNU_FORMAT), size=HUGE + 4096)
    code, printed = inspected(tmp_path / "a.tar")
    assert (code, counts(printed)) == (0, (2, 1, 1))
    assert "cut off or damaged" in printed


@pytest.mark.parametrize("size", ["-512", "-1", "-1024", "99999999999999999999", "x"])
def test_a_member_of_an_impossible_size_neither_hangs_nor_counts_as_a_picture(tmp_path: Path, size: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in [("0.png", {}), ("0.txt", {}), ("1.txt", {"size": size}), ("1.png", {})]:
            info, data = tarfile.TarInfo(name), picture_bytes() if name.endswith("png") else b"x"
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    check_balance(tmp_path / "a.tar")


# Braces


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..99999999}.tar",
        "{0..99999999999999999999999999}.tar",
        "{0..10000}.tar",
        "{a,b}" * 40 + ".tar",
        "{0..9}" * 5 + ".tar",
        "{{0..99},{0..99}}{0..99}.tar",
        "{a," * 500 + "a" + "}" * 500 + ".tar",
        "{" * 900 + "a" + "}" * 900 + ".tar",
        "{" * 2000 + ".tar",
    ],
)
def test_braces_that_name_too_much_are_refused(pattern: str) -> None:
    assert re.search("more than 10,000 shards|cannot be expanded|none of the|File name too long", inspected(pattern)[1])


@given(
    st.lists(st.sampled_from([*"{{}},,ab0 ", "\\", "..", "1..3", "{1..5..2}", "c..a", "{03..1}", "{a..c}"]), max_size=8)
)
@settings(max_examples=60)
def test_braces_below_the_limit_are_expanded_as_the_library_does(parts: list[str]) -> None:
    pattern = "".join(parts)
    try:
        wanted = [Path(text) for text in braceexpand(pattern)]
    except ValueError:
        with pytest.raises(InputError, match="braces cannot be expanded"):
            expand_pattern(pattern)
        return
    assert expand_pattern(pattern) == wanted


# Columns of every kind in Parquet and Arrow files

BLOBS = [picture_bytes(0), b"", None]
FAR = pa.array([0, 2**62, None], pa.int64())
COLUMNS: dict[str, pa.Array] = {
    "paths": pa.array(PICTURES[:3]),
    "texts": pa.array(["x", " ", None]),
    "large texts": pa.array(["a", "b\0", "nan"], pa.large_string()),
    "categories": pa.array(["x", "y", "x"]).dictionary_encode(),
    "bytes": pa.array(BLOBS, pa.binary()),
    "large bytes": pa.array(BLOBS, pa.large_binary()),
    "wholes": pa.array([0, -1, None], pa.int64()),
    "floats": pa.array([0.0, float("nan"), 1e308]),
    "truths": pa.array([True, False, None]),
    "nothing": pa.nulls(3),
    "dates": pa.array([0, 2**31 - 1, -(2**31)], pa.int32()).view(pa.date32()),
    "times": pa.array([0, 10**15 + 1, None], pa.int64()).view(pa.timestamp("ns")),
    "far times": FAR.view(pa.timestamp("us")),
    "times of no zone": FAR.view(pa.timestamp("us", "No/Where")),
    "spans": FAR.view(pa.duration("s")),
    "decimals": pa.array([1, 2, None]).cast(pa.decimal128(30, 2)),
    "lists": pa.array([["x", ""], [], None]),
    "lists of numbers": pa.array([[1, 2], [None], None], pa.list_(pa.uint8())),
    "maps": pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())),
    "pictures": pa.array([{"bytes": blob} for blob in BLOBS]),
    "pictures as text": pa.array([{"bytes": "x"}, {"bytes": None}, None]),
    "pictures as sizes": pa.array([{"bytes": 10**12}, {"bytes": 0}, None]),
    "pictures as times": pa.array([{"bytes": 0}] * 3).cast(pa.struct([("bytes", pa.timestamp("us"))])),
    "pictures as lists": pa.array(
        [{"bytes": [1, None]}, {"bytes": [1]}, None], pa.struct({"bytes": pa.list_(pa.uint8())})
    ),
    "a field twice": pa.StructArray.from_arrays([pa.array(["x"] * 3)] * 2, ["a", "a"]),
}
CLASSES = [
    None,
    json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}}),
    "[" * 100_000,
    "null",
    "\ud800",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    draw(folder, *PICTURES)
    return folder


def write_arrow(table: pa.Table, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    draw(folder, *PICTURES)
    with pa.OSFile(str(folder / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "0.arrow"}]}')
    return folder


@given(
    image=st.sampled_from(["paths", "pictures", *COLUMNS]),
    caption=st.sampled_from(["paths", *COLUMNS]),
    more=st.lists(
        st.tuples(st.sampled_from(["label", "id", "planted", "caption", "image"]), st.sampled_from(list(COLUMNS))),
        max_size=3,
    ),
    classes=st.sampled_from(CLASSES),
)
@settings(max_examples=30)
def test_columns_of_any_kind_are_read_or_refused(
    folder: Path, image: str, caption: str, more: list[tuple[str, str]], classes: str | None
) -> None:
    names = ["image", "caption", *(name for name, _ in more)]
    arrays = [COLUMNS[kind] for kind in (image, caption, *(kind for _, kind in more))]
    metadata = {"huggingface": classes.encode("utf-8", "surrogatepass")} if classes else None
    schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)], metadata)
    table = pa.Table.from_arrays(arrays, schema=schema)
    check_balance(write_arrow(table, folder / "saved"))
    with contextlib.suppress(pa.ArrowNotImplementedError, pa.ArrowInvalid):  # kinds that Parquet has no word for
        pq.write_table(table, folder / "set.parquet", row_group_size=2)
        check_balance(folder / "set.parquet")


def table_of(tmp_path: Path, **columns: Any) -> Path:
    draw(tmp_path, *PICTURES)
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    return tmp_path / "set.parquet"


@pytest.mark.parametrize("name", ["image", "caption", "id"])
def test_a_column_that_comes_twice_is_named(tmp_path: Path, name: str) -> None:
    draw(tmp_path, *PICTURES)
    names, arrays = ["image", "caption", "id", name], [COLUMNS["paths"]] * 4
    pq.write_table(pa.Table.from_arrays(arrays, names), tmp_path / "set.parquet")
    (tmp_path / "set.csv").write_text(",".join(names) + "\n0.png,x,1,y\n")
    for file in ("set.parquet", "set.csv"):
        assert f"{file} has the column {name!r} more than once: rename" in inspected(tmp_path / file)[1]


def test_columns_of_other_kinds_are_read_as_what_they_are_or_named(tmp_path: Path) -> None:
    code, printed = inspected(table_of(tmp_path, image=PICTURES[:3], caption=["x"] * 3, id=COLUMNS["far times"]))
    assert (code, counts(printed)) == (0, (3, 2, 1))
    assert "1970-01-01 00:00:00" in printed
    assert "value cannot be read" in printed
    path = table_of(tmp_path, image=COLUMNS["pictures as text"], caption=["x"] * 3)
    assert "'image' holds no picture bytes but struct<bytes: string>" in inspected(path)[1]
    path = table_of(tmp_path, image=COLUMNS["pictures"], text=["x"] * 3)
    assert "'image' holds pictures" in inspected(path, "--csv-caption-key", "image")[1]
    assert counts(inspected(path)[1]) == (3, 1, 2)
    draw(tmp_path, *PICTURES)
    columns = {"image": PICTURES[:3], "caption": ["x"] * 3, "label": [1.0, None, 7.0]}
    table = pa.table(columns).replace_schema_metadata({"huggingface": CLASSES[1]})
    pq.write_table(table, tmp_path / "set.parquet")
    printed = inspected(tmp_path / "set.parquet")[1]
    assert "│ dog " in printed


# Text of every kind

JUNK: list[Any] = [
    *(None, "", " ", "x", "nan", float("nan"), float("inf"), 0, 1.0, True, 10**400, [], {}, ["x", ""], [1], {"a": 1}),
    *(
        "0.png",
        "image",
        "../0.png",
        "/etc/passwd",
        "a\0b",
        "\ud83d",
        "\x1b[31m",
        "[bold]",
        '"',
        "a\nb",
        "p.png",
        "a/" * 3000,
    ),
    *("a.tar/0.png", "set.parquet#0", "%2e%2e/a", "C:\\a", "vague"),
]
VALUES = st.sampled_from(JUNK)
ROWS = st.lists(
    st.fixed_dictionaries({"caption": VALUES}, optional={"label": VALUES, "id": VALUES, "planted": VALUES}), max_size=3
)


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def write_rows(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows, each of its own picture, in a format; the last is one of no picture."""
    named = [{"image": name, **row} for name, row in zip([*PICTURES[: len(rows) - 1], None], rows, strict=True)]
    path = folder / f"any.{kind}"
    if kind in ("csv", "tsv"):
        keys = ["image", *dict.fromkeys(key for row in rows for key in row)]
        text = io.StringIO()
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
        spoken = [{"image_id": at, "caption": row["caption"]} for at, row in enumerate(named)]
        path.write_bytes(encoded({"images": images, "annotations": spoken}))
    elif kind == "tar":
        members = {f"{at}.json": encoded(row) for at, row in enumerate(named)}
        write_tar(path, {**members, **{name: picture_bytes(at) for at, name in enumerate(PICTURES)}})
    return path


@given(kind=st.sampled_from(["csv", "tsv", "jsonl", "json", "coco.json", "tar"]), rows=ROWS, last=VALUES)
@settings(max_examples=30)
def test_values_of_any_kind_are_read_or_set_aside(
    folder: Path, kind: str, rows: list[dict[str, Any]], last: Any
) -> None:
    rows = [{"caption": "good"}, *rows, {"caption": last}]
    check_balance(write_rows(folder, kind, rows[: len(PICTURES)]))


def test_a_header_that_comes_again_and_a_tar_that_holds_its_own_name_are_rows_set_aside(tmp_path: Path) -> None:
    draw(tmp_path, *PICTURES, "image")
    (tmp_path / "a.csv").write_text("image,caption\nimage,caption\n0.png,x\nimage,caption\n1.png,y\n")
    code, printed = inspected(tmp_path / "a.csv")
    assert (code, counts(printed)) == (0, (4, 2, 2))
    assert "row is the header once more" in printed
    write_tar(
        tmp_path / "a.tar",
        {"a.tar": b"x", "0.png": picture_bytes(), "0.txt": b"x", "a.tar/1.png": b"", "a.tar/1.txt": b"y"},
    )
    code, printed = inspected(tmp_path / "a.tar")
    assert (code, counts(printed)) == (0, (3, 1, 2))
    assert "only a.tar" in printed


def test_a_saved_data_set_with_names_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    for name in ("nul\0", "\ud800", "..", "", "x" * 5000):
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        inspected(tmp_path)


def test_a_name_that_is_not_text_is_a_fault_of_its_file_only(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": picture_bytes()}], "text": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "b\udcff.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert counts(inspected(tmp_path)[1]) == (2, 1, 1)


# Time and memory


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "coco", "tar"])
def test_a_path_of_millions_of_folders_goes_to_quarantine(tmp_path: Path, kind: str) -> None:
    draw(tmp_path, "0.png")
    names = ["0.png", f"{'a/' * (50_000 if kind == 'tar' else 3_000_000)}b.png"]  # longer names of members are refused
    source = tmp_path / f"set.{'json' if kind == 'coco' else kind}"
    if kind == "csv":
        source.write_text("".join(f"{name},x\n" for name in ["image", *names]).replace(",x", ",caption", 1))
    elif kind == "jsonl":
        source.write_text("\n".join(json.dumps({"image": name, "caption": "x"}) for name in names))
    elif kind == "parquet":
        pq.write_table(pa.table({"image": names, "caption": ["x", "x"]}), source)
    elif kind == "coco":
        images = [{"id": at, "file_name": name} for at, name in enumerate(names)]
        annotations = [{"image_id": at, "caption": "x"} for at in range(2)]
        source.write_text(json.dumps({"images": images, "annotations": annotations}))
    else:
        texts = {f"{name.removesuffix('.png')}.txt": "x" for name in names}
        write_tar(source, texts | dict.fromkeys(names, picture_bytes()))
    found = read_source(str(source), SourceOptions(), data=tmp_path)
    assert found.quarantine["reason"].tolist() == ["image path is longer than 4,096 characters"]
    assert found.pairs["image"].str.endswith("0.png").tolist() == [True]


def slow_records(lines: list[str]) -> list[tuple[int, list[str]]]:
    """Read records as the reader promises, from every line anew: the square of the file's length."""
    records, start = [], 0
    while start < len(lines):
        reader = csv.reader(lines[start:], strict=True, skipinitialspace=True)
        try:
            fields = next(reader)
        except csv.Error:
            records.append((start + 1, []))
            start += 1
            continue
        if fields:
            records.append((start + 1, fields))
        start += reader.line_num
    return records


@given(st.lists(st.text('",a ', max_size=6), max_size=8))
@settings(max_examples=60)
def test_stray_quotes_cost_what_reading_anew_from_every_line_would(folder: Path, lines: list[str]) -> None:
    lines = ["image,caption\n", '"a", "b"\n', *(f"{line}\n" for line in lines)]
    (folder / "quotes.csv").write_text("".join(lines))
    rows = read_delimited(folder / "quotes.csv", SourceOptions(csv_separator=",")).rows
    found = [(row.source, row.image, row.captions) for row in rows]
    wanted = [
        (f"quotes.csv:{at}", *((fields[0].strip(), fields[1]) if len(fields) == 2 else (None, None)))
        for at, fields in slow_records(lines)
    ]
    assert found == wanted[1:]


def test_stray_quotes_on_every_line_take_no_square_of_the_time(tmp_path: Path) -> None:
    draw(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("image,caption\n0.png,x\n" + 'a","c\n' * 30_000)
    assert counts(inspected(tmp_path / "a.csv")[1]) == (30_001, 1, 30_000)
