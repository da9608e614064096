"""Data sets that a URL or a name on the hub gives: in memory, on disk, and on an S3 of this process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest

from clipmem_core.config import InputError
from clipmem_core.pairs.readers import remote
from clipmem_core.pairs.readers.remote import is_hub_name
from clipmem_core.pairs.references import read_bytes
from tests.pairs.samples import draw, picture_bytes, read, write_tar


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
def put(shards: Path) -> Iterator[str]:
    """A bucket in memory that holds the shards and a folder of pictures."""
    memory = fsspec.filesystem("memory")
    draw(shards.parent / "pictures", "a/x.png", "a/y.png")
    (shards.parent / "pictures/captions.csv").write_text("filepath,title\na/x.png,one\na/y.png,two\n")
    memory.put(f"{shards}/", "/bucket/set/", recursive=True)
    memory.put(f"{shards.parent}/pictures/", "/bucket/pictures/", recursive=True)
    yield "memory://bucket/set"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("ending", ["", "/", "/s-{0..1}.tar", "/s-1.tar", "/../pictures"])
def test_what_is_at_a_url_is_read_as_on_disk(put: str, shards: Path, tmp_path: Path, ending: str) -> None:
    url = put.replace("set", "pictures") if "pictures" in ending else f"{put}{ending}"
    found, local = read(url, data=tmp_path / "data"), read(f"{shards}{ending}")
    assert found.pairs.equals(local.pairs)
    assert found.root.parent == tmp_path / "data" / "sets"
    for image in local.pairs["image"]:
        assert read_bytes(found.root, image) == read_bytes(local.root, image)


def test_only_what_changed_or_was_cut_short_is_fetched_again(
    put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, fetched = fsspec.filesystem("memory"), list[str]()
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
    assert fetched[3:] == ["/bucket/set/s-1.tar"]
    found = read(f"{put}/s-{{0..2}}.tar", data=tmp_path)
    assert len(found.pairs) == 3
    assert found.quarantine["source"].tolist() == ["s-2.tar"]


@pytest.mark.parametrize("url", ["memory://nowhere/set", "memory://nowhere/{0..1}.tar", "nosuch://a/b", "s3://a/b"])
def test_a_url_that_cannot_be_read_is_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"there is no|cannot be reached: (Protocol not known|Install s3fs)") as caught:
        read(url, data=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    names = ["nlphuji/flickr30k", "a/b-c.d_e", "here/set", "a/b.csv", "a/b/c", "name", "../a", "/a/b", "a/{0..3}.tar"]
    assert [name for name in names if is_hub_name(name)] == names[:2]


def test_a_data_set_of_the_hub_is_downloaded_once_and_kept_as_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        columns = {"image": [{"bytes": picture_bytes(at), "path": None} for at in range(3)], "caption": ["x", "y", "z"]}
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    monkeypatch.setattr(remote, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        raw = read("owner/name", data=tmp_path, split="train[:3]")
        assert (raw.root, raw.format) == (tmp_path / "sets/owner--name", "huggingface")
        assert list(raw.pairs.captions) == [["x"], ["y"], ["z"]]
        assert [read_bytes(raw.root, image) for image in raw.pairs.image] == [picture_bytes(at) for at in range(3)]
    assert asked == [("owner/name", "train[:3]")]
    assert [path.suffix for path in raw.root.iterdir()] == [".parquet"]


def test_without_a_network_or_room_one_line_says_so_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(remote, "hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"'owner/name' is not a path here.*no route to the hub") as caught:
        read("owner/name", data=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    class Full:
        def to_parquet(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Full())
    with pytest.raises(InputError, match="owner/name cannot be read: No space left"):
        read("owner/name", data=tmp_path)
    assert list((tmp_path / "sets/owner--name").iterdir()) == []


def test_a_hub_that_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever listens takes the connection and says nothing: on its own, the client waits 10 s, and that six times."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hidden = {
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "CLIPMEM_DATA": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        command = [sys.executable, "-m", "clipmem_core", "inspect", "owner/name"]
        environment = {**os.environ, **hidden}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
