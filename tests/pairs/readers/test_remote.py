"""Data sets that a URL names: in memory, on disk, and on an S3 of this process."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmem_core.commands import main
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers import remote
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import draw, picture_bytes, write_tar


def read(source: str, data: Path) -> RawPairs:
    return read_source(source, SourceOptions(), data=data)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of two pairs each."""
    folder = tmp_path / "set"
    folder.mkdir()
    for shard in range(2):
        texts = {f"{row}.txt": f"pair {shard}{row}" for row in range(2)}
        write_tar(folder / f"s-{shard}.tar", texts | {f"{row}.png": picture_bytes(2 * shard + row) for row in range(2)})
    return folder


@pytest.fixture
def put(shards: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket in memory that holds the shards."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/bucket/set/", recursive=True)
    yield "memory://bucket/set"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("ending", ["", "/", "/s-{0..1}.tar"])
def test_shards_at_a_url_are_read_as_those_on_disk(put: str, shards: Path, tmp_path: Path, ending: str) -> None:
    found, local = read(f"{put}{ending}", tmp_path / "data"), read(f"{shards}{ending}", tmp_path)
    assert found.pairs.equals(local.pairs)
    assert found.root.parent == tmp_path / "data" / "sets"
    for image in local.pairs["image"]:
        assert read_bytes(found.root, image) == read_bytes(local.root, image)


def test_a_file_and_a_folder_of_pictures_at_a_url_are_read(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    draw(tmp_path / "set", "a/x.png", "a/y.png")
    (tmp_path / "set" / "captions.csv").write_text("filepath,title\na/x.png,one\na/y.png,two\n")
    table = pa.table({"image": [picture_bytes(7)], "caption": ["inside"]})
    pq.write_table(table, tmp_path / "set" / "a" / "pairs.parquet")
    memory.put(f"{tmp_path / 'set'}/", "/pictures/", recursive=True)
    try:
        assert read("memory://pictures", tmp_path / "data").pairs["captions"].tolist() == [["one"], ["two"]]
        assert read("memory://pictures/a/pairs.parquet", tmp_path / "data").pairs["captions"].tolist() == [["inside"]]
    finally:
        memory.rm("/pictures", recursive=True)


def test_a_file_url_is_read_where_it_lies(shards: Path, tmp_path: Path) -> None:
    found = read(f"file://{shards}", tmp_path / "data")
    assert (found.root, len(found.pairs)) == (shards, 4)
    assert not (tmp_path / "data").exists()


def test_only_what_changed_or_was_cut_short_is_fetched_again(
    put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, fetched = fsspec.filesystem("memory"), list[str]()
    get = type(memory).get_file

    def noted(self: object, path: str, target: str, **more: object) -> None:
        fetched.append(path)
        if len(fetched) == 1:
            Path(target).write_bytes(b"the beginning")
            raise KeyboardInterrupt
        get(self, path, target, **more)

    monkeypatch.setattr(type(memory), "get_file", noted)
    monkeypatch.setattr(remote, "AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt):
        read(put, tmp_path)
    first = read(put, tmp_path)
    assert sorted(fetched) == ["/bucket/set/s-0.tar", "/bucket/set/s-0.tar", "/bucket/set/s-1.tar"]
    assert read(put, tmp_path).pairs.equals(first.pairs)
    assert len(fetched) == 3
    write_tar(tmp_path / "new.tar", {"0.txt": "another", "0.png": picture_bytes(9)})
    memory.put_file(str(tmp_path / "new.tar"), "/bucket/set/s-1.tar")
    assert read(put, tmp_path).pairs["captions"].tolist()[2:] == [["another"]]
    assert fetched[3:] == ["/bucket/set/s-1.tar"]


def test_a_shard_that_is_missing_is_named_and_the_others_are_read(put: str, tmp_path: Path) -> None:
    found = read(f"{put}/s-{{0..2}}.tar", tmp_path)
    assert len(found.pairs) == 4
    assert found.quarantine["source"].tolist() == ["s-2.tar"]


def test_a_shard_is_not_missing_where_a_file_on_this_machine_is(
    put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = type(fsspec.filesystem("memory"))
    get = memory.get_file

    def deleted(self: object, path: str, target: str, **more: object) -> None:
        get(self, path, target, **more)
        if "s-0" in path:
            Path(target).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(memory, "get_file", deleted)
        with pytest.raises(InputError, match="cannot be reached"):
            read(put, tmp_path)
    assert len(read(put, tmp_path).pairs) == 4


@pytest.mark.parametrize("times", [2, 99])
def test_a_connection_that_is_lost_is_tried_again_and_then_told_of(
    put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], times: int
) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 3)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    memory, left = type(fsspec.filesystem("memory")), [times]
    own = memory.get_file

    def failing(self: object, *given: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionResetError("it hung up")
        own(self, *given, **more)

    monkeypatch.setattr(memory, "get_file", failing)
    assert main(["inspect", put]) == (0 if times == 2 else 2)
    if times == 99:
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: what is at a URL cannot be reached")
        assert "it hung up" in line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nowhere/set", "there is nothing at memory://nowhere/set"),
        ("memory://nowhere/{0..1}.tar", "there is no '0.tar' in /nowhere"),
        ("nosuch://bucket/set", "nosuch://bucket/set cannot be reached: Protocol not known: nosuch"),
        ("s3://bucket/set", "s3://bucket/set cannot be reached: Install s3fs"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(
    url: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    assert main(["inspect", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    with pytest.raises(InputError):
        read(url, tmp_path)


def test_shards_in_a_bucket_of_s3(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("bucket")
        bucket.put(f"{shards}/", "bucket/set/", recursive=True)
        assert read("s3://bucket/set", tmp_path / "data").pairs.equals(read(str(shards), tmp_path).pairs)
        with pytest.raises(InputError, match="there is nothing at s3://bucket/other"):
            read("s3://bucket/other", tmp_path)
    finally:
        server.stop()
