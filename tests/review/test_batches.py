"""Batches of decisions: stored in order, once however often they are sent, and on no other captions."""

import pytest

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.config import InputError
from clipmem_core.review.batches import Receipt, Told, store
from clipmem_core.review.decisions import Review
from clipmem_core.review.review_queue import changed_rows, decided_rows, first_queue, queue_rows
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import caption_keys
from clipmem_core.review.tags import tags_of

CLIENT = "a browser"
IDS = ["images/010.png", "images/011.png", "images/012.png"]


def told(audit: Audit, number: int, kind: str, pair_id: str = IDS[0], **more: object) -> Told:
    """A decision as the page tells it: on the captions that the audit has."""
    given = {"judged": caption_keys(audit.folder / PAIRS, [pair_id]).get(pair_id, 1)} | more
    return Told(number, kind, pair_id, **given)  # type: ignore[arg-type]


def history(review: Review) -> list[tuple[str, str, str]]:
    """Kind, decision and pair of every event, the first one first."""
    table = review.history(page=1, size=100).iloc[::-1]
    return list(table[["kind", "decision", "first_pair_id"]].itertuples(index=False, name=None))


def test_a_batch_is_stored_in_its_order_and_a_later_one_goes_on(audit: Audit, review: Review) -> None:
    batch = [told(audit, 1, "keep"), told(audit, 2, "remove", IDS[1]), told(audit, 3, "remove")]
    assert store(review, CLIENT, batch, audit="made").stored == 3
    new = [told(audit, 4, "recaption", IDS[2], captions=(" a crow ", "")), told(audit, 5, "keep", IDS[1])]
    receipt = store(review, CLIENT, new, audit="made")
    assert (receipt.stored, receipt.refused) == (5, {})
    decisions = ["keep", "remove", "remove", "recaption", "keep"]
    assert history(review) == [
        ("decide", d, p) for d, p in zip(decisions, [*IDS[:2], IDS[0], *IDS[2:0:-1]], strict=True)
    ]
    stands = review.decisions(IDS)
    assert [stands[each].decision for each in IDS] == ["remove", "keep", "recaption"]
    assert stands[IDS[2]].captions == ("a crow",)
    assert set(review.table()["audit"]) == {"made"}


def test_what_is_sent_twice_is_stored_once_and_answered_alike(audit: Audit, review: Review) -> None:
    batch = [told(audit, 1, "keep"), told(audit, 2, "keep", "absent"), told(audit, 3, "remove", IDS[1])]
    first = store(review, CLIENT, batch[:2], audit="made")
    assert store(review, CLIENT, batch, audit="made").refused == first.refused == {2: "the audit has no such pair"}
    assert store(review, CLIENT, batch[1:], audit="made").stored == 3
    assert len(history(review)) == 2
    assert store(review, "another browser", batch[:1], audit="made").refused == {}
    assert len(history(review)) == 3  # the same number of another client is another event


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"judged": 7}, "the pair has other captions than those that were judged: look at it again"),
        ({"pair_id": "absent"}, "the audit has no such pair"),
        ({"pair_id": "\ud800"}, "the audit has no such pair"),
        ({"kind": "burn"}, "decision 'burn' is unknown: choose keep, remove, recaption or none"),
        (
            {"kind": "recaption", "captions": (" ",)},
            "a recaption needs a caption: write at least one that is not blank",
        ),
        ({"captions": ("a crow",)}, "captions belong to a recaption, not to keep: leave them out"),
        ({"kind": "recaption", "captions": ("half \ud800",)}, "half a character"),
        ({"kind": "recaption", "captions": ("a crow", "a NUL \0")}, "NUL"),
        ({"seen": ("remove",)}, "just marked Undecided in another tab"),
        ({"kind": "undo", "undoes": (CLIENT, 9)}, "what it undoes was not stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_reason_and_the_rest_is_stored(
    audit: Audit, review: Review, wrong: dict[str, object], why: str
) -> None:
    given = {"kind": "keep", "pair_id": IDS[0]} | wrong
    batch = [told(audit, 1, "keep", IDS[1]), told(audit, 2, **given), told(audit, 3, "keep", IDS[2])]  # type: ignore[arg-type]
    receipt = store(review, CLIENT, batch, audit="made")
    assert receipt.stored == 3
    assert list(receipt.refused) == [2]
    assert why in receipt.refused[2]
    assert [pair for _, _, pair in history(review)] == IDS[1:]


def test_an_undo_takes_back_what_it_names_unless_somebody_decided_since(audit: Audit, review: Review) -> None:
    undo = [
        Told(3, "undo", undoes=(CLIENT, 2)),
        Told(4, "undo", undoes=(CLIENT, 2)),
        Told(5, "undo", undoes=(CLIENT, 1)),
    ]
    store(review, CLIENT, [told(audit, 1, "keep"), told(audit, 2, "remove")], audit="made")
    receipt = store(review, "the same after a reload", undo[:2], audit="made")
    assert receipt.refused == {4: "somebody has decided anew since, or it is undone already"}
    stands = review.current(IDS[0])
    assert stands is not None
    assert stands.decision == "keep"
    review.decide(IDS[:1], "remove")
    assert list(store(review, CLIENT, undo[2:], audit="made").refused) == [5]
    assert [kind for kind, _, _ in history(review)] == ["decide", "decide", "undo", "decide"]


def test_a_decision_is_refused_where_another_stands_than_the_client_saw(audit: Audit, review: Review) -> None:
    crow = {"captions": ("a crow",)}
    batch = [
        told(audit, 1, "recaption", seen=(), **crow),
        told(audit, 2, "keep", seen=("recaption", "a crow")),  # its own, of this very batch
        Told(3, "undo", undoes=(CLIENT, 2)),
        told(audit, 4, "remove", seen=("recaption", "a crow")),
    ]
    assert store(review, CLIENT, batch, audit="made").refused == {}
    late = [told(audit, 1, "keep", seen=()), told(audit, 2, "keep", seen=("recaption", "a crow"))]
    for _ in range(2):  # sent again, it is answered alike
        refused = store(review, "another tab", late, audit="made").refused
        assert list(refused) == [1, 2]
        assert "Remove" in refused[1]
    assert store(review, "another tab", [told(audit, 3, "keep", seen=("remove",))], audit="made").refused == {}
    review.decide(["images/010.png"], "recaption", captions=["a rook"])
    other = [told(audit, 4, "keep", seen=("recaption", "a crow")), told(audit, 5, "keep", seen=("recaption", "a rook"))]
    assert list(store(review, "another tab", other, audit="made").refused) == [4]
    assert [decision for _, decision, _ in history(review)[-2:]] == ["recaption", "keep"]


def test_an_undo_in_the_batch_of_what_it_undoes(audit: Audit, review: Review) -> None:
    batch = [told(audit, 1, "keep"), Told(2, "undo", undoes=(CLIENT, 1)), told(audit, 3, "remove", IDS[1])]
    assert store(review, CLIENT, batch, audit="made").refused == {}
    assert review.counts() == {"keep": 0, "remove": 1, "recaption": 0}


def test_a_broken_log_is_told_in_one_line_and_takes_nothing(audit: Audit, review: Review) -> None:
    store(review, CLIENT, [told(audit, 1, "keep")], audit="made")
    content = review.path.read_bytes()
    review.path.write_bytes(b"not a log" * 1000)
    with pytest.raises(InputError, match="move it away") as refused:
        store(review, CLIENT, [told(audit, 2, "keep")], audit="made")
    assert str(review.path) in str(refused.value)
    assert "\n" not in str(refused.value)
    review.path.write_bytes(content)
    assert store(review, CLIENT, [told(audit, 2, "keep")], audit="made").stored == 2


def test_the_queue_keeps_its_order_while_its_pairs_are_decided_and_changes_are_told(
    audit: Audit, review: Review
) -> None:
    scores = audit.scores
    assert first_queue(audit) == Selection(order="review_place", ascending=True)
    rows = queue_rows(audit, Selection(order="misfit"))
    assert rows == scores["misfit"].dropna().sort_values(ascending=False).index.tolist()
    assert decided_rows(audit) == (0, {})
    place = {pair_id: row for row, pair_id in enumerate(scores["pair_id"])}
    store(review, CLIENT, [told(audit, 1, "keep"), told(audit, 2, "remove", IDS[1])], audit="made")
    review.decide(["of another audit"], "keep")
    entry, changed = changed_rows(audit, 0)
    assert changed == decided_rows(audit)[1] == {place[IDS[0]]: "keep", place[IDS[1]]: "remove"}
    assert changed_rows(audit, entry) == (entry, {})
    store(review, CLIENT, [Told(3, "undo", undoes=(CLIENT, 2))], audit="made")
    assert changed_rows(audit, entry)[1] == {place[IDS[1]]: None}
    assert queue_rows(audit, Selection(order="misfit")) == rows
    review.path.unlink()
    assert changed_rows(audit, entry) == (0, {})


def test_one_event_for_many_pairs_is_undone_as_one_and_one_wrong_pair_refuses_all(audit: Audit, review: Review) -> None:
    keys = caption_keys(audit.folder / PAIRS, IDS)
    others = tuple((each, keys[each]) for each in IDS[1:])
    batch = [
        told(audit, 1, "remove", others=others),
        told(audit, 2, "undecide", IDS[1]),
        told(audit, 3, "keep", IDS[1]),
    ]
    assert store(review, CLIENT, batch, audit="made").refused == {}
    assert [review.decisions(IDS)[each].decision for each in IDS] == ["remove", "keep", "remove"]
    assert review.history(page=1, size=9)["pairs"].tolist() == [1, 1, 3]
    receipt = store(review, CLIENT, [Told(4, "undo", undoes=(CLIENT, 1))], audit="made")
    assert receipt.refused == {}
    assert [review.decisions(IDS)[each].decision for each in IDS] == [None, "keep", None]
    wrong = [told(audit, 5, "remove", others=((IDS[1], 1),)), told(audit, 6, "remove", others=(("absent", 1),))]
    refused = store(review, CLIENT, wrong, audit="made").refused
    assert "other captions" in refused[5]
    assert "no such pair" in refused[6]
    assert review.counts()["remove"] == 0


def test_a_tag_is_stored_once_and_is_no_event_of_the_history(audit: Audit, review: Review) -> None:
    keys = caption_keys(audit.folder / PAIRS, IDS)
    batch = [
        told(audit, 1, "tag", tag="blurred", others=((IDS[1], keys[IDS[1]]),)),
        told(audit, 2, "untag", tag="blurred"),
    ]
    for _ in range(2):
        assert store(review, CLIENT, batch, audit="made") == Receipt(2, {})
    assert tags_of(review.path, IDS) == {IDS[1]: ["blurred"]}
    assert review.count_events() == 0
