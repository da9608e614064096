"""Data sets at a URL or on the hub."""

import functools
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import fsspec
import pytest

from clipmem_core.dataset import remote
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.utils.io import InputError
from tests.dataset.samples import draw, picture_bytes, read, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of two pairs each."""
    folder = tmp_path / "set"
    folder.mkdir()
    for shard in range(2):
        members: dict[str, bytes | str] = {f"{row}.txt": f"pair {shard}{row}" for row in range(2)}
        members |= {f"{row}.png": picture_bytes(2 * shard + row) for row in range(2)}
        write_tar(folder / f"s-{shard}.tar", members)
    return folder


@pytest.fixture
def put(shards: Path) -> Iterator[str]:
    """A bucket in memory that holds the shards and a folder of pictures."""
    memory = fsspec.filesystem("memory")
    draw(shards.parent / "pictures", "a/x.png", "a/y.png")
    (shards.parent / "pictures/captions.csv").write_text(
        "filepath,title\na/x.png,one\na/y.png,two\n"
    )
    memory.put(f"{shards}/", "/bucket/set/", recursive=True)
    memory.put(f"{shards.parent}/pictures/", "/bucket/pictures/", recursive=True)
    yield "memory://bucket/set"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("ending", ["", "/s-{0..1}.tar", "/s-1.tar", "/../pictures"])
def test_a_url_is_read_like_a_local_path(
    put: str, shards: Path, tmp_path: Path, ending: str
) -> None:
    url = put.replace("set", "pictures") if "pictures" in ending else f"{put}{ending}"
    fetched = read(url, data=tmp_path / "data")
    local = read(f"{shards}{ending}")
    assert fetched.pairs.equals(local.pairs)
    assert fetched.root.parent == tmp_path / "data" / "sets"
    for image in local.pairs["image"]:
        assert read_bytes(fetched.root, image) == read_bytes(local.root, image)


def test_a_web_server_is_read_like_a_local_path(shards: Path, tmp_path: Path) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=shards)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetched = read(
            f"http://127.0.0.1:{server.server_port}/s-{{0..1}}.tar", data=tmp_path / "data"
        )
        server.shutdown()
    assert fetched.pairs.equals(read(shards / "s-{0..1}.tar").pairs)


def test_only_what_a_failed_download_lacks_is_fetched_and_a_changed_set_is_another(
    put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    fetched = list[str]()
    get = type(memory).get_file

    def noted(self: object, path: str, target: str, **more: object) -> None:
        fetched.append(path)
        if len(fetched) == 1:
            Path(target).write_bytes(b"the beginning")
            raise ConnectionResetError("it hung up")
        get(self, path, target, **more)

    monkeypatch.setattr(type(memory), "get_file", noted)
    monkeypatch.setattr(remote, "AT_ONCE", 1)
    with pytest.raises(InputError, match="cannot be reached: it hung up"):
        read(put, data=tmp_path)
    first = read(put, data=tmp_path)
    assert sorted(fetched) == ["/bucket/set/s-0.tar", "/bucket/set/s-0.tar", "/bucket/set/s-1.tar"]
    assert read(put, data=tmp_path).pairs.equals(first.pairs)
    assert len(fetched) == 3
    write_tar(tmp_path / "new.tar", {"0.txt": "another", "0.png": picture_bytes(9)})
    memory.put_file(str(tmp_path / "new.tar"), "/bucket/set/s-1.tar")
    assert read(put, data=tmp_path).pairs["captions"].tolist()[2:] == [["another"]]
    assert read_bytes(first.root, first.pairs["image"][3]) == picture_bytes(3)


@pytest.mark.parametrize(
    "url", ["memory://nowhere/set", "memory://nowhere/{0..1}.tar", "nosuch://a/b", "s3://a/b"]
)
def test_a_url_that_cannot_be_read_is_one_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    match = "there is no|cannot be reached"
    with pytest.raises(InputError, match=match) as caught:
        read(url, data=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_data_set_of_the_hub_is_downloaded_once_as_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    pictures = [{"bytes": picture_bytes(at), "path": None} for at in range(3)]
    columns = {"image": pictures, "caption": ["x", "y", "z"]}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    def load(name: str, *, split: str) -> datasets.Dataset:
        requests.append((name, split))
        return rows

    monkeypatch.setattr(remote, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        raw = read("owner/name", data=tmp_path, split="train[:3]")
        assert (raw.root, raw.format) == (tmp_path / "sets/owner--name", "huggingface")
        assert list(raw.pairs.captions) == [["x"], ["y"], ["z"]]
        assert read_bytes(raw.root, raw.pairs.image[2]) == picture_bytes(2)
    assert requests == [("owner/name", "train[:3]")]
    assert [path.suffix for path in raw.root.iterdir()] == [".parquet"]
