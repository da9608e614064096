from pathlib import Path
from typing import Any

import datasets
import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.hub import is_hub_name
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import read_source
from tests.pairs.samples import picture_bytes


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


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        InputError, match=r"'owner/name' is not a path here.*no route to the hub.*check name, --split"
    ) as caught:
        read_source("owner/name", SourceOptions(), data=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_off_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def to_parquet(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Full())
    with pytest.raises(InputError, match="owner/name cannot be read: No space left"):
        read_source("owner/name", SourceOptions(), data=tmp_path)
    assert list((tmp_path / "sets/owner--name").iterdir()) == []
