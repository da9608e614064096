import html
from pathlib import Path

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.cards import Sides, change_html
from clipmem_core.review.cards import PairCard

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
