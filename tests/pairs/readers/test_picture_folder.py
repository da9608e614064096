import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.rows import Row, Rows, placed
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import draw, picture_bytes


def write_csv(path: Path, images: list[str]) -> Path:
    pd.DataFrame({"filepath": images, "title": "x"}).to_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def write_jsonl(path: Path, images: list[str]) -> Path:
    path.with_suffix(".jsonl").write_text("\n".join(json.dumps({"image": i, "caption": "x"}) for i in images))
    return path.with_suffix(".jsonl")


def write_json(path: Path, images: list[str]) -> Path:
    path.with_suffix(".json").write_text(json.dumps([{"image": i, "caption": "x"} for i in images]))
    return path.with_suffix(".json")


def write_parquet(path: Path, images: list[str]) -> Path:
    pd.DataFrame({"path": images, "text": "x"}).to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


HERE = Path(__file__).parent
WRITERS = [write_csv, write_jsonl, write_json, write_parquet]


def read(path: Path, folder: str) -> RawPairs:
    return read_source(str(path), SourceOptions(image_folder=folder), data=path.parent / "data")


def write_bare_csv(path: Path, images: list[str]) -> Path:
    titles = ['a, "b"', "c, "]
    pd.DataFrame({"filepath": images, "title": titles, "label": "d"}).to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".csv")


def write_coco(path: Path, images: list[str]) -> Path:
    entries = [{"id": at, "file_name": image} for at, image in enumerate(images)]
    annotations = [{"image_id": at, "caption": "x"} for at in range(len(images))]
    path.with_suffix(".json").write_text(json.dumps({"images": entries, "annotations": annotations}))
    return path.with_suffix(".json")


def write_texts(path: Path, images: list[str]) -> Path:
    for image in images:
        (path.parent / image).with_suffix(".txt").write_text("x")
    return path.parent


@pytest.mark.parametrize("write", [*WRITERS, write_bare_csv, write_coco, write_texts])
def test_a_name_with_outer_spaces_is_that_of_its_file(tmp_path: Path, write: Callable[[Path, list[str]], Path]) -> None:
    draw(tmp_path, " a.png", " deep/b.png")
    raw = read(write(tmp_path / "set", [" a.png", " deep/b.png"]), "")
    assert raw.quarantine.empty
    assert sorted(raw.pairs.image) == [" a.png", " deep/b.png"]
    assert {read_bytes(raw.root, image) for image in raw.pairs.image} == {picture_bytes(0), picture_bytes(1)}


@pytest.mark.parametrize("write", WRITERS)
def test_paths_start_in_the_folder_and_absolute_ones_in_it_become_relative(
    tmp_path: Path, write: Callable[[Path, list[str]], Path]
) -> None:
    pictures = tmp_path / "pictures"
    draw(pictures, "a.png", "deep/b.png", "c.png")
    (tmp_path / "tables").mkdir()
    file = write(tmp_path / "tables/set", ["a.png", f"{pictures}/deep/b.png", f" {pictures}/deep/.././c.png "])
    raw = read(file, str(pictures))
    assert raw.root == pictures.resolve()
    assert list(raw.pairs.image) == ["a.png", "deep/b.png", "c.png"]
    assert raw.quarantine.empty
    assert [read_bytes(raw.root, image) for image in raw.pairs.image] == [picture_bytes(at) for at in range(3)]


@pytest.mark.parametrize("write", WRITERS)
def test_what_leaves_the_folder_is_refused(tmp_path: Path, write: Callable[[Path, list[str]], Path]) -> None:
    pictures = tmp_path / "pictures"
    draw(tmp_path, "pictures/a.png", "pictures-2/a.png", "secret.png")
    (pictures / "link.png").symlink_to(tmp_path / "secret.png")
    (pictures / "far").symlink_to(tmp_path / "pictures-2")
    wrong = {
        f"{tmp_path}/secret.png": "absolute",
        f"{pictures}/../secret.png": "absolute",
        f"{pictures}-2/a.png": "absolute",
        f"{pictures}": "absolute",
        "/etc/passwd": "absolute",
        "../secret.png": "leaves",
        f"{pictures}/..%2fsecret.png": "leaves",
        f"{pictures}/%2fetc/passwd": "absolute",
        f"{pictures}/link.png": "link that leaves",
        "link.png": "link that leaves",
        f"{pictures}/far/a.png": "link that leaves",
        f"{pictures}/gone.png": "no such picture",
        f"file://{pictures}/a.png": "URL",
    }
    raw = read(write(tmp_path / "set", [f"{pictures}/a.png", *wrong]), str(pictures))
    assert list(raw.pairs.image) == ["a.png"]
    for reason, wanted in zip(raw.quarantine.reason, wrong.values(), strict=True):
        assert wanted in reason


def test_without_the_folder_an_absolute_path_stays_refused_and_the_reason_names_the_flag(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    raw = read(write_csv(tmp_path / "set", [f"{tmp_path}/a.png"]), "")
    assert raw.pairs.empty
    assert "--image-folder" in raw.quarantine.reason[0]
    with pytest.raises(InputError, match="--image-folder gone is not a folder: name the one with the pictures of"):
        read(write_csv(tmp_path / "set", ["a.png"]), "gone")


def test_the_folder_may_be_a_link_and_is_looked_for_from_here_and_beside_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, "real/a.png", "real/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file = write_csv(tmp_path / "set", [f"{tmp_path}/link/a.png", f"{tmp_path}/real/b.png"])
    raw = read(file, str(tmp_path / "link"))
    assert (list(raw.pairs.image), len(raw.quarantine)) == (["a.png", "b.png"], 0)
    draw(tmp_path, "set/pictures/a.png", "here/a.png")
    monkeypatch.chdir(tmp_path)
    file = write_csv(tmp_path / "set/set", ["a.png"])
    assert read(file, "pictures").root == tmp_path / "set/pictures"
    assert read(file, "here").root == tmp_path / "here"


def test_pictures_inside_a_table_need_no_folder(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["x"], "image": [picture_bytes()]})
    frame.to_parquet(tmp_path / "set.parquet")
    raw = read(tmp_path / "set.parquet", str(tmp_path))
    assert list(raw.pairs.image) == ["set.parquet#0"]
    assert read_bytes(raw.root, raw.pairs.image[0]) == picture_bytes()


@given(parts=st.lists(st.sampled_from(["..", ".", "", "a", "%2e%2e", "b.png", HERE.name]), max_size=5))
def test_only_a_path_in_the_folder_becomes_relative(parts: list[str]) -> None:
    image = "/".join([str(HERE), *parts])
    (moved,) = placed(Rows(HERE, "csv", [Row("x:1", image)]), str(HERE), HERE / "set.csv").rows
    real = os.path.normpath(image)
    inside = real != str(HERE) and os.path.commonpath([HERE, real]) == str(HERE)
    assert moved.image == (os.path.relpath(real, HERE) if inside else image)
