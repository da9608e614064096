"""Review mode: keys at five a second, reloads, a server that does not answer, decisions of others, hostile captions."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.pairs.pictures import decode
from clipmem_core.pairs.references import read_bytes
from clipmem_core.review.decisions import Review
from tests.browser.conftest import TRAINED
from tests.browser.reviewing import WATCH, all_stored, open_review_page, press, taken
from tests.browser.test_keys import events
from tests.browser.watched import close_watched, open_watched, settle
from tests.fixtures import HOSTILE

EVENTS = "**/api/review/events"
NO_LONG_TIMERS = """
    const start = window.setTimeout
    window.setTimeout = (what, wait, ...given) => wait === 1000 ? 0 : start(what, wait, ...given)
"""
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
    told = page.get_by_text(f"Not saved: remove of {pair}: <b>other captions</b>.")
    told.wait_for()
    page.keyboard.press("ArrowLeft")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.get_by_text("0 decided, saved").wait_for()
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


def shown_pair(page: Any) -> str:
    return page.locator(".id").inner_text().removeprefix("id: ")


def next_pair(page: Any, pair: str) -> str:
    """Wait until another pair than this one is on screen, and return it."""
    page.locator(f".pair[data-pair]:not([data-pair='{pair}'])").wait_for()
    return shown_pair(page)


def suggest(page: Any, own: list[float], choices: dict[str, float]) -> None:
    found = [{"caption": caption, "cosine": cosine} for caption, cosine in choices.items()]
    page.route(
        "**/api/review/suggestions?**",
        lambda route: route.fulfill(json={"members": 4, "own": own, "choices": found, "quality": "8 of 10"}),
    )


def test_a_suggestion_replaces_the_caption_in_focus_and_is_saved_from_the_editor_alone(
    page: Any, address: str, data: Path, review: Review
) -> None:
    long = "a heron " * 80
    suggest(page, [0.3, 0.1, 0.2, 0.3, 0.3], {long: 0.4, "a stork": 0.25, "a crane": 0.15})
    open_review_page(page, address)
    pair, suggestion = shown_pair(page), page.locator("ol span")
    own = Audit(data / "audits" / TRAINED).pairs.set_index("pair_id")["captions"][pair]
    suggestion.nth(2).wait_for()  # all three fit better than the worst caption, the second
    assert suggestion.first.evaluate("node => node.scrollHeight <= node.clientHeight && node.clientHeight > 100")
    assert page.locator(".captions li.focus").inner_text() == own[1]
    page.keyboard.press("ArrowDown")
    page.locator(".captions li.focus", has_text=own[2]).wait_for()
    assert suggestion.count() == 2
    page.locator(".captions li").nth(3).click()
    assert suggestion.count() == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("2")
    wanted = [own[0], own[1], "a stork", *own[3:]]
    page.wait_for_function(
        """wanted => document.querySelector('[data-testid=stBidiComponentIsolated]').shadowRoot
            .querySelector('textarea').value === wanted""",
        arg="\n".join(wanted),
    )
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)
    assert events(review) == []
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    next_pair(page, pair)
    all_stored(page)
    stands = review.current(pair)
    assert stands is not None
    assert list(stands.captions) == wanted


def test_no_suggestion_is_shown_where_the_own_caption_fits_better(page: Any, address: str, review: Review) -> None:
    suggest(page, [0.5], {"a heron": 0.4})
    open_review_page(page, address)
    page.get_by_text("No suggestion: none is likely enough to be right.").wait_for()
    page.keyboard.press("1")
    page.locator(".sign.late").wait_for()
    assert page.locator("ol li").count() == 0
    assert events(review) == []


def test_an_edit_and_undo(page: Any, address: str, review: Review) -> None:
    open_review_page(page, address)
    pair = shown_pair(page)
    page.keyboard.press("e")
    page.locator("textarea").fill("k")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    assert page.locator("textarea").count() == 1
    assert not page.locator("textarea").is_visible()
    page.keyboard.press("e")
    page.locator("textarea").fill("a crow\n\n a black bird")
    page.keyboard.press("Control+Enter")
    next_pair(page, pair)
    all_stored(page)
    stands = review.current(pair)
    assert stands is not None
    assert stands.captions == ("a crow", "a black bird")
    page.keyboard.press("ArrowLeft")
    page.locator(".recaptioned", has_text="a crow").wait_for()
    page.reload()
    page.locator(".recaptioned", has_text="a crow").wait_for()
    page.keyboard.press("k")
    next_pair(page, pair)
    page.keyboard.press("u")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.keyboard.press("u")
    all_stored(page)
    assert review.counts() == {"keep": 0, "remove": 0, "recaption": 0}
    page.troubles.clear()  # the reload cuts pictures off


def test_the_line_of_what_was_found_follows_each_decision_and_each_undo(
    page: Any, address: str, review: Review
) -> None:
    page.add_init_script(NO_LONG_TIMERS)  # no poll of its own comes to help
    open_review_page(page, address)
    before = page.locator(".status").inner_text()
    page.keyboard.press("x")
    page.locator(".status", has_text="1 of 1").wait_for()
    page.keyboard.press("x")
    page.locator(".status", has_text="2 of 2").wait_for()
    page.keyboard.press("u")
    page.locator(".status", has_text="1 of 1").wait_for()
    page.keyboard.press("u")
    page.locator(".status", has_text=before).wait_for()


def test_a_reload_a_way_back_and_a_link_lead_to_the_pair_on_screen(
    page: Any, context: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    entries = page.evaluate("history.length")
    for key in ("k", "k", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        before = shown_pair(page)
        page.keyboard.press(key)
        next_pair(page, before)
    pair = shown_pair(page)
    all_stored(page)
    assert parse_qs(urlsplit(page.url).query)["pair"] == [pair]
    assert page.evaluate("history.length") == entries
    assert events(review)[1][0] == pair  # decided, and shown all the same
    page.reload()
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    settle(page)
    page.get_by_test_id("stSidebar").get_by_role("link", name="Overview").click()
    page.wait_for_url("**/overview?**")
    settle(page)
    assert "pair" not in parse_qs(urlsplit(page.url).query)
    page.go_back()
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    other = open_watched(context)
    other.goto(page.url)
    other.locator(f".pair[data-pair='{pair}']").wait_for()
    close_watched(other, address)
    page.troubles.clear()  # pictures of a page that is left


def test_what_another_tab_decides_on_the_pair_on_screen_is_replaced_by_a_second_press_alone(
    page: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    pair = shown_pair(page)
    review.decide([pair], "remove", audit="of somebody else")
    page.locator(".badge.remove").wait_for()
    page.get_by_text("Just marked Remove in another tab.").wait_for()
    page.keyboard.press("k")
    page.get_by_text("Press again").wait_for()
    page.wait_for_timeout(500)
    assert [decision for _, decision, _ in events(review)] == ["remove"]
    page.keyboard.press("k")
    next_pair(page, pair)
    all_stored(page)
    assert [decision for _, decision, _ in events(review)] == ["remove", "keep"]


def test_what_another_tab_decided_before_this_one_heard_of_it_is_not_replaced(
    page: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    page.route("**/api/review/changes?**", lambda route: route.abort())
    first = shown_pair(page)
    review.decide([first], "remove", audit="of somebody else")
    page.keyboard.press("k")
    second = next_pair(page, first)
    page.keyboard.press("k")
    next_pair(page, second)
    page.get_by_text(f"keep of {first}: just marked Remove in another tab").wait_for()
    all_stored(page)
    assert [each[:2] for each in events(review)] == [(first, "remove"), (second, "keep")]  # what follows is stored
    page.unroute("**/api/review/changes?**")
    page.get_by_text("2 decided, saved").wait_for()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.locator(f".pair[data-pair='{first}']").wait_for()
    page.locator(".badge.remove").wait_for()
    page.keyboard.press("k")
    next_pair(page, first)
    all_stored(page)
    assert review.counts() == {"keep": 2, "remove": 0, "recaption": 0}
    page.troubles.clear()  # the polls that were cut off


def test_content_that_is_refused_is_told_once_and_what_follows_is_stored(
    page: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    first = shown_pair(page)
    page.route(EVENTS, spoil_the_first, times=1)
    page.keyboard.press("x")
    second = next_pair(page, first)
    page.get_by_text("Not saved: remove").wait_for()
    page.keyboard.press("k")
    next_pair(page, second)
    all_stored(page)
    assert [each[:2] for each in events(review)] == [(second, "keep")]
    page.troubles.clear()  # the answer 400


def spoil_the_first(route: Any) -> None:  # noqa: ANN401
    sent = route.request.post_data_json
    sent["events"][0]["undoes"] = ["no client", -1]
    route.continue_(post_data=json.dumps(sent))


def test_coming_back_to_the_page_doubles_nothing(page: Any, address: str, review: Review) -> None:
    open_review_page(page, address)
    page.get_by_test_id("stSidebar").get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Review next").click()
    page.locator(".pair[data-pair]").wait_for()
    settle(page)
    page.wait_for_timeout(500)
    page.keyboard.press("k")
    page.locator(".sign.keep").wait_for()
    all_stored(page)
    assert [decision for _, decision, _ in events(review)] == ["keep"]
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
