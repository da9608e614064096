"""Shards and Parquet files that are read from a URL: the same pairs and pictures as of files that are here."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmem_core.commands import main
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.exports.cleaned import sample_keys
from clipmem_core.pairs.pictures import check_chunk
from clipmem_core.pairs.readers import remote, streamed
from clipmem_core.pairs.references import read_ahead, read_bytes
from clipmem_core.pairs.table import read_source
from tests.pairs.samples import picture_bytes, write_tar

URL = "memory://bucket/set"
read = functools.partial(read_source, options=SourceOptions(stream=True))
read_here = functools.partial(read_source, options=SourceOptions())


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Three shards of pictures, of which one is cut, and one that is no tar."""
    folder = tmp_path / "set"
    folder.mkdir()
    for shard in range(3):
        texts = {f"./{row}.txt": f"pair {shard}{row}" for row in range(4)} | {f"{shard}-alone.json": '{"caption": 1}'}
        pictures = {f"./{row}.png": picture_bytes(40 * shard + row) for row in range(4)}
        write_tar(folder / f"s-{shard}.tar", {"a.json": "no JSON"} | texts | pictures)
    cut = folder / "s-1.tar"
    cut.write_bytes(cut.read_bytes()[:-11_000])
    (folder / "s-3.tar").write_bytes(b"no tar at all" * 100)
    (folder / "s-0_stats.json").write_text('{"count": 4}')
    table = pa.table(
        {"image": [picture_bytes(row) for row in range(10)], "caption": [f"row {row}" for row in range(10)]}
    )
    (folder / "tables").mkdir()
    pq.write_table(table, folder / "tables/p.parquet", row_group_size=4)
    pq.write_table(table.slice(3), folder / "tables/q.parquet", row_group_size=4)
    return folder


@pytest.fixture
def memory(there: Path) -> Iterator[Any]:
    """A bucket in memory that holds the set."""
    bucket = fsspec.filesystem("memory")
    bucket.put(f"{there}/", "/bucket/set/", recursive=True)
    yield bucket
    bucket.rm("/bucket", recursive=True)


@pytest.fixture
def asked(memory: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the bucket: the names of files fetched whole, and `name start end` of ranges."""
    seen: list[str] = []
    for name in ("get_file", "cat_file"):
        own = getattr(type(memory), name)

        def noted(self: Any, path: str, *given: Any, own: Any = own, **more: Any) -> Any:
            place = [str(more[key]) for key in ("start", "end") if key in more]
            seen.append(" ".join([path.removeprefix("/bucket/set/"), *place]))
            return own(self, path, *given, **more)

        monkeypatch.setattr(type(memory), name, noted)
    return seen


def whole(data: Path) -> list[Path]:
    """The shards that are in a data folder."""
    return [path for path in data.rglob("*.tar*") if path.stat().st_size > 4096]


@pytest.mark.parametrize("ending", ["", "/s-{0..4}.tar", "/s-1.tar", "/tables", "/tables/p.parquet"])
def test_rows_and_pictures_are_those_of_files_that_are_here(
    memory: Any, there: Path, tmp_path: Path, ending: str
) -> None:
    found, local = read(f"{URL}{ending}", data=tmp_path / "data"), read_here(f"{there}{ending}", data=tmp_path)
    assert found.pairs.equals(local.pairs)
    assert found.quarantine.equals(local.quarantine)
    assert (found.rows, found.format) == (local.rows, local.format)
    images = local.pairs["image"].tolist()
    how: dict[str, Any] = {"size": 8, "resize_mode": "squash", "pixels": None}
    chunk = list(enumerate(images))
    assert check_chunk(chunk, root=found.root, **how) == check_chunk(chunk, root=local.root, **how)
    for image in images:
        assert read_bytes(found.root, image) == read_bytes(local.root, image)
    assert sample_keys(found.root, pa.array(images)) == sample_keys(local.root, pa.array(images))
    assert not whole(tmp_path / "data")


def test_a_shard_is_here_only_while_it_is_read_for_the_first_time(
    memory: Any, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "AT_ONCE_STREAMED", 2)
    own, seen, said = remote.kept_of_shard, list[int](), list[str]()

    def watched(path: Path, name: str) -> Any:
        seen.append(len(list(tmp_path.rglob("*.whole"))))
        return own(path, name)

    monkeypatch.setattr(remote, "kept_of_shard", watched)
    first = read(URL, data=tmp_path / "data", say=said.append)
    assert 1 <= max(seen) <= 2
    assert not whole(tmp_path / "data")
    fetched = [name for name in asked if not name.endswith(" 0 1")]  # but for whether there are ranges
    assert sorted(fetched) == ["s-0.tar", "s-0_stats.json", "s-1.tar", "s-2.tar", "s-3.tar"]
    assert [line for line in said if line.startswith("s-2.tar is read: ")]
    assert read(URL, data=tmp_path / "data").pairs.equals(first.pairs)
    assert len(asked) == 11


def test_of_parquet_files_captions_alone_are_read_with_the_rows(
    memory: Any, asked: list[str], there: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    blobs = [rng.bytes(50_000) for _ in range(8)]
    pq.write_table(pa.table({"image": blobs, "caption": ["a"] * 8}), there / "p.parquet", row_group_size=4)
    memory.put_file(f"{there}/p.parquet", "/bucket/set/big/p.parquet")
    found = read(f"{URL}/big", data=tmp_path)
    assert not [line for line in asked if len(line.split()) < 3]
    assert sum(int(end) - int(start) for _, start, end in map(str.split, asked)) < 100_000
    assert read_bytes(found.root, "p.parquet#6") == blobs[6]


def test_neighbours_are_fetched_at_one_request_and_a_single_picture_alone(
    memory: Any, asked: list[str], tmp_path: Path
) -> None:
    found = read(URL, data=tmp_path)
    images = found.pairs["image"].tolist()
    asked.clear()
    read_ahead(found.root, [*images, "s-0.tar/none.png", "s-9.tar/0.png"])
    assert [line.split()[0] for line in asked] == ["s-0.tar", "s-1.tar", "s-2.tar"]
    assert len({read_bytes(found.root, image) for image in images}) == len(images)
    assert len(asked) == 3
    assert read_bytes(found.root, images[0]) == picture_bytes(0)
    assert (len(asked), asked[3].split()[0]) == (4, "s-0.tar")


@pytest.mark.parametrize("times", [2, 99])
def test_a_connection_that_is_lost_is_tried_again_and_then_told_of(
    memory: Any,
    there: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: int,
) -> None:
    monkeypatch.setattr(streamed, "WAITS", (0.0,) * 3)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    own, left = type(memory).cat_file, [times]

    def failing(self: Any, *given: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionResetError("it hung up")
        return own(self, *given, **more)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    assert main(["inspect", URL, "--stream"]) == (0 if times == 2 else 2)
    if times == 2:
        assert "11" in capsys.readouterr().out
        return
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: what is at a URL cannot be reached")
    assert "the same command goes on where it stopped" in line
    assert "it hung up" in line


def test_a_file_that_has_changed_since_is_not_taken_for_the_one_that_was_read(
    memory: Any, there: Path, tmp_path: Path
) -> None:
    found = read(URL, data=tmp_path)
    write_tar(there / "s-0.tar", {"0.txt": "another", "./0.png": picture_bytes(200), "other.txt": "x" * 50_000})
    memory.put_file(f"{there}/s-0.tar", "/bucket/set/s-0.tar")
    streamed._is_same.cache_clear()
    with pytest.raises(InputError, match="s-0.tar has changed at its URL"):
        read_bytes(found.root, "s-0.tar/0.png")
    memory.rm("/bucket/set/s-2.tar")
    with pytest.raises(FileNotFoundError, match="picture 's-2.tar/0.png' cannot be read"):
        read_bytes(found.root, "s-2.tar/0.png")
    assert read(URL, data=tmp_path).pairs["captions"].tolist()[0] == ["another"]
    assert read_bytes(found.root, "s-0.tar/0.png") == picture_bytes(200)


def test_what_cannot_be_streamed_is_refused_in_a_line(
    memory: Any, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/bucket/set/pictures/a.csv", b"filepath,title\na.png,one\n")
    with pytest.raises(InputError, match="--stream is for .* there is none at memory://bucket/set/pictures: leave"):
        read(f"{URL}/pictures", data=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "cat_file", lambda *given, **more: b"all of it")
        with pytest.raises(InputError, match="tar is at a server that gives no ranges of bytes"):
            read(f"{URL}/s-{{0..2}}.tar", data=tmp_path)
    table = there / "paths.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "caption": ["one"]}), table)
    memory.put_file(str(table), "/bucket/set/pictures/paths.parquet")
    with pytest.raises(InputError, match="pictures of memory.* are not inside its shards or Parquet files"):
        read(f"{URL}/pictures/paths.parquet", data=tmp_path)


def test_a_shard_that_may_not_be_read_is_named_and_asked_for_again(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = type(memory).get_file

    def guarded(self: Any, path: str, *given: Any, **more: Any) -> None:
        if "s-2" in path:
            raise PermissionError("Forbidden")
        get(self, path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", guarded)
        found = read(URL, data=tmp_path / "data").quarantine
        assert found["reason"][found["source"] == "s-2.tar"].tolist() == ["shard cannot be read: Forbidden"]
    assert "s-2.tar" not in read(URL, data=tmp_path / "data").quarantine["source"].tolist()


def test_files_that_are_here_are_read_in_place(there: Path, tmp_path: Path) -> None:
    for source in (str(there), f"file://{there}"):
        assert read(source, data=tmp_path / "data").root == there
    assert not (tmp_path / "data").exists()
