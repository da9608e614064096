import random
from collections.abc import Callable

import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import Selection
from tests.review.slow_selection import slowly

Copy = Callable[..., Audit]
EVERY = 10_000


@pytest.mark.parametrize("decision", ["keep", "remove", "recaption", "decided", "undecided", "'; --"])
def test_decisions_are_seen_as_soon_as_they_are_made(copy: Copy, decision: str) -> None:
    audit = copy()
    review, ids = open_review(audit), audit.pairs["pair_id"].tolist()
    draw, stands = random.Random(decision), dict[str, str]()
    selection = Selection(decision=decision, order="misfit")
    for choice in ("keep", "remove", "recaption", "keep", None, "remove"):
        some = draw.sample(ids, 30)
        captions = ["right"] if choice == "recaption" else []
        review.decide([*some, "a pair of another audit"], choice, captions=captions)
        stands = {pair_id: said for pair_id, said in (stands | dict.fromkeys(some, choice)).items() if said}
        assert find_rows(audit, selection, page=1, size=EVERY) == slowly(audit, selection, stands)
    before = find_rows(audit, selection, page=1, size=EVERY)
    review.decide(ids, "keep")
    review.undo()
    assert find_rows(audit, selection, page=1, size=EVERY) == before


def test_two_audits_of_a_data_set_share_decisions_by_pair(copy: Copy) -> None:
    one, other = copy(name="one"), copy(name="other")
    for name in ("pairs", "scores"):
        table = getattr(other, name)
        write_table(other.folder / f"{name}.parquet", table.iloc[::-1].reset_index(drop=True))
    open_review(one).decide([one.pairs["pair_id"][3]], "remove")
    kept = Selection(decision="remove")
    assert (find_rows(one, kept, page=1, size=9), find_rows(other, kept, page=1, size=9)) == ([3], [96])
