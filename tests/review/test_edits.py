"""Captions of their own for each pair of one event: one caption removed or edited, or many found and replaced."""

import sqlite3
import time
from pathlib import Path

import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.bulk_edit import LONGEST, Rule, preview, store_changes
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Edit, Review, decided, open_review
from tests.fixtures import Copy

ENTRY_OF_NONE = 0


@pytest.fixture
def review(data: Path) -> Review:
    return Review(data / "review" / "set.sqlite")


def captions(review: Review) -> dict[str, tuple[str, ...]]:
    table = review.table()
    return {pair_id: tuple(own) for pair_id, own in zip(table["pair_id"], table["captions"], strict=True)}


def test_each_pair_gets_its_own_captions_and_all_are_undone_as_one(review: Review) -> None:
    review.decide(["b"], RECAPTION, captions=["old"], note="a note")
    edits = {"a": Edit(("one", "two"), 0), "b": Edit(("three",), 1)}
    outcome = review.edit(edits, audit="mine")
    assert (outcome.event, outcome.pairs, outcome.left) == (2, 2, 0)
    assert captions(review) == {"b": ("three",), "a": ("one", "two")}
    stands = review.decisions(["a", "b"])
    assert [(stands[name].decision, stands[name].captions, stands[name].note) for name in "ab"] == [
        (RECAPTION, ("one", "two"), ""),
        (RECAPTION, ("three",), "a note"),
    ]
    history = review.history(page=1, size=1).iloc[0]
    assert (history["decision"], history["pairs"], history["audit"]) == (RECAPTION, 2, "mine")
    undone = review.undo(2)
    assert undone is not None
    assert undone.pairs == 2
    assert captions(review) == {"b": ("old",)}
    redone = review.undo(undone.event)
    assert redone is not None
    assert redone.pairs == 2
    assert captions(review) == {"a": ("one", "two"), "b": ("three",)}
    assert review.counts()[RECAPTION] == 2


def test_a_pair_that_was_decided_on_since_stays_as_it_is(review: Review) -> None:
    review.decide(["a"], KEEP)
    outcome = review.edit({"a": Edit(("new",), ENTRY_OF_NONE), "b": Edit(("new",), ENTRY_OF_NONE)})
    assert (outcome.pairs, outcome.left) == (1, 1)
    assert captions(review) == {"a": (), "b": ("new",)}
    before = review.count_events()
    assert review.edit({"a": Edit(("new",), ENTRY_OF_NONE)}).event == 0
    assert review.count_events() == before


@pytest.mark.parametrize(
    ("edits", "said"),
    [({}, "no caption is to be changed"), ({"a": Edit((" ",), 0), "b": Edit(("new",), 0)}, "needs a caption")],
)
def test_what_cannot_be_is_refused_whole(review: Review, edits: dict[str, Edit], said: str) -> None:
    with pytest.raises(InputError, match=said):
        review.edit(edits)
    assert review.count_events() == 0


def test_own_captions_only_grow(review: Review) -> None:
    review.edit({"a": Edit(("new",), 0)})
    with sqlite3.connect(review.path) as log:
        for statement in ("DELETE FROM own_captions", "UPDATE own_captions SET captions = '[]'"):
            with pytest.raises(sqlite3.IntegrityError, match="the log only grows"):
                log.execute(statement)
    log.close()


def texts(audit: Audit) -> dict[str, tuple[str, ...]]:
    pairs = audit.pairs
    return {pair_id: tuple(own) for pair_id, own in zip(pairs["pair_id"], pairs["captions"], strict=True)}


def test_a_preview_shows_what_storing_does_and_one_undo_takes_it_back(copy: Copy) -> None:
    audit, review = copy(), open_review(copy(name="other"))
    own = texts(audit)
    ids = [pair_id for pair_id, given in own.items() if any("square" in text for text in given)]
    changes = preview(audit, list(own), Rule("square", "box"))
    assert [change.pair_id for change in changes.pairs] == ids
    assert changes.captions == sum("square" in text for given in own.values() for text in given)
    outcome = store_changes(audit, changes)
    assert outcome.pairs == len(ids) > 1
    after = captions(review)
    assert after == {pair_id: tuple(text.replace("square", "box") for text in own[pair_id]) for pair_id in ids}
    assert preview(audit, list(own), Rule("square", "box")).pairs == ()
    assert preview(audit, ids, Rule("box", "square")).pairs[0].after == own[ids[0]]
    review.undo(outcome.event)
    assert captions(review) == {}


def test_a_pattern_takes_groups_and_case_and_plain_text_is_taken_as_it_is(copy: Copy) -> None:
    audit = copy()
    pair_id, *_ = ids = list(texts(audit))
    open_review(audit).decide([pair_id], RECAPTION, captions=["A frog (green).", "a toad"])

    def changed(rule: Rule) -> list[tuple[str, str]]:
        found = preview(audit, ids[:1], rule).pairs
        return found[0].captions if found else []

    assert changed(Rule("(green)", "[red] \\1")) == [("A frog (green).", "A frog [red] \\1.")]
    assert changed(Rule(r"\ba (\w+)", r"the \1", regular=True, match_case=False)) == [
        ("A frog (green).", "the frog (green)."),
        ("a toad", "the toad"),
    ]
    assert changed(Rule("a ", "")) == [("a toad", "toad")]
    assert changed(Rule("(?<=frog).*", "", regular=True)) == [("A frog (green).", "A frog")]
    assert changed(Rule("nothing of this", "x")) == []


def test_captions_are_not_left_empty_and_pairs_to_be_removed_stay(copy: Copy) -> None:
    audit = copy()
    first, second, third, *_ = list(texts(audit))
    review = open_review(audit)
    review.decide([first, second], RECAPTION, captions=["a frog", "frog"])
    review.decide([second], REMOVE)
    changes = preview(audit, [first, second], Rule("frog", ""))
    assert (changes.emptied, changes.removed, len(changes.pairs)) == (1, 1, 1)
    assert changes.pairs[0].after == ("a", "frog")
    review.decide([first], KEEP)
    assert store_changes(audit, changes).pairs == 0
    assert third not in captions(review)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(""), "there is nothing to find"),
        (Rule("(a", regular=True), "the pattern cannot be read: missing"),
        (Rule("a", r"\2", regular=True), "what comes in its place cannot be read"),
        (Rule("", "x" * 500, regular=True), "there is nothing to find"),
        (Rule("(?=.)", "x" * 500, regular=True), f"longer than {LONGEST:,} characters"),
    ],
)
def test_a_rule_that_cannot_be_is_said_in_a_line(copy: Copy, rule: Rule, said: str) -> None:
    audit = copy()
    with pytest.raises(InputError, match=said) as error:
        preview(audit, list(texts(audit)), rule)
    assert "\n" not in str(error.value)
    assert open_review(audit).count_events() == 0


def test_a_catastrophic_pattern_is_stopped(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = copy()
    open_review(audit).decide(list(texts(audit))[:1], RECAPTION, captions=["a" * 60 + "!"])
    monkeypatch.setattr("clipmem_core.review.bulk_edit.SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"takes longer than 0.2 seconds"):
        preview(audit, list(texts(audit))[:1], Rule("(a|aa)+$", "x", regular=True))
    assert time.monotonic() - began < 5


def test_what_says_nothing_of_captions_is_told_apart_until_somebody_judges(copy: Copy) -> None:
    audit = copy()
    review, (first, second, third, *_) = open_review(audit), list(texts(audit))
    review.decide([first, second], REMOVE, apart=True)
    changed = review.edit({third: Edit(("new",), 0)}, apart=True)
    assert decided(audit).apart[:4].tolist() == [True, True, True, False]
    review.decide([second], KEEP)
    assert decided(audit).apart[:4].tolist() == [True, False, True, False]
    review.undo()
    review.undo(changed.event)
    assert decided(audit).apart[:4].tolist() == [True, True, False, False]
    assert decided(audit).codes[:4].tolist() == [2, 2, 0, 0]
