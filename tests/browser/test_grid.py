"""Browse in a browser: ranges, a page removed with two clicks, keys at five a second; and the
pictures of the maps."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.maps import make_map
from clipmem_core.review.decisions import Review
from tests.browser.conftest import PAIRS, TRAINED
from tests.browser.reviewing import STORED, events, press
from tests.browser.watched import check_pictures, wait_idle
from tests.fixtures import decision_counts

POINT = """() => {
    const plot = document.querySelector('.js-plotly-plot'), {x, y,
    customdata} = plot._fullData.at(-1)
    const {left, top} = plot.querySelector('.nsewdrag').getBoundingClientRect(), {xaxis,
    yaxis} = plot._fullLayout
    return [left + xaxis.c2p(x.at(-1)), top + yaxis.c2p(y.at(-1)), customdata.at(-1)]
}"""


def open_browse(page: Any, address: str, audit: str = TRAINED) -> list[str]:
    """Open Browse and return the ids of its pairs, once all pictures are loaded."""
    page.goto(f"{address}/browse?audit={audit}&order=clipmem&size=12")
    page.locator(".card").first.wait_for()
    wait_idle(page)
    check_pictures(page, at_least=12)
    links = page.locator(".card .caption").evaluate_all("links => links.map(link => link.href)")
    return [parse_qs(urlsplit(link).query)["pair"][0] for link in links]


def test_two_clicks_remove_a_page_a_key_takes_it_back_and_shift_selects_a_range(
    page: Any, address: str, review: Review
) -> None:
    ids = open_browse(page, address)
    page.get_by_role("button", name="Select page").click()
    page.keyboard.press("x")  # is for one caption
    page.locator(".sign.late").wait_for()
    assert events(review) == []
    page.get_by_role("button", name="Remove").click()
    page.locator(".badge.remove").nth(11).wait_for()
    page.wait_for_function(STORED)
    assert {each for each in ids if review.current(each).decision == "remove"} == set(ids)
    assert review.history()["pairs"].tolist() == [12]
    page.get_by_text(f"12 of {PAIRS} decided").wait_for()
    page.keyboard.press("u")
    page.get_by_text(f"0 of {PAIRS} decided").wait_for()
    page.wait_for_function(STORED)
    assert decision_counts(review)["remove"] == 0
    page.locator(".card .check").nth(2).click()
    page.locator(".card .picture").nth(7).click(modifiers=["Shift"])
    page.get_by_text("6 selected").wait_for()
    page.get_by_role("button", name="Unselect").click()
    page.get_by_role("button", name="Select page").click()
    page.get_by_role("button", name=f"Select all {PAIRS} that match").click()
    page.get_by_role("button", name="Remove").click()
    page.get_by_text(f"{PAIRS} of {PAIRS} decided").wait_for()
    assert decision_counts(review)["remove"] == PAIRS
    page.keyboard.press("u")
    page.get_by_text(f"0 of {PAIRS} decided").wait_for()
    page.wait_for_function(STORED)
    assert decision_counts(review)["remove"] == 0


def test_at_five_keys_a_second_each_is_stored_once_on_the_marked_pair_and_others_are_seen(
    page: Any, address: str, data: Path, review: Review
) -> None:
    ids = open_browse(page, address)
    page.keyboard.press("x")
    page.get_by_text("Mark a pair first").wait_for()
    page.keyboard.press("ArrowRight")
    first = page.locator(".card .caption").nth(1).text_content()
    press(page, "kx" * 5)
    page.wait_for_function(STORED)
    expected = [(each, ("keep", "recaption")[place % 2]) for place, each in enumerate(ids[:10])]
    assert [(pair, decision) for pair, decision, _ in events(review)] == expected
    pairs = Audit(data / "audits" / TRAINED).pairs.set_index("pair_id")
    before = pairs["captions"][ids[1]].tolist()
    before.remove(first)
    assert list(review.current(ids[1]).captions) == before
    page.keyboard.press("Shift+X")
    page.locator(".card").nth(10).locator(".badge.remove").wait_for()
    review.decide(ids[11:], "remove", audit="of somebody else")
    page.locator(".card").nth(11).locator(".badge.remove").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**page=2**")
    page.locator(".card.current").first.wait_for()
    assert "page=2" in page.url
    page.troubles.clear()  # a page that is turned leaves pictures behind


def test_a_click_and_enter_open_a_pair_and_keys_rest_below_a_dialog(
    page: Any, address: str, review: Review
) -> None:
    ids = open_browse(page, address)
    page.locator(".card .picture").nth(2).click()
    page.wait_for_url(f"**pair={ids[2]}**")
    page.locator(".pair[data-pair]").wait_for()
    page.keyboard.press("?")
    page.get_by_text("Magnify the picture").wait_for()
    page.keyboard.press("Escape")
    page.go_back()
    page.locator(".card.current").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**pair={ids[3]}**")
    page.locator(".pair[data-pair]").wait_for()  # the address changes before the page does
    page.go_back()
    page.locator(".card.current").wait_for()
    for name in ("Select page", f"Select all {PAIRS} that match", "Find and replace"):
        page.get_by_role("button", name=name).click()
    page.get_by_label("Find", exact=True).wait_for()
    page.keyboard.press("x")
    page.get_by_test_id("stDialog").get_by_role("button", name="Close").press("Shift+X")
    wait_idle(page)
    assert decision_counts(review) == {"keep": 0, "remove": 0, "recaption": 0}
    page.troubles.clear()  # pictures of the previous page


def test_the_map_shows_the_pairs_under_the_pointer_and_a_click_keeps_them(
    page: Any, address: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(data / "audits" / TRAINED)
    monkeypatch.setenv("CLIPMEM_DATA", str(data))
    monkeypatch.setattr("clipmem_core.auditing.tables.maps.lay_out", lambda vectors: vectors[:, :2])
    make_map(audit, "pictures")
    page.goto(f"{address}/embeddings?audit={TRAINED}")
    wait_idle(page)
    page.locator(".nsewdrag").first.wait_for()
    page.wait_for_timeout(1000)
    x, y, row = page.evaluate(POINT)
    page.mouse.move(x - 2, y - 2)
    page.mouse.move(x, y, steps=3)
    address = urlencode({"audit": TRAINED, "pair": audit.pairs["pair_id"][row]})
    page.locator(f".near a:first-child[href$='{address}'] img").wait_for()
    page.mouse.click(x, y)
    page.locator(f'.card[data-row="{row}"]').wait_for()
    page.locator(".near .card").first.wait_for(state="detached")
    assert page.locator(".card").count() == 9
    check_pictures(page, at_least=9)
