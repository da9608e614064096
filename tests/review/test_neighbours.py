from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import Neighbours, neighbours, pair_ids
from clipmem_core.review.selection import Selection
from tests.review.slow_selection import selections

Copy = Callable[..., Audit]


@given(selection=selections, row=st.integers(0, 99))
@settings(max_examples=60)
def test_neighbours_are_those_in_the_list_of_ids(made: dict[str, Audit], selection: Selection, row: int) -> None:
    audit = made["paper"]
    ids, pair_id = pair_ids(audit, selection), audit.pairs["pair_id"][row]
    found = neighbours(audit, selection, pair_id)
    assert found.count == len(ids)
    if pair_id in ids:
        place = ids.index(pair_id)
        around = [ids[place - 1] if place else None, (ids[place + 1 :] or [None])[0]]
        onward = ((ids[place + 1 :] + ids[:place]) or [None])[0]
        assert found == Neighbours(place + 1, len(ids), around[0], around[1], onward)
    else:
        assert found.place is None


def test_the_next_undecided_pair_comes_after_the_last_at_the_top_again(copy: Copy) -> None:
    audit = copy()
    ids = pair_ids(audit, Selection())
    open_review(audit).decide([ids[0], *ids[50:]], "keep")
    onward = [neighbours(audit, Selection(), ids[place]).next_undecided for place in (0, 1, 49, 99)]
    assert onward == [ids[1], ids[2], ids[1], ids[1]]
    open_review(audit).decide(ids, "keep")
    assert neighbours(audit, Selection(), ids[0]).next_undecided is None
    open_review(audit).decide([ids[4]], None)
    assert neighbours(audit, Selection(), ids[4]).next_undecided is None


@pytest.mark.parametrize("ascending", [False, True])
def test_a_pair_that_its_decision_took_out_of_the_selection_keeps_its_neighbours(copy: Copy, ascending: bool) -> None:
    audit = copy()
    left = Selection(decision="undecided", ascending=ascending)
    ids = pair_ids(audit, left)
    open_review(audit).decide(ids[10:12], "keep")
    found = [neighbours(audit, left, pair_id) for pair_id in ids[10:12]]
    assert found == [Neighbours(None, 98, ids[9], ids[12], ids[12])] * 2


def test_a_pair_that_there_is_not_stands_before_all_others(made: dict[str, Audit]) -> None:
    ids = pair_ids(made["ensemble"], Selection(order="misfit"))
    external = made["ensemble"].scores.query("group == 'external'")["pair_id"].iloc[0]
    for pair_id in ("nobody", external):
        found = neighbours(made["ensemble"], Selection(order="misfit"), pair_id)
        assert found == Neighbours(None, 80, None, ids[0], ids[0])
    nothing = Neighbours(None, 0, None, None, None)
    assert neighbours(made["ensemble"], Selection(words="unheard-of"), ids[0]) == nothing
