"""How many captions are wrong by what people decided, and by the verdict, in words."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.scoring import wrong_captions
from clipmem_core.audits.store import CAPTION_TABLE, SCORES, Audit, write_table
from clipmem_core.columns import PAIR_COLUMNS
from clipmem_core.review.caption_scores import caption_scores
from clipmem_core.review.decisions import open_review
from clipmem_core.review.wrong_captions import known_count, likely_wrong, wrong_so_far

Copy = Callable[..., Audit]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


def with_counts(audit: Audit, wrong: int, pairs: int) -> None:
    """Give an audit scores of so many pairs, the first of which have wrong captions."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(5, 1, pairs - wrong)])
    table = {"pair_id": [f"p{row}" for row in range(pairs)], "group": "scored", "misfit": -fit, "csls_out": fit}
    scores = pd.DataFrame(table | {"csls_swapped": rng.normal(0, 1, pairs), "csls_near": rng.normal(2, 1, pairs)})
    write_table(audit.folder / SCORES, scores)
    rows = [[f"p{row}", f"{row}.png", [f"caption {row}"], None, 8, 8, "", None] for row in range(pairs)]
    write_table(audit.folder / "pairs.parquet", pd.DataFrame(rows, columns=PAIR_COLUMNS))


def test_removed_and_recaptioned_pairs_are_wrong_ones_and_what_is_left_is_told(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    before = wrong_so_far(audit)
    assert before is not None
    assert before.sentence == ""
    known = known_count(audit)
    assert known is not None
    review, order = open_review(audit), known.review.order[:200]
    ids = [f"p{row}" for row in order]
    wrong = [name for name, row in zip(ids, order, strict=True) if row < 30]
    review.decide([name for name in ids if name not in wrong], "keep")
    review.decide(wrong[:5], "recaption", captions=["another"])
    review.decide(wrong[5:], "remove")
    found = wrong_so_far(audit)
    assert found is not None
    assert (found.decided, found.wrong) == (200, len(wrong))
    assert found.left is not None
    assert found.left[1] <= 30 - len(wrong) <= found.left[2]
    assert found.at_random is not None
    assert found.at_random[0] <= 30 - len(wrong) <= found.at_random[1]
    assert found.sentence.startswith(f"{len(wrong)} of 200 looked at were wrong; about 0 left (0–")
    assert "whatever the scores are worth" in found.sentence


def test_an_undo_takes_a_find_back(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    review = open_review(audit)
    review.decide(["p0", "p1"], "remove")
    review.decide(["p399"], "remove")
    review.undo()
    found = wrong_so_far(audit)
    assert found is not None
    assert (found.decided, found.wrong) == (2, 2)


def test_an_audit_from_before_has_no_such_count(audit: Audit) -> None:
    scores = audit.scores.drop(columns=["csls_swapped", "csls_near", "p_wrong", "review_place"])
    write_table(audit.folder / SCORES, scores)
    assert wrong_so_far(audit) is None
    assert likely_wrong({}) == ("", "")
    assert likely_wrong({"wrong_captions": [1]}) == ("", "")


def test_too_few_pairs_leave_what_was_decided_without_a_count_of_the_rest(audit: Audit) -> None:
    open_review(audit).decide(audit.pairs["pair_id"].tolist()[:3], "remove")
    found = wrong_so_far(audit)
    assert found is not None
    assert found.left is None
    assert found.sentence.startswith("3 of 3 looked at were wrong")


def test_the_verdict_says_how_many_and_what_that_rests_on(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    told = wrong_captions(audit.pairs.assign(planted=["miscaption"] * 3 + [None] * 397), audit.scores)
    sentence, basis = likely_wrong({"wrong_captions": told, "checks": [{"name": "fine", "good": True}]})
    assert sentence.startswith("Likely about 3")
    assert "; 3 were planted. Look at the first 3" in sentence
    assert "swapped at random" in basis
    assert "If wrong captions fitted as well as" in basis
    failed = {"name": "the members hardly generalise", "good": False}
    assert likely_wrong({"wrong_captions": told, "checks": [failed]})[1].endswith("the members hardly generalise.")


def test_captions_have_their_scores_by_their_place(audit: Audit) -> None:
    assert caption_scores(audit, "a") == {}
    rows = {"pair_id": ["a", "b", "b"], "caption": [0, 0, 1], "similarity_out": [0.1, 0.5, -0.25]}
    table = pd.DataFrame(rows | {"misfit": [np.nan, 0.0, 3.0], "odd": [False, False, True]})
    write_table(audit.folder / CAPTION_TABLE, table)
    found = caption_scores(audit, "b")
    assert [found[place].odd for place in (0, 1)] == [False, True]
    assert found[1].words == "similarity out −0.25 · misfit 3.00"
    assert caption_scores(audit, "a")[0].words == "similarity out 0.10"
