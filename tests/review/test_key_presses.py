"""Batches of decisions from browsers: stored once, in order, and refused if outdated."""

from typing import Any

import pytest

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.review.decisions import Review
from clipmem_core.review.key_presses import KeyPresses, store_key_presses
from clipmem_core.review.queries import CAPTION_KEY, fetch_by_id

CLIENT = "client01"
OTHER = "client02"
IDS = ["images/010.png", "images/011.png", "images/012.png"]
Event = dict[str, Any]


def event_of(audit: Audit, number: int, kind: str, pair_id: str = IDS[0], **more: object) -> Event:
    """A decision as the page sends it, with the caption key of the audit."""
    key = fetch_by_id(audit.folder / PAIRS, CAPTION_KEY, [pair_id]).get(pair_id, 1)
    return {"number": number, "kind": kind, "pair_id": pair_id, "caption_key": str(key)} | more


def undo(number: int, undoes: object) -> Event:
    return {"number": number, "kind": "undo", "undoes": undoes}


def send(review: Review, *events: Event, client: str = CLIENT) -> tuple[int, dict[int, str]]:
    batch = {"audit": "made", "client": client, "events": events}
    return store_key_presses(review, KeyPresses.model_validate(batch))


def history(review: Review) -> list[tuple[str, str]]:
    """Decision and pair of every event, the first one first."""
    table = review.history().iloc[::-1]
    return list(zip(table["decision"], table["first_pair_id"], strict=True))


def decided_now(review: Review) -> list[str | None]:
    return [review.decisions(IDS)[pair_id].decision for pair_id in IDS]


def test_a_repeated_event_is_stored_once(audit: Audit, review: Review) -> None:
    first = event_of(audit, 1, "keep")
    second = event_of(audit, 2, "keep", "absent")
    assert send(review, first, second) == (2, {2: "the audit has no such pair"})
    crow = event_of(audit, 3, "recaption", IDS[2], captions=(" a crow ", ""))
    assert send(review, second, crow) == (3, {2: "the audit has no such pair"})
    assert history(review) == [("keep", IDS[0]), ("recaption", IDS[2])]
    assert review.decisions(IDS)[IDS[2]].captions == ("a crow",)
    send(review, first, client=OTHER)  # the same number of another client is another event
    assert len(history(review)) == 3


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"caption_key": 7}, "have changed"),
        ({"pair_id": "absent"}, "no such pair"),
        ({"kind": "burn"}, "'burn' is unknown"),
        ({"expected": ("remove",)}, "undecided now"),
        ({"others": [(IDS[1], 1)]}, "have changed"),
        (undo(2, (CLIENT, 9)), "was not stored"),
    ],
)
def test_an_invalid_event_is_refused_and_the_others_are_stored(
    audit: Audit, review: Review, wrong: Event, why: str
) -> None:
    first = event_of(audit, 1, "keep", IDS[1])
    last = event_of(audit, 3, "keep", IDS[2])
    stored, refused = send(review, first, event_of(audit, 2, "keep") | wrong, last)
    assert (stored, list(refused)) == (3, [2])
    assert why in refused[2]
    assert history(review) == [("keep", IDS[1]), ("keep", IDS[2])]


def test_a_decision_is_refused_if_the_current_one_is_not_the_expected_one(
    audit: Audit, review: Review
) -> None:
    crow = ("recaption", "a crow")
    first = event_of(audit, 1, "recaption", expected=(), captions=crow[1:])
    keep = event_of(audit, 2, "keep", expected=crow)
    remove = event_of(audit, 4, "remove", expected=crow)
    assert send(review, first, keep, undo(3, (CLIENT, 2)), remove) == (4, {})
    late = event_of(audit, 1, "keep", expected=())
    for _ in range(2):  # sent again, it is answered alike
        refused = send(review, late, keep, client=OTHER)[1]
        assert list(refused) == [1, 2]
        assert "remove now" in refused[1]
    current = event_of(audit, 3, "keep", expected=("remove", "a crow"))
    assert send(review, current, client=OTHER) == (3, {})


def test_an_event_for_many_pairs_is_undone_as_one(audit: Audit, review: Review) -> None:
    keys = fetch_by_id(audit.folder / PAIRS, CAPTION_KEY, IDS)
    others = [(pair_id, keys[pair_id]) for pair_id in IDS[1:]]
    undecide = event_of(audit, 2, "undecide", IDS[1])
    keep = event_of(audit, 3, "keep", IDS[1])
    assert send(review, event_of(audit, 1, "remove", others=others), undecide, keep) == (3, {})
    assert decided_now(review) == ["remove", "keep", "remove"]
    assert review.history()["pairs"].tolist() == [1, 1, 3]
    assert send(review, undo(4, (CLIENT, 1))) == (4, {})
    assert decided_now(review) == [None, "keep", None]
