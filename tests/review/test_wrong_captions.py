"""Estimates of wrong captions from decisions and scores."""

import re
from collections.abc import Callable
from html import unescape

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.scoring import wrong_captions
from clipmem_core.audit.store import SCORES, VERDICT, Audit, write_json, write_table
from clipmem_core.columns import PAIR_COLUMNS
from clipmem_core.review.cards import cards, first_captions, marked
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import RANDOM, Selection
from clipmem_core.review.wrong_captions import random_check, review_progress, wrong_estimate, wrong_words
from clipmem_core.scores.prevalence import p_wrong, review_place
from tests.fixtures import write_words

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
    review, order = open_review(audit), wrong_estimate(audit)[1].order[:200]
    ids = [f"p{row}" for row in order]
    wrong = [name for name, row in zip(ids, order, strict=True) if row < 30]
    review.decide([name for name in ids if name not in wrong], "keep")
    review.decide(wrong[:5], "recaption", captions=["another"])
    review.decide(wrong[5:], "remove")
    review.decide([f"p{row}" for row in range(390, 400)], "remove")
    review.undo(review.count_events())
    result = review_progress(audit)
    assert (result.decided, result.wrong, result.until_stop) == (200, len(wrong), 0)
    assert result.remaining is not None
    assert not result.by_spot_checks
    assert result.remaining[1] <= 30 - len(wrong) <= result.remaining[2]
    assert wrong_words(audit)[0] == result.sentence
    assert result.sentence.count("remain") == 1  # one number of wrong captions


def test_spot_checks_replace_an_estimate_that_they_contradict(audit: Audit) -> None:
    with_counts(audit, 0, 4000)
    (count, order), review = wrong_estimate(audit), open_review(audit)
    assert "at most 194 of the 4,000" in random_check(audit)  # betabinom(3950, .5, 50.5), 97.5 %
    assert count.estimate is not None
    assert count.estimate < 10
    checked = [f"p{row}" for row in order.drawn[:50]]
    review.decide(checked[:10], "remove")  # errors that the scores do not see
    assert "10 of 50 checked, 10 wrong" in random_check(audit)
    review.decide(checked[10:], "keep")
    assert "10 of 50 pairs had a wrong caption. That makes about 800 (" in random_check(audit)
    result = review_progress(audit)
    assert result.by_spot_checks
    assert result.remaining is not None
    assert result.remaining[1] < 0.2 * 3950 < result.remaining[2]
    assert "You can stop" not in result.sentence
    assert find_rows(audit, Selection(order=RANDOM), page=1, size=50) == order.drawn[:50].tolist()


def test_expected_errors_and_the_stop_follow_from_the_probabilities(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    scores, review = audit.scores, open_review(audit)
    order = wrong_estimate(audit)[1].order.tolist()
    for row in order[:10]:
        review.decide([f"p{row}"], "remove" if row < 30 else "keep")
    result = review_progress(audit)
    assert result.expected == pytest.approx(sum(scores["p_wrong"][row] for row in order[10:60]))
    assert result.until_stop == 40  # fifty at least
    review.decide([f"p{row}" for row in order[10:50]], "keep")
    assert review_progress(audit).until_stop == 0


def test_single_captions_have_a_count_and_the_kinds_of_errors_that_are_not_seen(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    assert "Single wrong words are not counted." in wrong_words(audit)[0]
    kinds = [{"kind": "other word", "auroc": 0.84, "seen": True, "up_to": 9}]
    kinds += [{"kind": "number", "auroc": 0.55, "seen": False, "up_to": 3100}]
    single = {"captions": {"estimate": 1200.4, "low": 900.0, "high": 1600.0}, "n": 40445, "kinds": kinds}
    single["words"] = {"estimate": 1250.0, "low": 900.0, "high": 1700.0}
    wrong = audit.verdict["wrong_captions"] | {"single": single}
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": wrong})
    pairs, captions = wrong_words(audit)[0].split("\n")
    assert "not counted" not in pairs
    assert captions == (
        "About 1,200 of 40,445 other captions have a wrong word (900–1,600). Up to 1,700 words may be wrong. "
        "This audit can see wrong other words (AUROC 0.84). It cannot see wrong numbers (AUROC 0.55; up to 3,100 may "
        "remain)."
    )


def test_unlikely_words_are_marked_in_escaped_text(copy: Copy) -> None:
    audit = copy()
    shown = cards(audit, range(10))
    write_words(audit)
    firsts = first_captions(audit, shown, Selection(order="caption_misfit"))
    for card in shown:
        html = marked(card.captions[0], firsts[card.pair_id][1])
        assert unescape(re.sub("</?u[^>]*>", "", html)) == card.captions[0]
        assert set(re.findall("<([a-z]+)", html)) == {"u"}
