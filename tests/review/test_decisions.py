import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipmem_core.audits.store import CONFIG, Audit, write_json
from clipmem_core.config import InputError
from clipmem_core.review.decisions import (
    CHOICES,
    HISTORY_COLUMNS,
    KEEP,
    RECAPTION,
    REMOVE,
    TABLE_COLUMNS,
    Decision,
    Outcome,
    Review,
    open_review,
)
from tests.fixtures import HOSTILE


@pytest.fixture
def review(data: Path) -> Review:
    return Review(data / "review" / "set.sqlite")


def said(review: Review, pair_id: str) -> tuple[str | None, tuple[str, ...], str] | None:
    found = review.current(pair_id)
    return found and (found.decision, found.captions, found.note)


def test_a_decision_is_there_at_once_and_for_every_review_of_the_data_set(
    copy: Callable[..., Audit], data: Path
) -> None:
    first, second = open_review(copy(name="one")), open_review(copy("paper", name="two"))  # of one fingerprint
    before = datetime.now(UTC).replace(microsecond=0)
    outcome = first.decide(["a.png"], RECAPTION, captions=[" a crow ", "", "\n"], note="it is no raven", audit="one")
    assert outcome == Outcome(event=1, pairs=1)
    found = second.current("a.png")
    assert found == Decision("a.png", RECAPTION, ("a crow",), "it is no raven", found.time, 1)
    assert before <= datetime.fromisoformat(found.time) <= datetime.now(UTC)
    assert (data / "review" / "fedcba9876543210.sqlite").is_file()


@pytest.mark.parametrize("config", [{"dataset_fingerprint": 7}, {"dataset_fingerprint": "../../away"}])
def test_an_audit_that_names_no_data_set_is_an_error(copy: Callable[..., Audit], config: dict[str, object]) -> None:
    audit = copy()
    write_json(audit.folder / CONFIG, audit.record.values | config)
    with pytest.raises(InputError, match="dataset_fingerprint|must be letters"):
        open_review(audit)


def test_an_empty_log_reads_as_one_and_reading_makes_no_file(review: Review, data: Path) -> None:
    assert review.current("a") is None
    assert review.decisions(["a", "b"]) == {}
    assert review.decisions([]) == {}
    assert review.position() == review.count_events() == 0
    assert review.entries_after(0) == []
    assert review.counts() == {KEEP: 0, REMOVE: 0, RECAPTION: 0}
    assert list(review.table().columns) == TABLE_COLUMNS
    assert list(review.history(page=1, size=10).columns) == HISTORY_COLUMNS
    assert len(review.table()) == len(review.history(page=1, size=10)) == 0
    assert review.undo() is None
    with pytest.raises(InputError, match="event 1 is not in the log, which has 0"):
        review.undo(1)
    assert not (data / "review").exists()


def test_a_note_stays_until_another_replaces_it(review: Review) -> None:
    assert review.decide(iter(["a", "b", "a"]), KEEP, note="first").pairs == 2  # an id given twice counts once
    review.decide(["a", "b", "c"], REMOVE)
    assert [said(review, pair) for pair in "abc"] == [(REMOVE, (), "first"), (REMOVE, (), "first"), (REMOVE, (), "")]
    review.decide(["b"], None, note="")
    review.decide(["a"], None)
    assert said(review, "a") == (None, (), "first")
    assert said(review, "b") == (None, (), "")
    assert list(review.table()[["pair_id", "note"]].itertuples(index=False, name=None)) == [("a", "first"), ("c", "")]


def test_the_table_tells_all_that_stands_the_last_decided_first(review: Review) -> None:
    review.decide(["a", "b"], KEEP, note="fine", audit="one")
    review.decide(["c"], RECAPTION, captions=["x", "y"], audit="two")
    review.decide(["b"], None, audit="three")
    review.decide(["d"], REMOVE)
    table = review.table()
    assert list(table.drop(columns=["time", "for_other_captions"]).itertuples(index=False, name=None)) == [
        ("d", REMOVE, [], "", ""),
        ("b", None, [], "fine", "three"),
        ("c", RECAPTION, ["x", "y"], "", "two"),
        ("a", KEEP, [], "fine", "one"),
    ]
    assert table["time"].map(datetime.fromisoformat).notna().all()
    assert review.counts() == {KEEP: 1, REMOVE: 1, RECAPTION: 1}
    assert list(review.counts()) == list(CHOICES)


def test_what_was_said_since_a_pair_was_shown_is_reported_and_nothing_is_lost(review: Review) -> None:
    shown = 0
    assert review.decide(["a"], KEEP, note="mine", seen=shown).overtaken is None
    theirs = review.decide(["a"], REMOVE, note="theirs", seen=shown)
    assert theirs.overtaken == Decision("a", KEEP, (), "mine", theirs.overtaken.time, 1)
    assert said(review, "a") == (REMOVE, (), "theirs")
    assert [entry[1] for entry in review.entries_after(0)] == [KEEP, REMOVE]
    assert review.decide(["a"], KEEP, seen=review.current("a").entry).overtaken is None
    assert review.decide(["a"], KEEP).overtaken is None
    review.decide(["a", "b"], KEEP)
    shown = review.position()
    assert review.decide(["a", "b"], KEEP, seen=shown).overtaken is None
    review.decide(["b"], REMOVE)
    review.decide(["c"], REMOVE)
    assert review.decide(["a", "b"], KEEP, seen=shown + 2).overtaken.pair_id == "b"
    review.decide(["d"], KEEP)
    review.undo()
    overtaken = review.decide(["d"], KEEP, seen=0).overtaken  # an undone decision still overtakes
    assert (overtaken.decision, overtaken.note, overtaken.entry) == (None, "", review.position() - 1)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"pair_ids": []}, "no pair is chosen"),
        ({"decision": "burn"}, "'burn' is unknown: choose keep, remove, recaption or none"),
        ({"decision": RECAPTION}, "needs a caption"),
        ({"decision": RECAPTION, "captions": ["", " \n"]}, "needs a caption"),
        ({"captions": ["a"]}, "belong to a recaption, not to keep"),
        ({"decision": None, "captions": ["a"]}, "not to no decision"),
        ({"pair_ids": ["a", "half \ud83d"]}, r"half a character, '\\ud83d'"),
        ({"note": "\udc80"}, "half a character"),
        ({"audit": "\udc80"}, "half a character"),
        ({"decision": RECAPTION, "captions": ["\udc80"]}, "half a character"),
        ({"decision": RECAPTION, "captions": ["a", "before\0after"]}, "NUL"),
    ],
)
def test_what_cannot_be_decided_is_refused_in_one_line_and_leaves_nothing(
    review: Review, given: dict[str, object], fault: str
) -> None:
    with pytest.raises(InputError, match=fault) as refused:
        review.decide(**{"pair_ids": ["a"], "decision": KEEP, **given})
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()
    assert review.position() == review.count_events() == 0


def test_every_text_comes_back_as_it_was(review: Review) -> None:
    for text in (*HOSTILE, "before\0after", "\0", "' OR 1=1; --", "?", "\u2028\r\n\t", "'", '"', "[]"):
        before, caption = review.position(), text.replace("\0", "")
        review.decide([text, text + "x"], RECAPTION, captions=[caption, f"x{caption}x"], note=text, audit=text)
        found = review.current(text)
        stripped = [own for own in (caption.strip(), f"x{caption}x") if own]
        assert (found.pair_id, list(found.captions), found.note) == (text, stripped, text)
        row = review.table().iloc[1]
        assert (row["pair_id"], row["captions"], row["note"], row["audit"]) == (text, stripped, text, text)
        history = review.history(page=1, size=1).iloc[0]
        assert (history["first_pair_id"], history["audit"]) == (text, text)
        assert [entry[0] for entry in review.entries_after(before)] == [text, text + "x"]


def test_the_history_is_read_page_by_page_the_newest_first(review: Review) -> None:
    review.decide(["a", "b"], KEEP, audit="one")
    review.decide(["b"], REMOVE, audit="two")
    review.undo()
    review.undo(3)
    review.undo(1)
    assert review.count_events() == 5
    pages = pd.concat([review.history(page=page, size=2) for page in (1, 2, 3, 4)])
    assert list(pages.drop(columns="time").fillna(0).itertuples(index=False, name=None)) == [
        (5, "one", "undo", KEEP, 1, "a", False, 1),
        (4, "two", "undo", REMOVE, 1, "b", False, 3),
        (3, "two", "undo", REMOVE, 1, "b", True, 2),
        (2, "two", "decide", REMOVE, 1, "b", False, 0),
        (1, "one", "decide", KEEP, 2, "a", True, 0),
    ]


def test_many_pairs_are_decided_and_asked_for_at_once(review: Review) -> None:
    ids = [f"pair {number}" for number in range(3000)]
    review.decide(reversed(ids), REMOVE, note="all of them")
    review.decide(ids[:1000], KEEP)
    found = review.decisions([*ids, "no such pair"])
    assert set(found) == set(ids)
    assert [found[pair].decision for pair in ids] == [KEEP] * 1000 + [REMOVE] * 2000
    assert {found[pair].note for pair in ids} == {"all of them"}
    assert review.counts() == {KEEP: 1000, REMOVE: 2000, RECAPTION: 0}
    assert [entry for _, _, entry, *_ in review.entries_after(3500)] == list(range(3501, 4001))
    assert [pair for pair, *_ in review.entries_after(3500)] == ids[500:1000]


PAIRS = ["a", "b", "c", "d"]


def review_in(folder: Path) -> Review:
    return Review(folder / "review" / "set.sqlite")


def stand(review: Review) -> list[str | None]:
    found = review.decisions(PAIRS)
    return [found[pair].decision if pair in found else None for pair in PAIRS]


def test_undo_walks_back_decision_by_decision_to_the_beginning(tmp_path: Path) -> None:
    review = review_in(tmp_path)
    review.decide(["a", "b"], KEEP, note="one")
    review.decide(["b", "c"], RECAPTION, captions=["crow"], note="two")
    review.decide(["c"], REMOVE)
    before = review.decisions(PAIRS)["a"]
    assert review.undo() == Outcome(event=4, pairs=1)
    assert stand(review) == [KEEP, RECAPTION, RECAPTION, None]
    assert review.current("c").captions == ("crow",)
    assert review.undo() == Outcome(event=5, pairs=2)
    assert stand(review) == [KEEP, KEEP, None, None]
    assert [review.current(pair).note for pair in "abc"] == ["one", "one", ""]
    assert review.current("a") == before
    assert review.undo() == Outcome(event=6, pairs=2)
    assert stand(review) == [None] * 4
    assert review.undo() is None
    assert review.count_events() == 6


def test_an_undo_is_undone_and_redone(tmp_path: Path) -> None:
    review = review_in(tmp_path)
    review.decide(["a"], KEEP, note="why")
    decided = review.current("a")
    for event in (1, 2, 3, 4):
        assert review.undo(event).event == event + 1
        assert stand(review)[0] == (None if event % 2 else KEEP)
    redone = review.current("a")
    assert (redone.decision, redone.note, redone.time) == (KEEP, "why", decided.time)
    assert redone.entry == 5


class Rounds(RuleBasedStateMachine):
    """Decisions and undos in any order, held against lists of what each event changed from what to what."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.review = review_in(Path(self.folder.name))
        self.stands: dict[str, tuple] = {}  # pair → deciding event, decision, captions, note
        self.changes: list[dict[str, tuple]] = []  # event → pair → what stood before, what stands after
        self.undoes: list[int | None] = []
        self.last: dict[str, int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(
        pairs=st.lists(st.sampled_from(PAIRS), min_size=1, max_size=5),
        decision=st.sampled_from([None, *CHOICES]),
        note=st.sampled_from([None, None, "", "x", "y"]),
    )
    def decide(self, pairs: list[str], decision: str | None, note: str | None) -> None:
        event, distinct = len(self.changes) + 1, list(dict.fromkeys(pairs))
        captions = (f"caption {event}",) if decision == RECAPTION else ()
        after = {pair: (event, decision, captions, self.blank(pair)[3] if note is None else note) for pair in distinct}
        self.apply({pair: (self.blank(pair), after[pair]) for pair in distinct}, None)
        assert self.review.decide(pairs, decision, captions=captions, note=note) == Outcome(event, len(distinct))

    @precondition(lambda self: self.changes)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        chosen = data.draw(st.integers(1, len(self.changes)))
        assert self.review.undo(chosen) == self.expect(chosen)

    @rule()
    def undo_the_last(self) -> None:
        standing = [state[0] for state in self.stands.values() if state[0]]
        expected = self.expect(max(standing)) if standing else None
        assert self.review.undo() == expected

    def blank(self, pair: str) -> tuple:
        return self.stands.get(pair, (0, None, (), ""))

    def apply(self, change: dict[str, tuple], undoes: int | None) -> None:
        for pair, (_, after) in change.items():
            self.stands[pair] = after
            self.last[pair] = sum(map(len, self.changes)) + list(change).index(pair) + 1
        self.changes.append(change)
        self.undoes.append(undoes)

    def expect(self, chosen: int) -> Outcome | None:
        change = self.changes[chosen - 1]
        back = {p: (after, before) for p, (before, after) in change.items() if self.blank(p)[0] == after[0]}
        if back:
            self.apply(back, chosen)
            return Outcome(len(self.changes), len(back), left=len(change) - len(back))
        return None if self.is_undone(chosen) else Outcome(0, 0, left=len(change))

    def is_undone(self, event: int) -> bool:
        return any(undoes == event and not self.is_undone(by) for by, undoes in enumerate(self.undoes, 1))

    @invariant()
    def the_log_says_the_same(self) -> None:
        found = self.review.decisions(PAIRS)
        assert {pair: (d.decision, d.captions, d.note) for pair, d in found.items()} == {
            pair: state[1:] for pair, state in self.stands.items()
        }
        assert {pair: d.entry for pair, d in found.items()} == self.last
        decided = [state[1] for state in self.stands.values()]
        assert self.review.counts() == {choice: decided.count(choice) for choice in CHOICES}
        listed = sorted(pair for pair, state in self.stands.items() if state[1] or state[3])
        assert sorted(self.review.table()["pair_id"]) == listed
        entries = [(pair, after[1]) for change in self.changes for pair, (_, after) in change.items()]
        assert self.review.entries_after(0) == [(*entry, number, 0, 0) for number, entry in enumerate(entries, 1)]
        history = self.review.history(page=1, size=100).iloc[::-1]
        assert list(history["undone"]) == [self.is_undone(event) for event in range(1, len(self.changes) + 1)]
        assert list(history["pairs"]) == [len(change) for change in self.changes]


Rounds.TestCase.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestRounds = Rounds.TestCase
