from clipmem_core.audit.store import Audit
from clipmem_core.review.batch import preview_replacement
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import (
    KEEP,
    RECAPTION,
    REMOVE,
    Choice,
    Review,
    decided,
    decided_of,
)
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import Selection
from tests.review.test_browser_events import event_of, send


def new_captions(review: Review) -> dict[str, tuple[str, ...]]:
    return {pair_id: each.captions for pair_id, each in review.decisions().items() if each.captions}


def test_captions_are_not_emptied_and_removed_pairs_stay(audit: Audit, review: Review) -> None:
    first, second = audit.pairs["pair_id"][:2]
    review.decide([first, second], RECAPTION, captions=["a frog", "frog"])
    review.decide([second], REMOVE)
    assert preview_replacement(audit, [first], "FROG", "").edits == {}
    literal = preview_replacement(audit, [first], "FROG", r"\1", match_case=False)
    assert literal.captions == [(first, "a frog", r"a \1"), (first, "frog", r"\1")]
    preview = preview_replacement(audit, [first, second], "frog", "")
    assert (preview.emptied, preview.removed) == (1, 1)
    assert [edit.captions for edit in preview.edits.values()] == [("a", "frog")]
    review.decide([first], KEEP)
    assert review.decide_each(preview.edits).pairs == 0  # there is a newer decision


def test_replaced_captions_are_no_decision_and_outlast_other_decisions(
    audit: Audit, review: Review
) -> None:
    first, second, third = audit.pairs["pair_id"][:3]
    review.decide([second], KEEP)
    review.decide([third], RECAPTION, captions=["by hand"])
    entries = review.decisions()
    edits = {first: Choice(None, ("new",), entry=0)}
    edits |= {
        pair_id: Choice(None, ("new",), entry=entries[pair_id].entry) for pair_id in (second, third)
    }
    event = review.decide_each(edits).event
    assert decided(audit).codes[:3].tolist() == [0, 1, 3]
    assert 0 in find_rows(audit, Selection(decision="undecided", order="clipmem"), size=100)
    assert new_captions(review) == dict.fromkeys([first, second, third], ("new",))
    assert decided_of(audit.record.dataset_fingerprint).recaptioned == new_captions(review)
    assert [card.current for card in cards(audit, range(3))] == [("new",)] * 3
    outdated = send(review, event_of(audit, 1, "remove", first, expected=()))[1]
    assert "captions were just changed" in outdated[1]
    review.decide([first], KEEP)  # keeps what is on screen
    review.decide([first, second], None)
    review.undo(event)
    # the first two are of newer decisions
    expected = {first: ("new",), second: ("new",), third: ("by hand",)}
    assert new_captions(review) == expected


def test_neutral_decisions_are_marked_until_another_decision(audit: Audit, review: Review) -> None:
    first, second = audit.pairs["pair_id"][:2]
    review.decide([first, second], REMOVE, neutral=True)
    assert decided(audit).neutral[:3].tolist() == [True, True, False]
    review.decide([second], KEEP)
    assert decided(audit).neutral[:3].tolist() == [True, False, False]
    review.undo(review.count_events())
    assert decided(audit).neutral[:3].tolist() == [True, True, False]
