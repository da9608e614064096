"""Estimates of wrong captions from decisions and scores."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.scoring import wrong_captions
from clipmem_core.audits.store import CAPTION_TABLE, SCORES, VERDICT, Audit, write_json, write_table
from clipmem_core.columns import PAIR_COLUMNS
from clipmem_core.review.cards import caption_scores
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import RANDOM, Selection
from clipmem_core.review.wrong_captions import (
    random_check,
    review_progress,
    wrong_estimate,
    wrong_words,
)
from clipmem_core.scores.prevalence import p_wrong, review_place

Copy = Callable[..., Audit]


def with_counts(audit: Audit, wrong: int, pairs: int) -> None:
    """Give an audit scores of so many pairs, the first of which have wrong captions, and the verdict on them."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(5, 1, pairs - wrong)])
    table = {"pair_id": [f"p{row}" for row in range(pairs)], "group": "scored", "misfit": -fit, "csls_out": fit}
    scores = pd.DataFrame(table | {"csls_swapped": rng.normal(0, 1, pairs), "csls_near": rng.normal(2, 1, pairs)})
    scores["p_wrong"] = p_wrong(fit, scores["csls_swapped"].to_numpy())
    scores["review_place"] = review_place(-fit, fit)
    write_table(audit.folder / SCORES, scores)
    rows = [[f"p{row}", f"{row}.png", [f"caption {row}"], None, 8, 8, "", None] for row in range(pairs)]
    table = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    write_table(audit.folder / "pairs.parquet", table)
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": wrong_captions(table, scores)})


def test_removed_and_recaptioned_pairs_count_as_wrong(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    assert review_progress(audit).sentence == ""
    review, order = open_review(audit), wrong_estimate(audit).review.order[:200]
    ids = [f"p{row}" for row in order]
    wrong = [name for name, row in zip(ids, order, strict=True) if row < 30]
    review.decide([name for name in ids if name not in wrong], "keep")
    review.decide(wrong[:5], "recaption", captions=["another"])
    review.decide(wrong[5:], "remove")
    review.decide([f"p{row}" for row in range(390, 400)], "remove")
    review.undo()
    found = review_progress(audit)
    assert (found.decided, found.wrong, found.until_stop) == (200, len(wrong), 0)
    assert found.remaining is not None
    assert not found.by_spot_checks
    assert found.remaining[1] <= 30 - len(wrong) <= found.remaining[2]
    assert wrong_words(audit)[0] == found.sentence
    assert found.sentence.count("remain") == 1  # one number of wrong captions


def test_spot_checks_replace_an_estimate_that_they_contradict(audit: Audit) -> None:
    with_counts(audit, 0, 4000)
    estimate, review = wrong_estimate(audit), open_review(audit)
    assert "at most 194 of the 4,000" in random_check(audit)  # betabinom(3950, .5, 50.5), 97.5 %
    assert estimate.count.estimate is not None
    assert estimate.count.estimate < 10
    checked = [f"p{row}" for row in estimate.review.drawn[:50]]
    review.decide(checked[:10], "remove")  # errors that the scores do not see
    review.decide(checked[10:], "keep")
    found = review_progress(audit)
    assert found.by_spot_checks
    assert found.remaining is not None
    assert found.remaining[1] < 0.2 * 3950 < found.remaining[2]
    assert "You can stop" not in found.sentence
    assert find_rows(audit, Selection(order=RANDOM), page=1, size=50) == estimate.review.drawn[:50].tolist()


def test_expected_errors_and_the_stop_follow_from_the_probabilities(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    estimate, scores, review = wrong_estimate(audit), audit.scores, open_review(audit)
    order = estimate.review.order.tolist()
    for row in order[:10]:
        review.decide([f"p{row}"], "remove" if row < 30 else "keep")
    found = review_progress(audit)
    assert found.expected == pytest.approx(sum(scores["p_wrong"][row] for row in order[10:60]))
    assert found.until_stop == 40  # fifty at least
    review.decide([f"p{row}" for row in order[10:50]], "keep")
    assert review_progress(audit).until_stop == 0


def test_captions_have_their_scores_by_their_place(audit: Audit) -> None:
    assert caption_scores(audit, "a") == {}
    rows = {"pair_id": ["a", "b", "b"], "caption": [0, 0, 1], "similarity_out": [0.1, 0.5, -0.25]}
    table = pd.DataFrame(rows | {"misfit": [np.nan, 0.0, 3.0], "odd": [False, False, True]})
    write_table(audit.folder / CAPTION_TABLE, table)
    found = caption_scores(audit, "b")
    assert [found[place].odd for place in (0, 1)] == [False, True]
    assert found[1].words == "similarity out −0.25 · misfit 3.00"
    assert caption_scores(audit, "a")[0].words == "similarity out 0.10"
