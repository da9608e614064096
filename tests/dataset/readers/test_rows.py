"""Columns, picture folders and ids, and that every row is in a pair or in quarantine."""

from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.config import SourceOptions
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.records import find_fields
from clipmem_core.utils.io import InputError
from tests.dataset.samples import draw, picture_bytes, read


def test_flags_choose_columns_and_a_missing_one_is_an_error() -> None:
    flags = {"csv_img_key": "b", "csv_caption_key": "label", "csv_label_key": "caption"}
    columns = ["b", "label", "caption", "image"]
    assert find_fields(columns, SourceOptions(**flags), source="a.csv")[:3] == tuple(columns[:3])
    for key in ("csv_img_key", "csv_caption_key", "csv_label_key", "csv_id_key"):
        flag = "--" + key.replace("_", "-")
        with pytest.raises(InputError, match=f"{flag} names column 'gone': a.csv has none"):
            find_fields(["image", "caption"], SourceOptions(**{key: "gone"}), source="a.csv")
    for column, flag in {"image": "--csv-caption-key", "caption": "--csv-img-key"}.items():
        with pytest.raises(InputError, match=flag):
            find_fields([column, "other"], SourceOptions(), source="a.csv")


def write_csv(path: Path, images: list[str]) -> Path:
    pd.DataFrame({"filepath": images, "title": "x"}).to_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def test_paths_start_in_the_image_folder_and_may_not_leave_it(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw(pictures, "a.png", "deep/b.png", "c.png")
    draw(tmp_path, "pictures-2/a.png", "secret.png")
    (pictures / "link.png").symlink_to(tmp_path / "secret.png")
    (pictures / "far").symlink_to(tmp_path / "pictures-2")
    (tmp_path / "link").symlink_to(pictures)
    wrong = {
        f"{tmp_path}/secret.png": "absolute",
        f"{pictures}/../secret.png": "absolute",
        f"{pictures}-2/a.png": "absolute",
        f"{pictures}": "regular file",
        "/etc/passwd": "absolute",
        "../secret.png": "leaves",
        "link.png": "link that leaves",
        f"{pictures}/far/a.png": "link that leaves",
        f"{pictures}/gone.png": "No such file",
        f"file://{pictures}/a.png": "URL",
    }
    right = ["a.png", f"{pictures}/deep/b.png", f" {tmp_path}/link/deep/.././c.png "]
    (tmp_path / "tables").mkdir()
    table = write_csv(tmp_path / "tables/set", [*right, *wrong])
    raw = read(table, image_folder=str(tmp_path / "link"))
    assert raw.root == pictures.resolve()
    assert list(raw.pairs.image) == ["a.png", "deep/b.png", "c.png"]
    pictures_read = [read_bytes(raw.root, image) for image in raw.pairs.image]
    assert pictures_read == [picture_bytes(at) for at in range(3)]
    for reason, words in zip(raw.quarantine.reason, wrong.values(), strict=True):
        assert words in reason


def test_the_folder_is_searched_for_from_here_and_beside_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, "set/pictures/a.png", "here/a.png", "set/a.png")
    monkeypatch.chdir(tmp_path)
    file = write_csv(tmp_path / "set/set", ["a.png", f"{tmp_path}/set/a.png"])
    assert read(file, image_folder="pictures").root == tmp_path / "set/pictures"
    assert read(file, image_folder="here").root == tmp_path / "here"
    assert "--image-folder" in read(file).quarantine.reason[0]
    for folder in ("gone", "~nobody/x"):
        with pytest.raises(InputError, match=f"--image-folder {folder} is not a folder"):
            read(file, image_folder=folder)
