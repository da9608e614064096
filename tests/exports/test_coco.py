import json
from pathlib import Path

import pytest

from clipmem_core.exports import coco, write
from tests.exports.sources import CAPTIONS, LABELS, audited, make_source


@pytest.mark.parametrize("at_once", [3, 20_000])
def test_it_is_laid_out_as_coco_is(tmp_path: Path, data: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "PAIRS_AT_ONCE", at_once)
    write(audited(make_source("csv", tmp_path / "set")), "coco", tmp_path / "clean.json")
    value = json.loads((tmp_path / "clean.json").read_text(encoding="utf-8"))
    images = {image["id"]: image for image in value["images"]}
    assert list(images) == list(range(1, 11))
    assert images[4] == {
        "id": 4,
        "file_name": "images/3.png",
        "width": 24,
        "height": 24,
        "pair_id": "id 3",
        "label": LABELS[3],
    }
    assert "label" not in images[2]
    assert [entry["id"] for entry in value["annotations"]] == list(range(1, sum(map(len, CAPTIONS)) + 1))
    for key, texts in enumerate(CAPTIONS, start=1):
        assert [entry["caption"] for entry in value["annotations"] if entry["image_id"] == key] == texts


def test_pictures_of_archives_are_named_relative_to_their_folder(tmp_path: Path, data: Path) -> None:
    summary = write(audited(make_source("parquet", tmp_path / "set")), "coco", tmp_path / "clean.json")
    value = json.loads((tmp_path / "clean.json").read_text(encoding="utf-8"))
    assert value["images"][1]["file_name"] == "00000001.png"
    assert (tmp_path / "clean_images/00000001.png").is_file()
    assert f"--image-folder {tmp_path / 'clean_images'}" in summary.command
