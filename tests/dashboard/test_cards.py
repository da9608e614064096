import html
import re
from pathlib import Path

import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.cards import Sides, card_html, change_html
from clipmem_core.dashboard.numbers import Noise
from clipmem_core.review.cards import PairCard
from tests.dashboard.test_browse import BROWSE, card_texts
from tests.dashboard.test_pages import open_page
from tests.made_audit import HOSTILE
from tests.made_fixtures import Copy


def test_captions_appear_as_they_are_and_only_as_text(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, size="12")
    shown = " ".join(card_texts(app))
    for caption in HOSTILE[:4] + HOSTILE[5:8]:
        assert f"<bdi>{html.escape(caption)}</bdi>" in shown
    assert "x" * 160 + "…" in shown
    assert "x" * 700 in shown
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags == {"div", "span", "bdi", "details", "summary", "p"}
    parsed = [element.value for kind in ("markdown", "caption", "error", "info") for element in app.get(kind)]
    for word in ("script", "latex", "javascript:", "material/delete", "struck", "# heading"):
        assert not [value for value in parsed if word in value]


def test_what_others_wrote_is_escaped_wherever_a_card_shows_it() -> None:
    text = '<b onclick="x">&'
    card = PairCard(0, text, text, (text,), text, text, text, {"clipmem": None})
    drawn = card_html(card, Noise(), order="clipmem")
    assert "<b " not in drawn
    assert drawn.count(html.escape(text)) == 6  # caption twice, label, id, group, planted
    assert card_html(PairCard(0, "", "", (), None, None, "", {}), Noise(), order="se")


SIDES = Sides(Audit(Path("one")), Audit(Path("other")), names=("without", "with"), in_other="with it")
CHANGE = {"one": 0.5, "other": 0.25, "difference": -0.25}


def card(text: str, *, group: str = "candidate") -> PairCard:
    return PairCard(0, text, text, (text,), text, text, group, {})


def test_a_card_calls_the_sides_by_their_names() -> None:
    shown = change_html(card("a cat"), card("a cat"), CHANGE, "similarity_out", SIDES)
    assert '<span class="name">without</span><span class="value">0.50</span>' in shown
    assert '<span class="name">with</span><span class="value">0.25</span>' in shown
    assert '<span class="value order">−0.25</span>' in shown
    assert "similarity out" in shown
    assert "differ;" not in shown


def test_what_others_wrote_is_escaped_on_either_side() -> None:
    one, other = '<b onclick="x">&', "<i>other</i>"
    shown = change_html(card(one, group=one), card(other, group=other), CHANGE, "clipmem", SIDES)
    assert "captions differ; with it:" in shown
    assert shown.count(html.escape(one)) == shown.count(html.escape(other)) == 2  # caption and group
    assert "<i>" not in shown
    rise = {"one": 0.1, "other": 0.4, "difference": 0.3}
    assert "+0.30" in change_html(card("a"), card("a"), rise, "clipmem", SIDES)


@pytest.mark.parametrize(("order", "shown"), [("clipmem", True), ("clipmem_shrunk", True), ("misfit", False)])
def test_a_list_by_clipmem_tells_beside_it_what_to_expect_of_other_members(order: str, shown: bool) -> None:
    drawn = card_html(
        PairCard(0, "", "", (), None, None, "", {"clipmem": 0.57, "clipmem_shrunk": 0.42}), Noise(), order=order
    )
    assert ("0.42" in drawn) is shown
    assert "0.57" in drawn
