"""Review mode: keys at five a second, reloads, a server that does not answer, decisions of others, hostile captions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.pairs.pictures import decode
from clipmem_core.pairs.references import read_bytes
from clipmem_core.review.decisions import Review
from tests.browser.conftest import TRAINED
from tests.browser.reviewing import WATCH, all_stored, open_review_page, press, taken
from tests.browser.test_keys import events
from tests.browser.watched import settle
from tests.made_audit import HOSTILE

EVENTS = "**/api/review/events"
SHRINK = """image => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 8, height: 8})
    const context = canvas.getContext('2d')
    context.imageSmoothingQuality = 'high'
    context.drawImage(image, 0, 0, 8, 8)
    return [...context.getImageData(0, 0, 8, 8).data]
}"""


def test_at_five_keys_a_second_every_key_taken_is_stored_once_on_the_pair_on_screen_across_a_reload(
    page: Any, address: str, review: Review
) -> None:
    page.add_init_script(WATCH)
    open_review_page(page, address)
    press(page, "kx" * 13)
    first = taken(page)
    page.reload()
    page.locator(".pair[data-pair]").wait_for()
    press(page, "kkx" * 8)
    second = taken(page)
    all_stored(page)
    stored = [(pair, decision) for pair, decision, _ in events(review)]
    assert stored == first + second
    assert len({pair for pair, _ in stored}) == len(stored) > 25  # of 50: on a slow machine some come too early
    page.troubles.clear()  # the reload cuts pictures off


def test_what_is_pressed_while_the_server_cannot_be_reached_is_kept_and_stored_once(
    page: Any, address: str, review: Review
) -> None:
    page.add_init_script(WATCH)
    open_review_page(page, address)
    page.route(EVENTS, lambda route: route.abort())
    press(page, "kxkx")
    page.get_by_text("kept here (the server cannot be reached), tried again").wait_for()
    pressed = taken(page)
    page.reload()
    page.get_by_text("kept here").wait_for()
    page.unroute(EVENTS)
    all_stored(page)

    def lose_the_answer(route: Any) -> None:  # noqa: ANN401
        route.fetch()
        route.abort()

    page.route(EVENTS, lose_the_answer, times=1)
    press(page, "kx")
    all_stored(page)
    pressed += taken(page)
    assert [(pair, decision) for pair, decision, _ in events(review)] == pressed
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('clipmem'))") == []
    page.troubles.clear()  # the requests that were cut off


def test_what_the_server_refuses_is_told_until_it_was_read_and_the_pair_is_undecided_again(
    page: Any, address: str, review: Review
) -> None:
    def refuse(route: Any) -> None:  # noqa: ANN401
        (event,) = route.request.post_data_json["events"]
        number = event["number"]
        route.fulfill(json={"stored": number, "refused": {str(number): "<b>other captions</b>"}})

    open_review_page(page, address)
    pair = page.locator(".id").inner_text().removeprefix("id: ")
    page.route(EVENTS, refuse)
    page.keyboard.press("x")
    told = page.get_by_text(f"Not stored: remove of {pair}: <b>other captions</b>.")
    told.wait_for()
    page.keyboard.press("ArrowLeft")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.get_by_text("0 decided, all stored").wait_for()
    told.click()
    told.wait_for(state="hidden")
    assert events(review) == []


def test_the_picture_on_screen_is_that_of_the_pair(page: Any, address: str, data: Path) -> None:
    audit = Audit(data / "audits" / TRAINED)
    order = audit.scores["review_place"].sort_values().index[:12]
    small = [_shrunk(Path(audit.record.root), image) for image in audit.pairs.loc[order, "image"]]
    open_review_page(page, address)
    for place in range(len(order) - 1):
        page.locator(f".pair[data-pair='{audit.pairs.loc[order[place], 'pair_id']}']").wait_for()
        seen = np.array(page.locator(".picture img").evaluate(SHRINK)).reshape(8, 8, 4)[..., :3]
        assert np.argmin([np.abs(seen - picture).mean() for picture in small]) == place
        page.keyboard.press("ArrowRight")


def _shrunk(root: Path, image: str) -> np.ndarray:
    return np.asarray(decode(read_bytes(root, image), size=300).resize((8, 8)), dtype=float)


def test_a_suggestion_an_edit_and_undo(page: Any, address: str, review: Review) -> None:
    open_review_page(page, address)
    pair, wanted = page.locator(".id").inner_text().removeprefix("id: "), page.locator("ol span").first
    text = wanted.text_content()
    page.keyboard.press("1")
    page.locator(f".pair:not([data-pair='{pair}'])").wait_for()
    all_stored(page)
    stands = review.current(pair)
    assert stands is not None
    assert "\n".join(stands.captions) == text
    page.keyboard.press("u")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.keyboard.press("e")
    page.locator("textarea").fill("k")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    assert page.locator("textarea").count() == 1
    assert not page.locator("textarea").is_visible()
    page.keyboard.press("e")
    page.locator("textarea").fill("a crow\n\n a black bird")
    page.keyboard.press("Control+Enter")
    page.locator(f".pair:not([data-pair='{pair}'])").wait_for()
    all_stored(page)
    stands = review.current(pair)
    assert stands is not None
    assert stands.captions == ("a crow", "a black bird")
    assert [decision for _, decision, _ in events(review)] == ["recaption"] * 3  # the second takes the first back
    page.keyboard.press("ArrowLeft")
    page.locator(".recaptioned", has_text="a crow").wait_for()
    page.reload()
    page.locator(f".pair[data-pair]:not([data-pair='{pair}'])").wait_for()
    page.keyboard.press("u")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    all_stored(page)
    assert review.counts() == {"keep": 0, "remove": 0, "recaption": 0}
    page.troubles.clear()  # the reload cuts pictures off


def test_what_others_decide_shows_and_coming_back_to_the_page_doubles_nothing(
    page: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    pair = page.locator(".id").inner_text().removeprefix("id: ")
    review.decide([pair], "remove", audit="of somebody else")
    page.locator(".badge.remove").wait_for()
    page.get_by_text("Somebody else has just said: remove.").wait_for()
    page.get_by_test_id("stSidebar").get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Start review").click()
    page.locator(f".pair[data-pair]:not([data-pair='{pair}'])").wait_for()
    settle(page)
    page.wait_for_timeout(500)
    page.keyboard.press("k")
    page.locator(".sign.keep").wait_for()
    all_stored(page)
    assert [decision for _, decision, _ in events(review)] == ["remove", "keep"]
    page.troubles.clear()  # pictures of a page that is left


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_hostile_captions_show_as_they_are_and_do_nothing(page: Any, address: str) -> None:
    open_review_page(page, address, "hostile", order="clipmem")
    for caption in HOSTILE[:-1]:
        page.wait_for_function(
            """wanted => document.querySelector('[data-testid=stBidiComponentIsolated]').shadowRoot
                .querySelector('.captions li').textContent === wanted""",
            arg=caption,
        )
        page.keyboard.press("ArrowRight")
    assert page.title() == "Review · CLIPMem"
    assert page.locator(".review script, .review b:not(.place), .review img[src=x], .review a").count() == 0
