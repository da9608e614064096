"""Pictures behind references: what is in the folder is read, whatever holds it, and nothing
outside."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmem_core.dataset.containers import normal_reference, picture_fault, read_bytes
from clipmem_core.utils.io import InputError
from tests.dataset.samples import draw, write_tar


@pytest.mark.parametrize(
    "image",
    [
        *("/etc/passwd", "C:\\pictures\\a.jpg", "\\\\server\\a.jpg", "../a.jpg", "a/../../a.jpg"),
        *("..\\a.jpg", "a\\..\\..\\b.jpg", "https://example.org/a.jpg", "a\udcff.jpg", "a\0.jpg"),
    ],
)
def test_a_reference_that_leaves_the_folder_or_is_no_text_is_refused_and_named(
    tmp_path: Path, image: str
) -> None:
    with pytest.raises(InputError, match="absolute|leaves|URL|not valid text"):
        normal_reference(image)
    with pytest.raises(InputError) as caught:
        read_bytes(tmp_path, image)
    assert repr(image) in str(caught.value)


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    root = tmp_path / "set"
    draw(root, "real/a.png")
    draw(tmp_path, "secret/b.png")
    (root / "near").symlink_to(root / "real")
    (root / "far").symlink_to(tmp_path / "secret")
    (root / "far.png").symlink_to(tmp_path / "secret/b.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert read_bytes(root, "near/a.png") == (root / "real/a.png").read_bytes()
    for image in ("far/b.png", "far.png"):
        with pytest.raises(InputError, match="link that leaves"):
            read_bytes(root, image)
    with pytest.raises(FileNotFoundError, match="loop.png"):
        read_bytes(root, "loop.png")
    for image in ("real", "gone/a.png", "x" * 5000):
        assert picture_fault(root, image)
    (tmp_path / "link").symlink_to(root)
    assert picture_fault(tmp_path / "link", "real/a.png") == ""
    assert read_bytes(tmp_path / "link", "real/a.png") == (root / "real/a.png").read_bytes()


def test_a_missing_or_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_tar(tmp_path / "t.tar", {"a.jpg": b"a"})
    pictures = pa.array([b"a", None], pa.binary())
    pq.write_table(pa.table({"image": pictures}), tmp_path / "p.parquet")
    missing = ["gone.jpg", "folder", "t.tar/gone.jpg", "p.parquet#9", "p.parquet#1"]
    missing += ["gone.tar/a.jpg", "y" * 999]
    for image in missing:
        with pytest.raises(FileNotFoundError) as caught:
            read_bytes(tmp_path, image)
        assert repr(image) in str(caught.value)
    for name in ("a.tar", "a.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")
    for image in ("a.tar/b.jpg", "a.parquet#0", "b.parquet#0"):
        with pytest.raises(InputError, match="is not a|has no column"):
            read_bytes(tmp_path, image)
