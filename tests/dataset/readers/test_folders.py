"""Folders of pictures with texts beside them, or with class folders."""

import os
from pathlib import Path

import pytest

from clipmem_core.utils.io import InputError
from tests.dataset.samples import check_reasons, draw, read


def test_pictures_with_texts_beside_them_are_read(tmp_path: Path) -> None:
    draw(tmp_path, "cats/a.png", "cats/deep/b.PNG", "dogs/a.jpg", "c.webp")
    (tmp_path / "cats/a.txt").write_text("one\n\n  two \r\nthree\u2028still three\none\n")
    (tmp_path / "cats/deep/b.TXT").write_bytes("Café\r\n".encode("cp1252"))
    (tmp_path / "dogs/a.txt").write_text("\ufeffdog", encoding="utf-8")
    (tmp_path / "c.caption").write_text("c")
    raw = read(tmp_path)
    assert list(raw.pairs.image) == ["c.webp", "cats/a.png", "cats/deep/b.PNG", "dogs/a.jpg"]
    texts = [["c"], ["one", "two", "three\u2028still three"], ["Café"], ["dog"]]
    assert list(raw.pairs.captions) == texts
    assert list(raw.pairs.label) == [None, "cats", "cats", "dogs"]
    assert list(raw.pairs.pair_id) == list(raw.pairs.image)
    assert (raw.format, raw.rows, len(raw.quarantine), raw.root) == ("folder", 4, 0, tmp_path)


def test_every_bad_file_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["a", "silent", "empty", "leak", "dir", ".hidden", ".git/b", "pipe"]
    draw(root, *(f"{name}.png" for name in names))
    draw(tmp_path, "out.png")
    (tmp_path / "secret.txt").write_text("secret")
    for name in ("a", "lonely", "link", "bad\udcff", "folder"):
        (root / f"{name}.txt").write_text("x")
    (root / "empty.txt").write_text(" \n\n")
    (root / "dir.txt").mkdir()
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.txt")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    (root / "leak.txt").symlink_to(tmp_path / "secret.txt")
    (root / "dangling.png").symlink_to(root / "gone.png")
    (root / "dangling.txt").symlink_to(root / "gone.txt")
    os.close(os.open(root / "bad\udcff.png", os.O_CREAT))
    raw = read(root)
    assert list(raw.pairs.image) == ["a.png"]
    wanted = {
        "silent.png": "no caption file",
        "empty.png": "caption is empty",
        "leak.png": "caption file is reached by a link that leaves",
        "dir.png": "no caption file",
        "pipe.png": "not a regular file",
        "lonely.txt": "no picture of the same name",
        "folder.txt": "no picture of the same name",
        "link.png": "link that leaves",
        "dangling.png": "caption file cannot be read",
        "bad\\udcff.png": "not valid text",
    }
    check_reasons(raw, wanted)


def test_a_template_captions_pictures_of_class_folders_from_their_labels(tmp_path: Path) -> None:
    draw(tmp_path, "tree_frog/a.png", "owl/b.png", "owl/c.png", "loose.png")
    assert read(tmp_path).quarantine.reason.str.contains("--caption-template").all()
    (tmp_path / "owl/c.txt").write_text("an owl asleep")
    raw = read(tmp_path, caption_template="a photo of a {label}")
    assert dict(zip(raw.pairs.image, raw.pairs.captions, strict=True)) == {
        "owl/b.png": ["a photo of a owl"],
        "owl/c.png": ["an owl asleep"],
        "tree_frog/a.png": ["a photo of a tree frog"],
    }
    assert list(raw.quarantine.pair_id) == ["loose.png"]
    with pytest.raises(InputError, match="--caption-template 'a photo' must hold {label}"):
        read(tmp_path, caption_template="a photo")
