"""A decision is on a pair with the captions that an audit showed: it counts where these are shown and nowhere else."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipmem_core.audits.store import PAIRS, Audit, write_table
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import KEEP, REMOVE, Review, decided, decided_of, open_review
from clipmem_core.review.rows import find_rows, neighbours
from clipmem_core.review.selection import Selection
from tests.fixtures import Copy

SWAPPED = [20, 30]  # rows that have each other's captions in the second audit


@pytest.fixture
def twins(copy: Copy) -> tuple[Audit, Audit]:
    """Two audits of one data set; the second has planted captions."""
    own, planted = copy(name="own"), copy(name="planted")
    pairs = planted.pairs
    captions = pairs["captions"].copy()
    captions[SWAPPED] = captions[SWAPPED[::-1]].tolist()
    write_table(planted.folder / PAIRS, pairs.assign(captions=captions))
    return own, planted


def ids_of(audit: Audit) -> list[str]:
    return audit.pairs["pair_id"].tolist()


def rows_so(audit: Audit, decision: str) -> list[int]:
    return sorted(find_rows(audit, Selection(decision=decision), page=1, size=1000))


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_decided_in_one_audit_counts_in_the_other_for_pairs_with_the_same_captions(
    twins: tuple[Audit, Audit], at: int
) -> None:
    here, there = twins[at], twins[1 - at]
    ids = ids_of(here)
    open_review(here).decide([ids[SWAPPED[0]], ids[5]], REMOVE, audit=here.name)
    for audit, expected in ((here, [5, SWAPPED[0]]), (there, [5])):
        review = open_review(audit)
        assert rows_so(audit, "remove") == rows_so(audit, "decided") == expected
        assert rows_so(audit, "undecided") == [row for row in range(100) if row not in expected]
        assert int((decided(audit).codes != 0).sum()) == len(expected)
        assert review.counts()[REMOVE] == len(expected)
        table = review.table()
        assert sorted(table.loc[table["decision"] == REMOVE, "pair_id"]) == [ids[row] for row in expected]
        removed = decided_of(review.path.stem, audit.folder / PAIRS).removed
        assert removed == {ids[row] for row in expected}
    found = open_review(there).current(ids[SWAPPED[0]])
    assert (found.decision, found.for_other, found.entry, found.words) == (None, REMOVE, 0, "remove for other captions")
    table = open_review(there).table().set_index("pair_id")
    assert table["for_other_captions"].to_dict() == {ids[SWAPPED[0]]: REMOVE, ids[5]: None}
    card = cards(there, [SWAPPED[0]])[0]
    assert (card.decision.decision, card.decision.for_other) == (None, REMOVE)
    assert neighbours(there, Selection(order="misfit"), ids[SWAPPED[0]]).next_undecided is not None


def test_the_key_is_of_the_captions_and_their_order_and_nothing_else(twins: tuple[Audit, Audit]) -> None:
    own, _ = twins
    ids = ids_of(own)
    open_review(own).decide([*ids, "a pair of another audit"], KEEP)
    stored = dict((pair_id, key) for pair_id, _, _, key, _ in open_review(own).entries_after(0))
    assert stored.pop("a pair of another audit") == 0
    for pair_id, captions in zip(ids, own.pairs["captions"], strict=True):
        digest = hashlib.md5("\0".join(captions).encode()).digest()
        assert stored[pair_id] == int.from_bytes(digest[8:], "little") >> 1


class TwoAudits(RuleBasedStateMachine):
    """Decisions and undos in two audits of one data set, held against one list a pair and captions."""

    PAIRS = ("same", "swapped")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.reviews = [self.review_with(at) for at in (0, 1)]
        self.stands: dict[tuple[str, str], tuple[int, str | None, str]] = {}
        self.changes: list[dict[tuple[str, str], tuple]] = []

    def review_with(self, at: int) -> Review:
        table = pd.DataFrame({"pair_id": self.PAIRS, "captions": [["a"], [f"b{at}"]]})
        table.to_parquet(self.folder / f"{at}.parquet")
        return Review(self.folder / "set.sqlite", self.folder / f"{at}.parquet")

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def place(self, at: int, pair: str) -> tuple[str, str]:
        return pair, "a" if pair == "same" else f"b{at}"

    def blank(self, place: tuple[str, str]) -> tuple[int, str | None, str]:
        return self.stands.get(place, (0, None, ""))

    @rule(
        at=st.sampled_from([0, 1]),
        pairs=st.sets(st.sampled_from(PAIRS), min_size=1),
        decision=st.sampled_from([None, KEEP, REMOVE]),
        note=st.sampled_from([None, "", "x"]),
    )
    def decide(self, at: int, pairs: set[str], decision: str | None, note: str | None) -> None:
        self.reviews[at].decide(sorted(pairs), decision, note=note)
        event, change = len(self.changes) + 1, {}
        for place in (self.place(at, pair) for pair in pairs):
            before = self.blank(place)
            change[place] = (before, (event, decision, before[2] if note is None else note))
        self.apply(change)

    @precondition(lambda self: self.changes)
    @rule(data=st.data(), at=st.sampled_from([0, 1]))
    def undo(self, data: st.DataObject, at: int) -> None:
        chosen = data.draw(st.integers(1, len(self.changes)))
        change = self.changes[chosen - 1]
        back = {p: (after, before) for p, (before, after) in change.items() if self.blank(p)[0] == after[0]}
        outcome = self.reviews[at].undo(chosen)
        assert (outcome.pairs if outcome else 0) == len(back)
        if back:
            self.apply(back)

    def apply(self, change: dict[tuple[str, str], tuple]) -> None:
        self.stands |= {place: after for place, (_, after) in change.items()}
        self.changes.append(change)

    @invariant()
    def each_audit_sees_its_own(self) -> None:
        for at, review in enumerate(self.reviews):
            found = review.decisions(self.PAIRS)
            for pair in self.PAIRS:
                _, decision, note = self.blank(self.place(at, pair))
                away = self.blank(self.place(1 - at, pair))[1] if pair == "swapped" and decision is None else None
                said = found.get(pair)
                seen = (said.decision, said.note, said.for_other) if said else (None, "", None)
                assert seen == (decision, note, away)
            table = review.table().set_index("pair_id")
            expected = {pair: self.blank(self.place(at, pair))[1] for pair in self.PAIRS}
            assert table["decision"].dropna().to_dict() == {pair: said for pair, said in expected.items() if said}


TestTwoAudits = TwoAudits.TestCase
TestTwoAudits.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
