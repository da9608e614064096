"""Keys and clicks that come faster than the page is drawn: each counts once, for the pair on screen, or not at all."""

import sqlite3
import time
from typing import Any

from clipmem_core.review.decisions import Review
from tests.browser.conftest import TRAINED
from tests.browser.watched import settle

NOT_STORED = "Pressed while the page was loading: not saved."
ON_SCREEN = """
    window.pressed = []
    addEventListener('keydown', event => {
        const texts = [...document.querySelectorAll('[data-testid=stMain] *')].filter(each => !each.children.length)
        const shown = texts.map(each => each.textContent).filter(text => text.startsWith('id: '))
        window.pressed.push([event.key, shown.join().slice(4)])
    }, true)
"""
SLOW_DOWN = "Emulation.setCPUThrottlingRate"
SLOWER = 6  # times
KEYS = {"k": "keep", "x": "remove"}


def events(review: Review) -> list[tuple[str, str, str | None]]:
    """Pair, decision and note of every event, the first one first."""
    if not review.path.exists():
        return []
    with sqlite3.connect(review.path) as log:
        query = "SELECT pair_id, decision, note FROM event JOIN entry ON entry.id = first_entry ORDER BY event.id"
        return log.execute(query).fetchall()


def open_pair(page: Any, address: str, *, slower: int = 1) -> None:
    page.goto(f"{address}/pair?audit={TRAINED}")
    settle(page)
    page.get_by_text("Similar pairs").wait_for()
    page.slower, page.session = slower, page.context.new_cdp_session(page)
    page.session.send(SLOW_DOWN, {"rate": slower})


def rest(page: Any) -> None:
    """Wait until all that was pressed is done, and the page has looked twice at what others do.

    A slow page is slow until it is drawn: to slow one down that waits costs as much as work.
    """
    settle(page)
    page.session.send(SLOW_DOWN, {"rate": 1})
    page.wait_for_timeout(5000)
    settle(page)
    page.session.send(SLOW_DOWN, {"rate": page.slower})


def test_a_key_decides_once_on_the_pair_that_was_on_screen_however_fast_keys_are_pressed(
    page: Any, address: str, review: Review
) -> None:
    page.add_init_script(ON_SCREEN)  # before any listener of the page
    open_pair(page, address)
    began = time.monotonic()
    for place in range(10):
        time.sleep(max(0.0, began + place * 0.2 - time.monotonic()))
        page.keyboard.press("kx"[place % 2])
    rest(page)
    pressed = [(shown, KEYS[key]) for key, shown in page.evaluate("window.pressed")]
    stored = [(pair, decision) for pair, decision, _ in events(review)]
    assert 1 <= len(stored) <= len(pressed) == 10
    assert all(each in pressed for each in stored)
    assert len({pair for pair, _ in stored}) == len(stored)
    assert page.get_by_text("in another tab").count() == 0
    last, _ = stored[-1]
    page.keyboard.press("u")
    page.get_by_text("Undone:").first.wait_for()
    page.get_by_text(f"id: {last}").wait_for()
    assert len(events(review)) == len(stored) + 1
    page.troubles.clear()  # a run that is cut short takes its pictures along


def test_of_two_keys_at_once_the_first_is_stored_and_the_page_says_that_the_other_is_not(
    page: Any, address: str, review: Review
) -> None:
    open_pair(page, address)
    page.keyboard.press("k")
    page.keyboard.press("x")
    page.get_by_text(NOT_STORED).first.wait_for()
    page.get_by_text("Saved: keep.").first.wait_for()
    rest(page)
    assert [decision for _, decision, _ in events(review)] == ["keep"]


def test_on_a_slow_page_a_decision_is_one_event_and_undo_takes_it_back(page: Any, address: str, review: Review) -> None:
    open_pair(page, address, slower=SLOWER)
    for _ in range(3):
        page.get_by_role("button", name="Keep").click()
        page.get_by_text("Saved: keep.").first.wait_for()
        rest(page)
    assert [(decision, note) for _, decision, note in events(review)] == [("keep", None)] * 3
    page.get_by_role("button", name="Undo").first.click()
    page.get_by_text("Undone: keep, 1 pair.").first.wait_for()
    rest(page)
    assert review.counts() == {"keep": 2, "remove": 0, "recaption": 0}


def test_on_a_slow_page_a_decision_leaves_the_notes_of_others(page: Any, address: str, review: Review) -> None:
    open_pair(page, address, slower=SLOWER)
    (pair,) = page.evaluate("[new URLSearchParams(location.search).get('pair')]")
    review.decide([pair], "remove", note="by somebody else")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Saved").first.wait_for()
    rest(page)
    stands = review.current(pair)
    assert stands is not None
    assert (stands.decision, stands.note) == ("keep", "by somebody else")
    assert len(events(review)) == 2


def test_a_note_is_stored_for_the_pair_it_was_typed_for_with_the_decision_that_follows_at_once(
    page: Any, address: str, review: Review
) -> None:
    open_pair(page, address, slower=SLOWER)
    (pair,) = page.evaluate("[new URLSearchParams(location.search).get('pair')]")
    page.get_by_label("Note").fill("a boat on its side")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("id: ").and_(page.locator(f":not(:has-text('{pair}'))")).first.wait_for()
    rest(page)
    stands = review.current(pair)
    assert stands is not None
    assert (stands.decision, stands.note) == ("keep", "a boat on its side")
    assert {each for each, _, _ in events(review)} == {pair}
