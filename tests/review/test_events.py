import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipmem_core.review.decisions import CHOICES, KEEP, RECAPTION, REMOVE, Outcome, Review

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


def test_what_somebody_decided_since_is_left_and_an_undo_of_nothing_writes_nothing(tmp_path: Path) -> None:
    review = review_in(tmp_path)
    review.decide(PAIRS, REMOVE)
    review.decide(["b"], KEEP)
    assert review.undo(1) == Outcome(event=3, pairs=3, left=1)
    assert stand(review) == [None, KEEP, None, None]
    review.decide(["b"], REMOVE)
    assert review.undo(2) == Outcome(event=0, pairs=0, left=1)
    assert review.undo(4) == Outcome(event=5, pairs=1)
    assert review.undo(4) is None  # somebody else undid it
    assert review.count_events() == 5


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
