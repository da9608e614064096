from typing import Any

import pytest

from clipmem_core.audit.store import PAIRS, Audit
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import (
    KEEP,
    RECAPTION,
    REMOVE,
    BrowserEvents,
    Edit,
    Review,
    decided,
    decided_of,
    open_review,
    store_events,
)
from clipmem_core.review.find_replace import preview_replacement
from clipmem_core.review.queries import caption_keys
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import Selection
from tests.fixtures import Copy

CLIENT = "client01"
OTHER = "client02"
IDS = ["images/010.png", "images/011.png", "images/012.png"]
Event = dict[str, Any]
Answer = tuple[int, dict[int, str]]


def event_of(audit: Audit, number: int, kind: str, pair_id: str = IDS[0], **more: object) -> Event:
    """A decision as the page sends it, with the caption key of the audit."""
    key = caption_keys(audit.folder / PAIRS, [pair_id]).get(pair_id, 1)
    return {"number": number, "kind": kind, "pair_id": pair_id, "caption_key": str(key)} | more


def undo(number: int, undoes: int) -> Event:
    return {"number": number, "kind": "undo", "undoes": (CLIENT, undoes)}


def send(review: Review, *events: Event, client: str = CLIENT) -> Answer:
    return store_events(
        review, BrowserEvents.model_validate({"audit": "made", "client": client, "events": events})
    )


def history(review: Review) -> list[tuple[str, str, str]]:
    """Kind, decision and pair of every event, the first one first."""
    table = review.history(page=1, size=100).iloc[::-1]
    return list(table[["kind", "decision", "first_pair_id"]].itertuples(index=False, name=None))


def test_a_batch_is_stored_in_order_and_a_repeated_event_once(audit: Audit, review: Review) -> None:
    batch = [
        event_of(audit, 1, "keep"),
        event_of(audit, 2, "keep", "absent"),
        event_of(audit, 3, "remove", IDS[1]),
    ]
    answer = send(review, *batch[:2])
    assert answer == (2, {2: "the audit has no such pair"})
    assert send(review, *batch) == (3, answer[1])
    crow = event_of(audit, 4, "recaption", IDS[2], captions=(" a crow ", ""))
    assert send(review, batch[2], crow) == (4, {})
    assert history(review) == [
        ("decide", decision, pair)
        for decision, pair in zip(("keep", "remove", "recaption"), IDS, strict=True)
    ]
    assert review.decisions(IDS)[IDS[2]].captions == ("a crow",)
    assert set(review.table()["audit"]) == {"made"}
    send(review, batch[0], client=OTHER)  # the same number of another client is another event
    assert len(history(review)) == 4


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"caption_key": 7}, "have changed"),
        ({"pair_id": "absent"}, "no such pair"),
        ({"kind": "burn"}, "'burn' is unknown"),
        ({"kind": "recaption", "captions": (" ",)}, "needs a caption"),
        ({"kind": "recaption", "captions": ("a crow", "a NUL \0")}, "NUL"),
        ({"expected": ("remove",)}, "Undecided in another tab"),
        ({"kind": "undo", "undoes": (CLIENT, 9)}, "was not stored"),
    ],
)
def test_an_invalid_event_is_refused_and_the_others_are_stored(
    audit: Audit, review: Review, wrong: Event, why: str
) -> None:
    batch = (
        event_of(audit, 1, "keep", IDS[1]),
        event_of(audit, 2, "keep") | wrong,
        event_of(audit, 3, "keep", IDS[2]),
    )
    stored, refused = send(review, *batch)
    assert (stored, list(refused)) == (3, [2])
    assert why in refused[2]
    assert [pair for _, _, pair in history(review)] == IDS[1:]


def test_a_decision_is_refused_if_the_current_one_is_not_the_expected_one(
    audit: Audit, review: Review
) -> None:
    crow = ("recaption", "a crow")
    events = (
        event_of(audit, 1, "recaption", expected=(), captions=crow[1:]),
        event_of(audit, 2, "keep", expected=crow),
    )
    assert send(review, *events, undo(3, 2), event_of(audit, 4, "remove", expected=crow)) == (4, {})
    for _ in range(2):  # sent again, it is answered alike
        late = event_of(audit, 1, "keep", expected=()), event_of(audit, 2, "keep", expected=crow)
        refused = send(review, *late, client=OTHER)[1]
        assert list(refused) == [1, 2]
        assert "Remove" in refused[1]
    assert (
        send(review, event_of(audit, 3, "keep", expected=("remove", "a crow")), client=OTHER)[1]
        == {}
    )


def test_one_event_for_many_pairs_is_undone_as_one_and_one_wrong_pair_refuses_all(
    audit: Audit, review: Review
) -> None:
    keys = caption_keys(audit.folder / PAIRS, IDS)
    others = [(each, keys[each]) for each in IDS[1:]]
    batch = event_of(audit, 1, "remove", others=others), event_of(audit, 2, "undecide", IDS[1])
    assert send(review, *batch, event_of(audit, 3, "keep", IDS[1])) == (3, {})
    assert [review.decisions(IDS)[each].decision for each in IDS] == ["remove", "keep", "remove"]
    assert review.history(page=1, size=9)["pairs"].tolist() == [1, 1, 3]
    assert send(review, undo(4, 1)) == (4, {})
    assert [review.decisions(IDS)[each].decision for each in IDS] == [None, "keep", None]
    wrong = [
        event_of(audit, 5, "remove", others=[(IDS[1], 1)]),
        event_of(audit, 6, "remove", others=[("absent", 1)]),
    ]
    assert list(send(review, *wrong)[1]) == [5, 6]
    assert review.counts()["remove"] == 0


def captions(review: Review) -> dict[str, tuple[str, ...]]:
    table = review.table()
    return {
        pair_id: tuple(texts)
        for pair_id, texts in zip(table["pair_id"], table["captions"], strict=True)
    }


def texts(audit: Audit) -> dict[str, tuple[str, ...]]:
    pairs = audit.pairs
    return {
        pair_id: tuple(texts)
        for pair_id, texts in zip(pairs["pair_id"], pairs["captions"], strict=True)
    }


def test_a_preview_shows_what_storing_does(copy: Copy) -> None:
    audit = copy()
    review = open_review(copy(name="other"))
    before = texts(audit)
    ids = [pair_id for pair_id, own in before.items() if any("square" in text for text in own)]
    assert preview_replacement(audit, list(before), "SQUARE", r"\1").edits == {}
    changes = preview_replacement(audit, list(before), "SQUARE", r"\1", match_case=False)
    assert list(changes.edits) == ids
    changed = [
        (pair_id, text, text.replace("square", r"\1"))
        for pair_id in ids
        for text in before[pair_id]
    ]
    assert changes.captions == [(pair_id, old, new) for pair_id, old, new in changed if old != new]
    assert open_review(audit).edit(changes.edits).pairs == len(ids) > 1
    after = captions(review)
    assert after == {
        pair_id: tuple(text.replace("square", r"\1") for text in before[pair_id]) for pair_id in ids
    }


def test_captions_are_not_left_empty_and_pairs_to_be_removed_stay(copy: Copy) -> None:
    audit = copy()
    first, second, third, *_ = list(texts(audit))
    review = open_review(audit)
    review.decide([first, second], RECAPTION, captions=["a frog", "frog"])
    review.decide([second], REMOVE)
    changes = preview_replacement(audit, [first, second], "frog", "")
    assert (changes.emptied, changes.removed, len(changes.edits)) == (1, 1, 1)
    assert changes.edits[first].captions == ("a", "frog")
    review.decide([first], KEEP)
    assert open_review(audit).edit(changes.edits).pairs == 0
    assert third not in captions(review)


def test_replaced_captions_are_no_decision_and_outlast_other_decisions(copy: Copy) -> None:
    audit = copy()
    review = open_review(audit)
    (first, second, third, *_) = list(texts(audit))
    review.decide([second], KEEP)
    review.decide([third], RECAPTION, captions=["by hand"])
    entries = review.decisions([second, third])
    edits = {first: Edit(("new",), 0)} | {
        pair_id: Edit(("new",), each.entry) for pair_id, each in entries.items()
    }
    event = review.edit(edits).event
    assert decided(audit).codes[:3].tolist() == [0, 1, 3]
    assert (
        find_rows(audit, Selection(decision="undecided", order="clipmem"), size=100).count(0) == 1
    )
    assert captions(review) == dict.fromkeys([first, second, third], ("new",))
    assert decided_of(audit.record.dataset_fingerprint).recaptioned == captions(review)
    assert [card.current for card in cards(audit, range(3))] == [("new",)] * 3
    stale = send(review, event_of(audit, 1, "remove", first, expected=()))[1]
    assert "captions were just changed" in stale[1]
    review.decide([first], KEEP)  # keeps what is on screen
    review.decide([first, second], None)
    assert captions(review)[first] == captions(review)[second] == ("new",)
    review.undo(event)
    assert captions(review)[first] == ("new",)  # of a newer decision
    assert captions(review)[third] == ("by hand",)
    review.decide([third], None)
    assert third not in captions(review)


def test_an_event_of_a_button_is_undone_by_its_number_in_the_log(
    audit: Audit, review: Review
) -> None:
    button = review.decide(IDS[:2], REMOVE).event
    numbered = {"number": 1, "kind": "undo", "undoes": button}
    assert send(review, numbered, numbered | {"number": 2}) == (
        2,
        {2: "there is a newer decision, or it is undone already"},
    )
    assert review.counts()[REMOVE] == 0
    assert list(send(review, numbered | {"number": 3, "undoes": 99})[1]) == [3]


def test_neutral_decisions_are_marked_until_another_decision(copy: Copy) -> None:
    audit = copy()
    review = open_review(audit)
    (first, second, *_) = list(texts(audit))
    review.decide([first, second], REMOVE, neutral=True)
    assert decided(audit).neutral[:3].tolist() == [True, True, False]
    review.decide([second], KEEP)
    assert decided(audit).neutral[:3].tolist() == [True, False, False]
    review.undo(review.count_events())
    assert decided(audit).neutral[:3].tolist() == [True, True, False]
