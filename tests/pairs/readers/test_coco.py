import json
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import draw

IMAGES = [{"id": 11, "file_name": "a.png"}, {"id": 12, "file_name": "b.png"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 12, "caption": "b one"},
    {"id": 2, "image_id": 11, "caption": "a one\n"},
    {"id": 3, "image_id": 12, "caption": "b two"},
]


def read(path: Path, images: Any, annotations: Any, *, image_folder: str = "") -> RawPairs:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return read_source(str(path), SourceOptions(image_folder=image_folder), data=path.parent)


@pytest.mark.parametrize(
    ("file", "pictures", "root", "prefix"),
    [
        ("captions.json", ".", ".", ""),
        ("captions.json", "images", ".", "images/"),
        ("captions_val2017.json", "val2017", ".", "val2017/"),
        ("annotations/captions_val2017.json", "val2017", ".", "val2017/"),
        ("annotations/captions_val2017.json", "images/val2017", ".", "images/val2017/"),
    ],
)
def test_pictures_are_found_in_the_usual_places(
    tmp_path: Path, file: str, pictures: str, root: str, prefix: str
) -> None:
    draw(tmp_path / pictures, "a.png", "b.png")
    raw = read(tmp_path / file, IMAGES, ANNOTATIONS)
    assert raw.root == tmp_path / root
    assert list(raw.pairs.image) == [f"{prefix}b.png", f"{prefix}a.png"]
    assert list(raw.pairs.captions) == [["b one", "b two"], ["a one"]]
    assert list(raw.pairs.pair_id) == ["12", "11"]
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("coco", 3, 0)


def test_an_image_folder_elsewhere_needs_no_climbing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "pictures/train", "a.png", "b.png")
    file = tmp_path / "texts/deep/captions.json"
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / "pictures/train"), "pictures/train", "../../pictures/train"):
        raw = read(file, IMAGES, ANNOTATIONS, image_folder=folder)
        assert raw.root == tmp_path
        assert list(raw.pairs.image) == ["pictures/train/b.png", "pictures/train/a.png"]
        assert read_bytes(raw.root, raw.pairs.image[1]) == (tmp_path / "pictures/train/a.png").read_bytes()


def test_every_bad_entry_is_quarantined_with_its_place_and_reason(tmp_path: Path) -> None:
    draw(tmp_path / "images", "a.png", "b.png")
    draw(tmp_path, "outside.png")
    images = [
        *IMAGES,
        {"id": 11, "file_name": "other.png"},
        {"file_name": "a.png"},
        "a.png",
        {"id": 13},
        {"id": 14, "file_name": "../outside.png"},
        {"id": 15, "file_name": "gone.png"},
        {"id": 16, "file_name": "a.png"},
        {"id": 17, "file_name": "/etc/passwd"},
        {"id": 18, "file_name": " "},
        {"id": 19, "file_name": 5},
    ]
    annotations = [
        {"image_id": 11, "caption": "good"},
        {"image_id": 99, "caption": "x"},
        {"image_id": [11], "caption": "x"},
        "x",
        {"image_id": 11},
        {"image_id": 11, "caption": " "},
        *({"image_id": key, "caption": "x"} for key in (13, 14, 15, 17, 18, 19)),
        {"caption": "x"},
    ]
    raw = read(tmp_path / "captions.json", images, annotations)
    assert list(raw.pairs.captions) == [["good"]]
    wanted = {
        "annotations[1]": "belongs to no image",
        "annotations[2]": "belongs to no image",
        "annotations[3]": "not an object",
        "annotations[4]": "caption is missing",
        "annotations[5]": "caption is empty",
        "annotations[6]": "image reference is missing",
        "annotations[7]": "leaves",
        "annotations[8]": "no such picture",
        "annotations[9]": "absolute",
        "annotations[10]": "image reference is empty",
        "annotations[11]": "image reference is not text",
        "annotations[12]": "belongs to no image",
        "images[2]": "already belongs to 'a.png'",
        "images[3]": "no id",
        "images[4]": "no id",
        "image 12": "no annotation",
        "image 16": "no annotation",
    }
    found = {
        source.removeprefix("captions.json: "): reason for source, reason in raw.quarantine[["source", "reason"]].values
    }
    assert set(found) == set(wanted)
    for source, reason in wanted.items():
        assert reason in found[source]
    assert raw.rows == 1 + len(raw.quarantine) == 1 + len(wanted)


def test_our_own_additions_survive_a_round_trip(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    image = {"id": 1, "file_name": "a.png", "pair_id": "my id", "label": "cat", "planted": "vague"}
    pairs = read(tmp_path / "captions.json", [image], [{"image_id": 1, "caption": "x"}]).pairs
    assert pairs.iloc[0][["pair_id", "label", "planted"]].tolist() == ["my id", "cat", "vague"]


def test_files_that_are_not_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no annotation has a caption: give COCO's captions_\*.json"):
        read(tmp_path / "instances.json", IMAGES, [{"image_id": 11, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(InputError, match="images and annotations must be lists"):
        read(tmp_path / "captions.json", {}, [])
    with pytest.raises(InputError, match="--image-folder gone is not a folder"):
        read(tmp_path / "captions.json", IMAGES, ANNOTATIONS, image_folder="gone")
