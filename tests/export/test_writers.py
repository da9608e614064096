"""Each format as its tool reads it: pandas and open_clip, COCO, datasets, webdataset, DataComp,
Pillow."""

import subprocess
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.export.formats import Summary, export_audit
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.utils.io import InputError
from tests.dataset.samples import write_tar
from tests.export.sources import CAPTIONS, LABELS, audited, make_source, picture

TEXTS = [text for captions in CAPTIONS for text in captions]


def size_of(image: Image.Image) -> tuple[int, int]:
    with image:
        return image.size


def as_printed(summary: Summary) -> Namespace:
    """Parse the flags of the line that says how open_clip reads an export, as a shell and open_clip
    do."""
    script = f'printf "%s\\0" {summary.notes[-1].removeprefix("open_clip reads it with ")}'
    typed = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return pytest.importorskip("open_clip_train.params").parse_args(typed.split("\0")[:-1])


def test_open_clip_reads_every_caption_and_every_picture(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = audited(make_source("tar", tmp_path / "set"))
    summary = export_audit(audit, "csv", tmp_path / "its folder" / "clean.csv")
    monkeypatch.chdir(data)
    printed = as_printed(summary)
    read = pytest.importorskip("open_clip_train.data").CsvDataset(
        printed.train_data,
        size_of,
        printed.csv_img_key,
        printed.csv_caption_key,
        sep=printed.csv_separator,
        tokenizer=lambda texts: texts,
    )
    assert [read[at] for at in range(len(read) - 1)] == [((24, 24), text) for text in TEXTS[:-1]]


@pytest.mark.parametrize("captions", [0, 1])
def test_the_library_datasets_reads_captions_and_ids_beside_pictures(
    tmp_path: Path, data: Path, captions: int
) -> None:
    datasets = pytest.importorskip("datasets")
    audit = audited(make_source("csv", tmp_path / "set"), captions=captions)
    export_audit(audit, "imagefolder", tmp_path / "out")
    where = {"data_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
    read = datasets.load_dataset("imagefolder", split="train", **where)
    rows = {row["pair_id"]: row for row in read}
    assert set(read.column_names) == {"image", "text", "pair_id", "label"}
    for at, texts in enumerate(audit.pairs["captions"]):
        row = rows[f"id {at}"]
        assert row["text"] == (texts[0] if captions else list(texts))
        assert (row["label"] or "", row["image"].size) == (LABELS[at] or "", (24, 24))


def remove(audit: Audit, *rows: int) -> None:
    open_review(audit).decide([audit.pairs["pair_id"][row] for row in rows], REMOVE)


def write_shard(path: Path, names: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    members = dict[str, bytes | str]()
    for number, name in enumerate(names):
        members |= {name: picture(number), f"{name.rpartition('.')[0]}.txt": f"caption of {name}"}
    write_tar(path, members)


@pytest.mark.parametrize("prefix", ["", "./deep.er/"])
def test_webdataset_keeps_exactly_the_samples_of_the_list(
    tmp_path: Path, data: Path, prefix: str
) -> None:
    write_shard(tmp_path / "set/a.tar", [f"{prefix}{at}.jpg" for at in range(4)])
    write_shard(tmp_path / "set/b.tar", [f"{prefix}{at}.png" for at in (9, 8, 7)])
    audit = audited(tmp_path / "set")
    remove(audit, 1, 5)
    summary = export_audit(audit, "wds", tmp_path / "keys.txt")
    expected = [f"{prefix}{at}" for at in (0, 2, 3, 9, 7)]
    listed = (tmp_path / "keys.txt").read_text().splitlines()
    keys = []
    for shard in sorted((tmp_path / "set").glob("*.tar")):
        with shard.open("rb") as stream:  # webdataset would leave it open
            samples = group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}]))
            keys += [sample["__key__"] for sample in samples]
    assert listed == [key for key in keys if key in listed] == expected
    assert (summary.notes, summary.command) == ((), "")


def test_shared_keys_and_lost_captions_are_reported(tmp_path: Path, data: Path) -> None:
    for shard in "ab":
        write_shard(tmp_path / f"set/{shard}.tar", ["1.jpg", "2.jpg"])
    audit = audited(tmp_path / "set")
    remove(audit, 2)
    open_review(audit).decide([audit.pairs["pair_id"][1]], RECAPTION, captions=["new"])
    notes = export_audit(audit, "wds", tmp_path / "keys.txt").notes
    assert [note[:9] for note in notes] == ["1 pair wi", "1 removed"]


UIDS = [
    "ffffffffffffffff0000000000000001",
    "000000000000000A00000000000000ff",
    "000000000000000a0000000000000001",
]


def uid_source(folder: Path, ids: list[str]) -> Path:
    folder.mkdir()
    for number in range(len(ids)):
        (folder / f"{number}.png").write_bytes(picture(number))
    images = [f"{number}.png" for number in range(len(ids))]
    pd.DataFrame({"filepath": images, "title": "x", "uid": ids}).to_csv(
        folder / "set.csv", index=False
    )
    return folder / "set.csv"


def test_uids_are_two_numbers_each_sorted_by_hand(tmp_path: Path, data: Path) -> None:
    audit = audited(uid_source(tmp_path / "set", UIDS))
    open_review(audit).decide([UIDS[0]], REMOVE)
    summary = export_audit(audit, "datacomp", tmp_path / "uids.npy")
    result = np.load(tmp_path / "uids.npy", allow_pickle=False)
    assert result.dtype == np.dtype("u8,u8")
    assert result.tolist() == [(10, 1), (10, 255)]
    assert (summary.notes, list(tmp_path.glob("*.csv"))) == ((), [])


def test_ids_that_are_no_uids_are_refused(tmp_path: Path, data: Path) -> None:
    for number, other in enumerate(("0" * 31, "0" * 33, "g" + "0" * 31, "０" * 32)):
        audit = audited(uid_source(tmp_path / f"set{number}", [other, UIDS[0]]), f"mine{number}")
        with pytest.raises(InputError, match="--csv-id-key"):
            export_audit(audit, "datacomp", tmp_path / "uids.npy")
    assert not list(tmp_path.glob("*.npy"))
