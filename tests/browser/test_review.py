"""Review mode: keys at eight a second, reloads, a server that does not answer, decisions of others,
hostile captions."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    read_table,
)
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.pictures import decode
from clipmem_core.review.decisions import Review, open_review
from tests.browser.conftest import TRAINED
from tests.browser.reviewing import (
    all_stored,
    edit_cards,
    events,
    kinds,
    next_pair,
    open_review_page,
    press,
    shown_pair,
)
from tests.browser.watched import wait_idle
from tests.fixtures import HOSTILE, rewrite, write_swaps

EVENTS = "**/api/review/events"
SHRINK = """image => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 8, height: 8})
    const context = canvas.getContext('2d')
    context.imageSmoothingQuality = 'high'
    context.drawImage(image, 0, 0, 8, 8)
    return [...context.getImageData(0, 0, 8, 8).data]
}"""


def ids(data: Path, rows: list[int]) -> list[str]:
    return Audit(data / "audits" / TRAINED).pairs["pair_id"][rows].tolist()


@pytest.mark.parametrize("name", ["review", "pair"])
def test_at_five_keys_a_second_every_key_is_stored_once_on_the_next_pair_across_a_reload(
    page: Any, address: str, data: Path, review: Review, name: str
) -> None:
    order = ids(data, open_review_page(page, address, name=name))
    press(page, "kx" * 5, ahead=7)
    page.locator(f".pair[data-pair='{order[10]}']").wait_for()
    wait_idle(page)  # the address names the pair
    page.reload()
    page.locator(".pair[data-pair]").wait_for()
    wait_idle(page)
    press(page, "kkx" * 4, ahead=7)
    page.locator(f".pair[data-pair='{order[22]}']").wait_for()
    all_stored(page)
    stored = [(pair, decision) for pair, decision, _ in events(review)]
    assert stored == list(zip(order, kinds("kx" * 5 + "kkx" * 4), strict=False))
    if name == "pair":  # what is below the pair has followed
        page.wait_for_timeout(1000)
        wait_idle(page)
        pair = shown_pair(page)
        assert parse_qs(urlsplit(page.url).query)["pair"] == [pair]
        page.get_by_text(f"file: images/{pair.split('-')[-1]}").wait_for()
    page.troubles.clear()  # the reload cuts pictures off


def test_of_100_keys_at_eight_a_second_with_a_suggestion_in_every_fifth_none_is_lost(
    page: Any, address: str, data: Path, review: Review
) -> None:
    # A swap decides on another pair too
    edit_cards(page, "{wrong: [2, 4], all_wrong: false, swap: null}")
    order = ids(data, open_review_page(page, address))
    keys = "xkxk1" * 20  # x and 1 on the first wrong caption leave the pair on screen
    press(page, keys, seconds=0.125, ahead=4)
    for _ in range(100):  # a slow machine stores the last ones late
        if len(events(review)) == len(keys):
            break
        page.wait_for_timeout(100)
    all_stored(page)  # a page that closes sends again what no answer confirms
    stored = events(review)
    assert [decision for _, decision, _ in stored] == kinds(keys)
    decided = [pair for pair, _ in groupby(stored, key=itemgetter(0))]
    assert decided == order[: len(decided)]
    assert page.get_by_text("ignored").count() == 0


def test_keys_wait_in_order_for_the_next_pairs_and_say_so_if_they_cannot(
    page: Any, address: str, data: Path, review: Review
) -> None:
    first = f"row={Audit(data / 'audits' / TRAINED).scores['review_place'].argmin()}"
    held: list[Any] = []
    released: list[bool] = []

    def hold(route: Any) -> None:
        if released or route.request.url.endswith(first):
            route.continue_()
        else:
            held.append(route)

    page.route("**/api/review/picture?**", hold)
    order = ids(data, open_review_page(page, address))
    press(page, "kkx", seconds=0.05)
    page.keyboard.press("u")  # what waits does not act
    page.locator(f".pair[data-pair='{order[0]}']").wait_for()
    press(page, "k" + "kkxk" * 2 + "x", seconds=0.05)
    page.get_by_text("A key was ignored: too many").wait_for()
    all_stored(page)
    decided = [event[:2] for event in events(review)]
    assert decided == [(order[0], "keep")] * 3  # the second one is the undo
    released.append(True)
    for route in held:
        route.continue_()
    page.locator(f".pair[data-pair='{order[9]}']").wait_for()
    all_stored(page)
    assert [event[:2] for event in events(review)][3:] == list(
        zip(order[1:9], kinds("kkxk" * 2), strict=True)
    )


def test_x_removes_a_pair_whose_captions_are_all_wrong(
    page: Any, address: str, data: Path, review: Review
) -> None:
    edit_cards(
        page,
        """{wrong: [0, 1, 2, 3, 4], all_wrong: true,
        reasons: Object.fromEntries([0, 1, 2, 3, 4].map(number => [number, 'All are wrong.'])),
        swap: {row: 3, pair_id: 'other', caption_key: '1', captions: ['a crow'],
        probability: '98 %', mutual: false}}""",
    )
    open_review_page(page, address)
    first = shown_pair(page)
    page.get_by_text("Captions of other fit this picture (98 %)").wait_for()
    assert page.locator("ol button").count() == 1  # no caption alone is replaced
    assert page.locator(".captions .wrong").count() == 5
    assert page.get_by_text("All are wrong.").count() == 1
    assert not page.get_by_role("button", name="Remove caption").is_visible()
    page.keyboard.press("x")
    second = next_pair(page, first)
    page.get_by_text("Captions of other").wait_for()
    page.keyboard.press("1")
    next_pair(page, second)
    all_stored(page)
    assert [event[:2] for event in events(review)] == [(first, "remove"), (second, "recaption")]
    assert review.current(second).captions == ("a crow",)


def test_a_pair_stays_while_another_caption_is_probably_wrong(
    page: Any, address: str, review: Review
) -> None:
    edit_cards(page, "{wrong: [2, 4], all_wrong: false}")
    open_review_page(page, address)
    pair = shown_pair(page)
    last = page.locator(".captions > li").nth(4)  # the other wrong one
    page.keyboard.press("x")
    page.get_by_text("caption removed ✓ Another caption is probably wrong.").wait_for()
    assert "focus" in last.get_attribute("class").split()
    assert shown_pair(page) == pair
    page.keyboard.press("x")
    second = next_pair(page, pair)
    page.keyboard.press("x")
    page.get_by_text("Another caption").wait_for()
    page.keyboard.press("k")
    next_pair(page, second)
    all_stored(page)
    assert [event[:2] for event in events(review)] == [
        (pair, "recaption"),
        (pair, "recaption"),
        (second, "recaption"),
        (second, "keep"),
    ]
    assert [len(review.current(each).captions) for each in (pair, second)] == [3, 4]


def test_decisions_are_kept_while_the_server_cannot_be_reached_and_stored_once(
    page: Any, address: str, data: Path, review: Review
) -> None:
    order = ids(data, open_review_page(page, address))
    page.route(EVENTS, lambda route: route.abort())
    press(page, "kxkx")
    page.get_by_text("unsent (the server cannot be reached); retrying").wait_for()
    page.locator(f".pair[data-pair='{order[4]}']").wait_for()
    page.reload()
    page.get_by_text("unsent (").wait_for()
    page.locator(".pair[data-pair]").wait_for()
    page.unroute(EVENTS)
    all_stored(page)

    def lose_the_answer(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route(EVENTS, lose_the_answer, times=1)
    press(page, "kx")
    page.locator(f".pair[data-pair='{order[6]}']").wait_for()
    all_stored(page)
    stored = [(pair, decision) for pair, decision, _ in events(review)]
    assert stored == list(zip(order, kinds("kx" * 3), strict=False))
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('clipmem'))") == []
    page.troubles.clear()  # the requests that were cut off


def test_a_refusal_is_shown_until_it_was_read_and_its_pair_is_undecided_again(
    page: Any, address: str, review: Review
) -> None:
    def refuse(route: Any) -> None:
        (event,) = route.request.post_data_json["events"]
        number = event["number"]
        route.fulfill(json={"stored": number, "refused": {str(number): "<b>other captions</b>"}})

    open_review_page(page, address)
    pair = shown_pair(page)
    page.route(EVENTS, refuse)
    page.keyboard.press("Shift+X")
    message = page.get_by_text(f"Not saved: remove of {pair}: <b>other captions</b>.")
    message.wait_for()
    page.get_by_text("0 decided, saved").wait_for()
    message.click()
    message.wait_for(state="hidden")
    assert events(review) == []


def test_the_picture_on_screen_is_that_of_the_pair(page: Any, address: str, data: Path) -> None:
    audit = Audit(data / "audits" / TRAINED)
    order = audit.scores["review_place"].sort_values().index[:8]
    files = [
        read_bytes(Path(audit.record.root), image) for image in audit.pairs.loc[order, "image"]
    ]
    small = [np.asarray(decode(file, least=900)[0].resize((8, 8)), dtype=float) for file in files]
    open_review_page(page, address)
    for place in range(len(order) - 1):
        page.locator(f".pair[data-pair='{audit.pairs.loc[order[place], 'pair_id']}']").wait_for()
        seen = np.array(page.locator(".picture img").evaluate(SHRINK)).reshape(8, 8, 4)[..., :3]
        assert np.argmin([np.abs(seen - picture).mean() for picture in small]) == place
        page.keyboard.press("ArrowRight")
    image = page.locator(f".pair[data-pair='{audit.pairs.loc[order[-1], 'pair_id']}'] .picture img")
    image.wait_for()
    page.keyboard.press("z")
    page.wait_for_function("image => image.style.scale === '3'", arg=image.element_handle())
    page.locator(".picture img[src*='full=1']").wait_for()
    image.hover()
    page.mouse.wheel(0, 9999)
    page.wait_for_function("image => image.style.scale === '1'", arg=image.element_handle())


def test_the_most_suspicious_caption_comes_first_and_a_key_stores_a_likelier_word(
    page: Any, address: str, data: Path, review: Review
) -> None:
    edit_cards(page, "{swap: null}")
    open_review_page(page, address)
    audit = Audit(data / "audits" / TRAINED)
    pair = shown_pair(page)
    shown = page.locator(".captions .line")
    captions = audit.pairs.set_index("pair_id")["captions"][pair].tolist()
    first = int(
        read_table(audit.folder / CAPTION_TABLE).set_index("pair_id").loc[pair, "p_wrong"].argmax()
    )
    order = [first, *(number for number in range(5) if number != first)]
    assert shown.all_text_contents() == [captions[number] for number in order]
    start, _, word = captions[first].rpartition(" ")
    page.locator("ol span", has_text=f"{word} → fox<b>").wait_for()
    answer = {"text": "", "right": True}
    page.route("**/api/review/judge?**", lambda route: route.fulfill(json=answer))
    before = captions[first]
    captions[first] = f"{start} fox<b>".strip()
    page.keyboard.press("1")
    next_pair(page, pair)
    all_stored(page)
    assert list(review.current(pair).captions) == captions
    page.keyboard.press("ArrowLeft")
    page.locator(".captions p", has_text=captions[first]).wait_for()
    assert page.locator(".captions s").all_text_contents() == [before]
    assert shown.count() == 5


def test_a_key_swaps_the_captions_of_two_pairs_and_another_undoes_both(
    page: Any, address: str, data: Path, review: Review
) -> None:
    audit = Audit(data / "audits" / TRAINED)
    one, other, last = audit.scores["review_place"].sort_values().index[40:43]
    write_swaps(audit, {one: other, other: one, last: one})
    pairs = audit.pairs.set_index("pair_id")["captions"].map(tuple)
    ids = audit.pairs["pair_id"][[one, other, last]].tolist()
    open_review_page(page, address, pair=ids[0], decision="undecided")
    for _ in range(2):
        page.locator("ol bdi", has_text=ids[1]).wait_for()
        page.keyboard.press("1")
        assert next_pair(page, ids[0]) == ids[2]  # the other is decided too
        all_stored(page)
        assert review.current(ids[0]).captions == pairs[ids[1]]
        assert review.current(ids[1]).captions == pairs[ids[0]]
        page.keyboard.press("u")
        page.locator(f".pair[data-pair='{ids[0]}']").wait_for()
        all_stored(page)
        assert review.table().empty
    review.decide(ids[1:2], "recaption", captions=["a crow"])
    page.locator("ol img").wait_for(state="hidden")  # both must be undecided
    for pair in ids[:2]:  # the other one was shown by the undo
        page.keyboard.press("ArrowRight")
        next_pair(page, pair)
    page.locator("ol bdi", has_text=ids[0]).wait_for()
    page.keyboard.press("1")
    next_pair(page, ids[2])
    all_stored(page)
    assert review.current(ids[2]).captions == pairs[ids[0]]


def test_a_suggestion_is_judged_afterwards_and_a_doubt_leads_back_to_its_pair(
    page: Any, address: str, review: Review
) -> None:
    judged: list[Any] = []
    page.route("**/api/review/judge?**", lambda route: judged.append(route))
    open_review_page(page, address)
    pair = shown_pair(page)
    page.locator("ol button").first.wait_for()
    page.keyboard.press("1")
    second = next_pair(page, pair)  # at once
    page.keyboard.press("k")
    next_pair(page, second)
    while not judged:
        page.wait_for_timeout(50)
    judged[0].fulfill(json={"text": "", "wrong": "72 %", "right": False})
    page.get_by_text(f"The new caption of {pair} may still be wrong (72 %).").wait_for()
    page.keyboard.press("k")  # whose sign does not replace it
    page.get_by_role("button", name="Show it").click()
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.locator(".reason", has_text="72 %").wait_for()
    all_stored(page)
    assert [event[0] for event in events(review)][:2] == [pair, second]


def test_x_removes_the_marked_sentence_alone(page: Any, address: str, data: Path) -> None:
    audit = Audit(data / "audits" / "long")
    sentences = read_table(audit.folder / SENTENCE_TABLE).assign(p_caption=0.0, p_word=0.0)
    words = read_table(audit.folder / WORD_TABLE)
    rewrite(audit.folder / WORD_TABLE, words.assign(p_wrong=0.0, surprise=-9.0))
    pair = sentences["pair_id"][0]
    sentences.loc[1, "p_caption"] = 0.97  # the second of three
    rewrite(audit.folder / SENTENCE_TABLE, sentences)
    captions = read_table(audit.folder / CAPTION_TABLE)
    wrong = np.where(captions["caption"] == 0, 0.97, 0.0)  # it comes first
    captions = captions.assign(p_pair=0.0, p_word=0.0, p_caption=wrong, p_wrong=wrong)
    rewrite(audit.folder / CAPTION_TABLE, captions)
    first, second = audit.pairs["captions"][0]
    start, end = sentences.loc[1, ["start", "end"]]
    open_review_page(page, address, audit="long", pair=pair)
    assert page.locator(".captions u").all_text_contents() == [first[start:end]]
    page.get_by_role("button", name="Remove sentence").wait_for()
    page.keyboard.press("e")  # the caret is behind the sentence
    page.keyboard.type("!")
    assert f"{first[:end]}!{first[end:]}" in page.locator("textarea").input_value()
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    next_pair(page, pair)
    page.keyboard.press("ArrowLeft")
    assert page.locator(".captions s").all_text_contents() == [first[start:end]]
    all_stored(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        captions = open_review(audit).current(pair).captions
    assert list(captions) == [first[:start] + first[end + 1 :], second]


def test_an_edit_and_undo(page: Any, address: str, data: Path, review: Review) -> None:
    open_review_page(page, address)
    pair = shown_pair(page)
    lines = page.locator(".captions .line").all_text_contents()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("e")
    assert sorted(page.locator("textarea").input_value().split("\n")) == sorted(lines)
    page.keyboard.type(" and more")  # the caret is at the caption in focus
    page.keyboard.press("Control+Enter")
    page.get_by_text("Another caption is probably wrong.").wait_for()
    page.keyboard.press("k")
    next_pair(page, pair)
    all_stored(page)
    captions = Audit(data / "audits" / TRAINED).pairs.set_index("pair_id")["captions"][pair]
    edited = [text + " and more" * (text == lines[1]) for text in captions]
    assert list(review.current(pair).captions) == edited
    page.keyboard.press("u")
    page.locator(f".pair[data-pair='{pair}']").wait_for()
    page.keyboard.press("u")
    page.keyboard.press("e")
    page.locator("textarea").fill("a crow\n\n a black bird")
    page.keyboard.press("Control+Enter")
    next_pair(page, pair)
    all_stored(page)
    assert review.current(pair).captions == ("a crow", "a black bird")
    page.keyboard.press("ArrowLeft")
    page.locator(".captions p", has_text="a crow").wait_for()
    page.keyboard.press("u")
    all_stored(page)
    assert review.table().empty


def test_a_decision_of_another_tab_is_replaced_by_a_second_press_alone(
    page: Any, address: str, review: Review
) -> None:
    open_review_page(page, address)
    pair = shown_pair(page)
    review.decide([pair], "remove", audit="of somebody else")
    page.get_by_text("Just marked Remove in another tab.").wait_for()
    page.keyboard.press("k")
    page.get_by_text("Press again").wait_for()
    page.wait_for_timeout(500)
    assert [decision for _, decision, _ in events(review)] == ["remove"]
    page.keyboard.press("k")
    second = next_pair(page, pair)
    all_stored(page)
    assert [decision for _, decision, _ in events(review)] == ["remove", "keep"]
    page.route(
        "**/api/review/changes?**", lambda route: route.abort()
    )  # this tab does not hear of the next one
    review.decide([second], "remove", audit="of somebody else")
    page.keyboard.press("k")
    page.locator(".refused", has_text=second).wait_for()
    page.keyboard.press("k")
    page.locator(".sign.keep").wait_for()
    all_stored(page)
    assert [decision for _, decision, _ in events(review)] == ["remove", "keep", "remove", "keep"]
    page.unroute("**/api/review/changes?**")
    with page.expect_response("**/api/review/changes?**"):
        page.troubles.clear()  # the polls that were cut off
    page.troubles.clear()


def test_hostile_captions_and_words_show_as_they_are_and_do_nothing(
    page: Any, address: str
) -> None:
    open_review_page(page, address, "hostile", order="clipmem")
    for caption in HOSTILE[:-1]:
        page.wait_for_function(
            """expected => {
                const {shadowRoot} = document.querySelector('[data-testid=stBidiComponentIsolated]')
                return ['.line', '.line u'].every((name, at) =>
                shadowRoot.querySelector(name)?.textContent === expected[at])
            }""",
            arg=[caption, caption.split()[-1]],
        )
        page.wait_for_timeout(100)  # until it is painted
        pair = shown_pair(page)
        page.keyboard.press("1")
        next_pair(page, pair)
        page.keyboard.press("ArrowLeft")
        replaced = " ".join([*caption.split()[:-1], "fox<b>"]).lower()  # a capital stays one
        assert (
            " ".join(page.locator(".captions p").first.text_content().split()).lower() == replaced
        )
        page.keyboard.press("u")
        page.keyboard.press("ArrowRight")
    assert page.title() == "Review · CLIPMem"
    assert (
        page.locator(".review script, .review b:not(.place), .review img[src=x], .review a").count()
        == 0
    )
