"""Thumbnails, the card of a change, numbers and the uncertainty beside them."""

import html
import io
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core.audit.store import Audit
from clipmem_core.dashboard.cards import SIDE, Sides, change_html, placeholder, start_thumbnails, thumbnail
from clipmem_core.review.cards import PairCard


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_pictures_become_small_jpegs_of_the_same_shape(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "navy").save(tmp_path / "a.png")
    Image.new("RGB", (20, 10), "navy").save(tmp_path / "small.png")
    large, small, late = (
        picture.result() for picture in start_thumbnails(tmp_path, ["a.png", "small.png", "late.png"])
    )
    assert (opened(large[0]).format, opened(large[0]).size, large[1]) == ("JPEG", (SIDE, SIDE // 2), "")
    assert opened(small[0]).size == (20, 10)
    assert late[1]
    assert opened(thumbnail(tmp_path, "a.png", side=64)[0]).size == (64, 32)
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    assert not thumbnail(tmp_path, "late.png")[1]  # a failure is not cached


@pytest.mark.parametrize(
    ("image", "reason"), [("broken.png", "not a picture"), ("../up.png", "leaves"), ("no.tar/x.png", "no.tar")]
)
def test_an_unreadable_picture_is_a_grey_square_with_the_reason(tmp_path: Path, image: str, reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "up.png")
    data, fault = thumbnail(root, image)
    assert data == placeholder()
    assert reason in fault


def test_a_change_names_its_sides_and_escapes_foreign_text() -> None:
    def card(text: str) -> PairCard:
        return PairCard(0, text, text, (text,), text, text, text, {})

    one, other = '<b onclick="x">&', "<i>other</i>"
    sides = Sides(Audit(Path("one")), Audit(Path("other")), names=("without", "with"), in_other="with it")
    change = {"one": 0.5, "other": 0.25, "difference": -0.25}
    shown = change_html(card(one), card(other), change, "similarity_out", sides)
    for text in ("without", "0.50", "with", "0.25", "−0.25", "similarity out", "captions differ; with it:"):
        assert f">{text}<" in shown
    assert shown.count(html.escape(one)) == shown.count(html.escape(other)) == 2  # caption and group
    assert "<i>" not in shown
    assert "differ;" not in change_html(card(one), card(one), change, "clipmem", sides)
