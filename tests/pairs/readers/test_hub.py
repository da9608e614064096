import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers import remote
from clipmem_core.pairs.readers.remote import is_hub_name
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import read_source
from tests.pairs.samples import picture_bytes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "hub_answers", lambda: True)


def test_a_hub_name_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    names = [
        "nlphuji/flickr30k",
        "a/b-c.d_e",
        "here/set",
        "a/b.csv",
        "a/b/c",
        "name",
        "../a",
        "/a/b",
        "a/{0..3}.tar",
        "./a",
    ]
    assert [name for name in names if is_hub_name(name)] == names[:2]


@pytest.mark.usefixtures("online")
def test_a_data_set_is_downloaded_once_and_kept_as_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        columns = {"image": [{"bytes": picture_bytes(at), "path": None} for at in range(3)], "caption": ["x", "y", "z"]}
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        raw = read_source("owner/name", SourceOptions(split="train[:3]"), data=tmp_path)
        assert raw.root == tmp_path / "sets/owner--name"
        assert list(raw.pairs.captions) == [["x"], ["y"], ["z"]]
        assert [read_bytes(raw.root, image) for image in raw.pairs.image] == [picture_bytes(at) for at in range(3)]
        assert raw.format == "huggingface"
    assert asked == [("owner/name", "train[:3]")]
    assert [path.suffix for path in raw.root.iterdir()] == [".parquet"]


@pytest.mark.usefixtures("online")
def test_without_a_network_or_room_one_line_says_what_to_do_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        InputError, match=r"'owner/name' is not a path here.*no route to the hub.*check name, --split"
    ) as caught:
        read_source("owner/name", SourceOptions(), data=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    class Full:
        def to_parquet(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Full())
    with pytest.raises(InputError, match="owner/name cannot be read: No space left"):
        read_source("owner/name", SourceOptions(), data=tmp_path)
    assert list((tmp_path / "sets/owner--name").iterdir()) == []


INSPECT = ("-m", "clipmem_core", "inspect", "owner/name")
BUILD = """
from clipmem_core.config import InputError
from clipmem_core.training.model import build_model
try:
    build_model("ViT-B-32", loss="clip", seed=0, pretrained="openai")
except InputError as error:
    raise SystemExit(2)
"""


@pytest.mark.parametrize("typed", [INSPECT, ("-c", BUILD)], ids=["a data set", "weights"])
def test_a_hub_that_is_silent_is_not_waited_for(tmp_path: Path, typed: tuple[str, ...]) -> None:
    """Whoever listens takes the connection and says nothing: left alone, the client waits 10 s, and that six times."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hidden = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path),
            "CLIPMEM_DATA": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, *typed]
        environment = {**os.environ, **hidden}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert typed is not INSPECT or done.stderr.count("\n") == 1
