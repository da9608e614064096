"""An audit whose data set is read from a URL: the same, bit for bit, as of the set fetched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipmem_core.audits.run import run_audit
from clipmem_core.audits.setup import check_same
from clipmem_core.audits.store import Audit, file_sha256
from clipmem_core.dashboard.thumbnails import large_picture
from clipmem_core.pairs import pixels
from clipmem_core.pairs.readers import streamed
from clipmem_core.pairs.scenes.drawing import draw_scenes
from clipmem_core.training.model import build_model
from tests.audits.small import Silent, config_of
from tests.audits.test_locked import FLAGS, files_of, flags
from tests.pairs.samples import write_tar

SHARDS, PAIRS, BROKEN = 4, 220, 7
SHARDS_URL, TABLES_URL = "memory://bucket/shards/{0..3}.tar", "memory://bucket/tables"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model to lock; the drawn set, one picture broken, is in a bucket as shards and Parquet files."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_scenes(folder / "set", pairs=PAIRS, seed=0)
    rows = pd.read_json(folder / "set/captions.jsonl", lines=True)
    data = [(folder / "set" / image).read_bytes() for image in rows["image"]]
    data[BROKEN] = data[BROKEN][:300]
    for kind in ("shards", "tables"):
        (folder / kind).mkdir()
    for shard in range(SHARDS):
        own = range(shard * PAIRS // SHARDS, (shard + 1) * PAIRS // SHARDS)
        texts: dict[str, bytes | str] = {f"{n:04d}.json": json.dumps({"captions": rows["captions"][n]}) for n in own}
        write_tar(folder / f"shards/{shard}.tar", texts | {f"{n:04d}.png": data[n] for n in own})
        table = pa.table({"image": [data[n] for n in own], "captions": [rows["captions"][n] for n in own]})
        pq.write_table(table, folder / f"tables/{shard}.parquet", row_group_size=20)
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), folder / "tiny.pt")
    bucket = fsspec.filesystem("memory")
    bucket.put(f"{folder}/", "/bucket/", recursive=True)
    yield folder
    bucket.rm("/bucket", recursive=True)


def ask(drawn: Path, url: str, *more: str) -> Audit:
    flagged = flags(str(drawn / "tiny.pt"), "--members", "2", *more, base=FLAGS)
    return run_audit(url, config_of(flagged), name="a", screen=Silent())


def results(audit: Audit) -> dict[str, str]:
    """What an audit left, but its record of where and when."""
    tables = {path.name: file_sha256(path) for path in audit.folder.glob("*.parquet")}
    members = {name: value for name, value in files_of(audit).items() if not name.endswith("log.jsonl")}
    return tables | members | {"content": audit.record.dataset_fingerprint, "key": audit.record.fingerprint}


@pytest.mark.parametrize("url", [SHARDS_URL, TABLES_URL])
def test_a_streamed_audit_is_the_one_of_the_set_fetched(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "fetched"))
    fetched = ask(drawn, url)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "streamed"))
    found = ask(drawn, url, "--stream")
    assert results(found) == results(fetched)
    assert found.record.quarantined == 1
    check_same(fetched, url, found.record.config)
    size = {
        name: sum(path.stat().st_size for path in (tmp_path / name / "sets").rglob("*.[tp]ar*"))
        for name in ("fetched", "streamed")
    }
    assert size["streamed"] < size["fetched"] / 3
    for image in found.pairs["image"][:3]:
        shown, _, fault = large_picture(found.record.pictures, image)
        assert (shown, fault) == (large_picture(fetched.record.pictures, image)[0], "")


@pytest.mark.parametrize("calls", [8, 13, 18])
def test_where_the_url_is_lost_the_same_command_goes_on(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(streamed, "WAITS", ())
    monkeypatch.setattr(pixels, "_CHUNK_STREAMED", 20)
    memory = fsspec.filesystem("memory")
    own, asked, lost = type(memory).cat_file, list[tuple[Any, ...]](), list[int]()

    def failing(self: Any, path: str, start: int, end: int) -> Any:
        if len(asked) in lost:
            raise ConnectionResetError("it hung up")
        asked.append((path, start, end))
        return own(self, path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "whole"))
    whole = ask(drawn, SHARDS_URL, "--stream")
    needed = len(asked)
    asked.clear()
    lost.append(calls)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "lost"))
    with pytest.raises(OSError, match="it hung up"):
        ask(drawn, SHARDS_URL, "--stream")
    lost.clear()
    assert results(ask(drawn, SHARDS_URL, "--stream")) == results(whole)
    assert needed <= len(asked) <= needed + 6  # the part that failed, and batches that were on their way
