"""Batches of decisions: stored in order, once however often they are sent, and on no other captions."""

from typing import Any

import pytest

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.config import InputError
from clipmem_core.review.bulk_edit import Batch, store
from clipmem_core.review.decisions import Review
from clipmem_core.review.log import tags_of
from clipmem_core.review.rows import changed_rows, decided_rows, first_queue
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import caption_keys

CLIENT, OTHER = "client01", "client02"
IDS = ["images/010.png", "images/011.png", "images/012.png"]
Event = dict[str, Any]
Told = tuple[int, dict[int, str]]


def event(audit: Audit, number: int, kind: str, pair_id: str = IDS[0], **more: object) -> Event:
    """A decision as the page sends it: on the captions that the audit has."""
    key = caption_keys(audit.folder / PAIRS, [pair_id]).get(pair_id, 1)
    return {"number": number, "kind": kind, "pair_id": pair_id, "judged": str(key)} | more


def undo(number: int, undoes: int) -> Event:
    return {"number": number, "kind": "undo", "undoes": (CLIENT, undoes)}


def send(review: Review, *events: Event, client: str = CLIENT) -> Told:
    return store(review, Batch.model_validate({"audit": "made", "client": client, "events": events}))


def history(review: Review) -> list[tuple[str, str, str]]:
    """Kind, decision and pair of every event, the first one first."""
    table = review.history(page=1, size=100).iloc[::-1]
    return list(table[["kind", "decision", "first_pair_id"]].itertuples(index=False, name=None))


def test_a_batch_is_stored_in_its_order_and_sent_again_it_is_answered_alike(audit: Audit, review: Review) -> None:
    batch = [event(audit, 1, "keep"), event(audit, 2, "keep", "absent"), event(audit, 3, "remove", IDS[1])]
    told = send(review, *batch[:2])
    assert told == (2, {2: "the audit has no such pair"})
    assert send(review, *batch) == (3, told[1])
    crow = event(audit, 4, "recaption", IDS[2], captions=(" a crow ", ""))
    assert send(review, batch[2], crow) == (4, {})
    assert history(review) == [
        ("decide", decision, pair) for decision, pair in zip(("keep", "remove", "recaption"), IDS, strict=True)
    ]
    assert review.decisions(IDS)[IDS[2]].captions == ("a crow",)
    assert set(review.table()["audit"]) == {"made"}
    send(review, batch[0], client=OTHER)  # the same number of another client is another event
    assert len(history(review)) == 4


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"judged": 7}, "other captions"),
        ({"pair_id": "absent"}, "no such pair"),
        ({"kind": "burn"}, "'burn' is unknown"),
        ({"kind": "recaption", "captions": (" ",)}, "needs a caption"),
        ({"captions": ("a crow",)}, "captions belong to a recaption"),
        ({"kind": "recaption", "captions": ("a crow", "a NUL \0")}, "NUL"),
        ({"seen": ("remove",)}, "Undecided in another tab"),
        ({"kind": "undo", "undoes": (CLIENT, 9)}, "was not stored"),
        ({"kind": "tag", "tag": " "}, "a tag needs a word"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_reason_and_the_rest_is_stored(
    audit: Audit, review: Review, wrong: Event, why: str
) -> None:
    batch = event(audit, 1, "keep", IDS[1]), event(audit, 2, "keep") | wrong, event(audit, 3, "keep", IDS[2])
    stored, refused = send(review, *batch)
    assert (stored, list(refused)) == (3, [2])
    assert why in refused[2]
    assert [pair for _, _, pair in history(review)] == IDS[1:]


def test_an_undo_takes_back_what_it_names_unless_somebody_decided_since(audit: Audit, review: Review) -> None:
    send(review, event(audit, 1, "keep"), event(audit, 2, "remove"))
    assert list(send(review, undo(3, 2), undo(4, 2), client=OTHER)[1]) == [4]
    stands = review.current(IDS[0])
    assert stands is not None
    assert stands.decision == "keep"
    review.decide(IDS[:1], "remove")
    assert list(send(review, undo(5, 1))[1]) == [5]
    assert [kind for kind, _, _ in history(review)] == ["decide", "decide", "undo", "decide"]
    assert send(review, event(audit, 6, "keep", IDS[1]), undo(7, 6)) == (7, {})
    assert review.counts() == {"keep": 0, "remove": 1, "recaption": 0}


def test_a_decision_is_refused_where_another_stands_than_the_client_saw(audit: Audit, review: Review) -> None:
    crow = ("recaption", "a crow")
    own = event(audit, 1, "recaption", seen=(), captions=crow[1:]), event(audit, 2, "keep", seen=crow)
    assert send(review, *own, undo(3, 2), event(audit, 4, "remove", seen=crow)) == (4, {})
    for _ in range(2):  # sent again, it is answered alike
        late = event(audit, 1, "keep", seen=()), event(audit, 2, "keep", seen=crow)
        refused = send(review, *late, client=OTHER)[1]
        assert list(refused) == [1, 2]
        assert "Remove" in refused[1]
    assert send(review, event(audit, 3, "keep", seen=("remove",)), client=OTHER)[1] == {}


def test_a_broken_log_is_told_in_one_line_and_takes_nothing(audit: Audit, review: Review) -> None:
    send(review, event(audit, 1, "keep"))
    content = review.path.read_bytes()
    review.path.write_bytes(b"not a log" * 1000)
    with pytest.raises(InputError, match=review.path.name) as refused:
        send(review, event(audit, 2, "keep"))
    assert "\n" not in str(refused.value)
    review.path.write_bytes(content)
    assert send(review, event(audit, 2, "keep")) == (2, {})


def test_rows_that_are_decided_and_those_that_changed_since_are_told(audit: Audit, review: Review) -> None:
    assert first_queue(audit) == Selection(order="review_place", ascending=True)
    assert decided_rows(audit) == (0, {})
    place = {pair_id: row for row, pair_id in enumerate(audit.scores["pair_id"])}
    send(review, event(audit, 1, "keep"), event(audit, 2, "remove", IDS[1]))
    review.decide(["of another audit"], "keep")
    entry, changed = changed_rows(audit, 0)
    assert changed == decided_rows(audit)[1] == {place[IDS[0]]: "keep", place[IDS[1]]: "remove"}
    assert changed_rows(audit, entry) == (entry, {})
    send(review, undo(3, 2))
    assert changed_rows(audit, entry)[1] == {place[IDS[1]]: None}
    review.path.unlink()
    assert changed_rows(audit, entry) == (0, {})


def test_one_event_for_many_pairs_is_undone_as_one_and_one_wrong_pair_refuses_all(audit: Audit, review: Review) -> None:
    keys = caption_keys(audit.folder / PAIRS, IDS)
    others = [(each, keys[each]) for each in IDS[1:]]
    batch = event(audit, 1, "remove", others=others), event(audit, 2, "undecide", IDS[1])
    assert send(review, *batch, event(audit, 3, "keep", IDS[1])) == (3, {})
    assert [review.decisions(IDS)[each].decision for each in IDS] == ["remove", "keep", "remove"]
    assert review.history(page=1, size=9)["pairs"].tolist() == [1, 1, 3]
    assert send(review, undo(4, 1)) == (4, {})
    assert [review.decisions(IDS)[each].decision for each in IDS] == [None, "keep", None]
    wrong = [event(audit, 5 + place, "remove", others=[other]) for place, other in enumerate([(IDS[1], 1), ("no", 1)])]
    refused = send(review, *wrong)[1]
    assert "other captions" in refused[5]
    assert "no such pair" in refused[6]
    assert review.counts()["remove"] == 0


def test_a_tag_is_stored_once_and_is_no_event_of_the_history(audit: Audit, review: Review) -> None:
    others = list(caption_keys(audit.folder / PAIRS, IDS[1:2]).items())
    tag, untag = event(audit, 1, "tag", tag="blurred", others=others), event(audit, 2, "untag", tag="blurred")
    for _ in range(2):
        assert send(review, tag, untag) == (2, {})
    assert tags_of(review.path, IDS) == {IDS[1]: ["blurred"]}
    assert review.count_events() == 0
