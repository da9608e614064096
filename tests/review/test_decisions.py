"""The current decisions after any decisions and undos, in one audit and in others of its data
set."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipmem_core.auditing.folder.store import PAIRS
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import (
    CHOICES,
    KEEP,
    RECAPTION,
    REMOVE,
    Review,
    decided,
    open_review,
)
from clipmem_core.review.log import Outcome
from clipmem_core.utils.io import InputError
from tests.fixtures import HOSTILE, NO_PAIRS, Copy, decision_counts, rewrite


@pytest.fixture
def review(data: Path) -> Review:
    return Review(data / "review" / "set.sqlite", NO_PAIRS)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"pair_ids": []}, "no pair is chosen"),
        ({"decision": "burn"}, "'burn' is unknown"),
        ({"decision": RECAPTION, "captions": ["", " \n"]}, "needs a caption"),
        ({"pair_ids": ["a", "half \ud83d"]}, "half a character"),
        ({"note": "\udc80"}, "half a character"),
        ({"decision": RECAPTION, "captions": ["a", "before\0after"]}, "NUL"),
    ],
)
def test_an_invalid_decision_is_refused(
    review: Review, changed: dict[str, object], fault: str
) -> None:
    with pytest.raises(InputError, match=fault) as refused:
        review.decide(**{"pair_ids": ["a"], "decision": KEEP, **changed})
    assert str(refused.value).isprintable()
    assert review.position() == len(review.history()) == 0


def test_every_text_is_stored_unchanged(review: Review) -> None:
    for text in (*HOSTILE, "\0", "' OR 1=1; --", "?", "\u2028\r\n\t", '"', "[]"):
        before = review.position()
        caption = f"x{text}x".replace("\0", "")
        review.decide([text], RECAPTION, captions=[caption], note=text, audit=text)
        result = review.current(text)
        assert (result.captions, result.note, result.audit) == ((caption,), text, text)
        history = review.history().iloc[0]
        assert (history["first_pair_id"], history["audit"]) == (text, text)
        assert [entry[0] for entry in review.entries_after(before)] == [text]


NAMES = ["a", "b", "c", "d"]


class Rounds(RuleBasedStateMachine):
    """Decisions and undos in any order, compared with lists of the state before and after each
    event."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.review = Review(Path(self.folder.name) / "set.sqlite", NO_PAIRS)
        self.state: dict[str, tuple] = {}  # pair → deciding event, decision, captions, note
        self.changes: list[dict[str, tuple]] = []  # event → pair → state before, state after
        self.undoes: list[int | None] = []
        self.last: dict[str, int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(
        pairs=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
        decision=st.sampled_from([None, *CHOICES]),
        note=st.sampled_from([None, None, "", "x", "y"]),
    )
    def decide(self, pairs: list[str], decision: str | None, note: str | None) -> None:
        event = len(self.changes) + 1
        distinct = list(dict.fromkeys(pairs))
        captions = (f"caption {event}",) if decision == RECAPTION else ()
        after = {}
        for pair in distinct:
            _, _, before, noted = self.blank(pair)
            texts = captions or (before if decision else ())  # undecided takes a recaption back
            after[pair] = (event, decision, texts, noted if note is None else note)
        self.apply({pair: (self.blank(pair), after[pair]) for pair in distinct}, None)
        assert self.review.decide(pairs, decision, captions=captions, note=note) == Outcome(
            event, len(distinct)
        )

    @precondition(lambda self: self.changes)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        chosen = data.draw(st.integers(1, len(self.changes)))
        assert self.review.undo(chosen) == self.expect(chosen)

    def blank(self, pair: str) -> tuple:
        return self.state.get(pair, (0, None, (), ""))

    def apply(self, change: dict[str, tuple], undoes: int | None) -> None:
        for pair, (_, after) in change.items():
            self.state[pair] = after
            self.last[pair] = sum(map(len, self.changes)) + list(change).index(pair) + 1
        self.changes.append(change)
        self.undoes.append(undoes)

    def expect(self, chosen: int) -> Outcome:
        change = self.changes[chosen - 1]
        back = {
            p: (after, before)
            for p, (before, after) in change.items()
            if self.blank(p)[0] == after[0]
        }
        if back:
            self.apply(back, chosen)
            return Outcome(len(self.changes), len(back), skipped=len(change) - len(back))
        return Outcome(0, 0, skipped=len(change))

    def is_undone(self, event: int) -> bool:
        return any(
            undoes == event and not self.is_undone(by) for by, undoes in enumerate(self.undoes, 1)
        )

    @invariant()
    def the_log_agrees(self) -> None:
        found = {pair: d for pair, d in self.review.decisions(NAMES).items() if d.entry}
        assert {pair: (d.decision, d.captions, d.note) for pair, d in found.items()} == {
            pair: state[1:] for pair, state in self.state.items()
        }
        assert {pair: d.entry for pair, d in found.items()} == self.last
        decided = [state[1] for state in self.state.values()]
        assert decision_counts(self.review) == {choice: decided.count(choice) for choice in CHOICES}
        listed = sorted(pair for pair, state in self.state.items() if state[1] or state[3])
        assert sorted(self.review.table()["pair_id"]) == listed
        entries = [
            (pair, after[1], event)
            for event, change in enumerate(self.changes, 1)
            for pair, (_, after) in change.items()
        ]
        assert self.review.entries_after(0) == [
            (pair, decision, number, event, 0, 0)
            for number, (pair, decision, event) in enumerate(entries, 1)
        ]
        history = self.review.history().iloc[::-1]
        assert list(history["undone"]) == [
            self.is_undone(event) for event in range(1, len(self.changes) + 1)
        ]
        assert list(history["pairs"]) == [len(change) for change in self.changes]


Rounds.TestCase.settings = settings(max_examples=6, stateful_step_count=12, deadline=None)
TestRounds = Rounds.TestCase


SWAPPED = [20, 30]  # rows that have each other's captions in the second audit


@pytest.mark.parametrize("at", [0, 1])
def test_a_decision_applies_in_other_audits_to_pairs_with_the_same_captions(
    copy: Copy, at: int
) -> None:
    audits = [copy(name="clean"), copy(name="injected")]
    pairs = audits[1].pairs
    captions = pairs["captions"].copy()
    captions[SWAPPED] = captions[SWAPPED[::-1]].tolist()
    rewrite(audits[1].folder / PAIRS, pairs.assign(captions=captions))
    here = audits[at]
    there = audits[1 - at]
    swapped, same = pairs["pair_id"][[SWAPPED[0], 5]]
    open_review(here).decide([swapped, same], REMOVE, audit=here.name)
    for audit, expected in ((here, [5, SWAPPED[0]]), (there, [5])):
        review = open_review(audit)
        ids = set(pairs["pair_id"][expected])
        assert np.flatnonzero(decided(audit).codes).tolist() == expected
        assert decision_counts(review)[REMOVE] == len(expected)
        table = review.table()
        assert set(table.loc[table["decision"] == REMOVE, "pair_id"]) == ids
        assert review.changes().removed == ids
    result = open_review(there).current(swapped)
    assert (result.decision, result.entry) == (None, 0)
    assert cards(there, [SWAPPED[0]])[0].decision == result
