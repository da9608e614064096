"""Estimates of wrong captions from decisions and scores."""

import re
from collections.abc import Callable
from html import unescape

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.scoring import wrong_captions
from clipmem_core.audit.store import CAPTION_TABLE, SCORES, VERDICT, Audit, write_json, write_table
from clipmem_core.audit.verdict import summary_lines
from clipmem_core.columns import PAIR_COLUMNS
from clipmem_core.review.cards import cards, explain_captions, first_captions, marked
from clipmem_core.review.decisions import open_review
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import RANDOM, Selection
from clipmem_core.review.wrong_captions import (
    random_check,
    review_progress,
    wrong_estimate,
    wrong_lines,
)
from clipmem_core.scores.evidence import CaptionEvidence, Probabilities, probabilities
from clipmem_core.scores.prevalence import WrongCount, review_place
from tests.fixtures import caption_rows, write_words

Copy = Callable[..., Audit]


def with_scores(audit: Audit, wrong: Probabilities) -> None:
    """Give an audit pairs with these probabilities, and the verdict on them."""
    pairs = len(wrong.pairs)
    scores = pd.DataFrame(
        {"pair_id": [f"p{row}" for row in range(pairs)], "group": "scored", "p_wrong": wrong.pairs}
    )
    scores = scores.assign(misfit=wrong.worst, csls_out=0.0, suspicion=wrong.worst)
    scores["review_place"] = review_place(wrong.worst)
    write_table(audit.folder / SCORES, scores)
    rows = [
        [f"p{row}", f"{row}.png", [f"caption {row}"], None, 8, 8, "", None] for row in range(pairs)
    ]
    table = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    write_table(audit.folder / "pairs.parquet", table)
    counted = wrong_captions(table["injected"], scores, wrong)
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": counted})


def with_counts(audit: Audit, wrong: int, pairs: int) -> None:
    """Give an audit scores of so many pairs, the first of which have wrong captions, and the
    verdict on them."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(5, 1, pairs - wrong)])
    columns = {"caption_row": int, "surprise": float, "changed": float, "kind": int}
    words = pd.DataFrame(columns=list(columns)).astype(columns)
    none = np.empty((0, 3))
    scores = np.ones(pairs, int), fit, rng.normal(0, 1, pairs), -fit
    with_scores(audit, probabilities(CaptionEvidence(*scores, none, none, none[:, 0], words)))


def with_even(audit: Audit, probability: float, pairs: int) -> list[str]:
    """Give an audit pairs that are equally likely wrong, and return their ids in the order of the
    review."""
    estimate = probability * pairs
    even = np.full(pairs, probability)
    counts = {"pairs": WrongCount(estimate, estimate / 2, 2 * estimate)}
    with_scores(
        audit,
        Probabilities(pd.DataFrame(), even, -np.arange(pairs) / pairs, even, counts, [], None),
    )
    return [f"p{row}" for row in wrong_estimate(audit)[1].order]


def test_removed_and_recaptioned_pairs_count_as_wrong(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    assert review_progress(audit).sentence == ""
    review = open_review(audit)
    order = wrong_estimate(audit)[1].order[:200]
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
    assert wrong_lines(audit)[-1] == result.sentence


def test_spot_checks_replace_an_estimate_that_they_contradict(
    audit: Audit,
) -> None:
    with_counts(audit, 0, 4000)
    order = wrong_estimate(audit)[1]
    review = open_review(audit)
    assert "at most 194 of the 4,000" in random_check(audit)[0]  # betabinom(3950, .5, 50.5), 97.5 %
    assert "Random check" not in wrong_lines(audit)[0]
    checked = [f"p{row}" for row in order.drawn[:50]]
    review.decide(checked[:10], "remove")  # errors that the scores do not see
    assert "10 of 50 checked, 10 wrong" in random_check(audit)[0]
    review.decide(checked[10:], "keep")
    assert "bout 800 of all 4,000" in wrong_lines(audit)[0]
    result = review_progress(audit)
    assert result.by_spot_checks
    assert result.remaining is not None
    assert result.remaining[1] < 0.2 * 3950 < result.remaining[2]
    assert "You can stop" not in " ".join(wrong_lines(audit))
    assert find_rows(audit, Selection(order=RANDOM), size=50) == order.drawn[:50].tolist()


def test_more_wrong_captions_than_predicted_raise_the_estimates(
    audit: Audit,
) -> None:
    ids = with_even(audit, 0.02, 4000)
    review = open_review(audit)
    review.decide(ids[:10], "keep")
    assert review_progress(audit).until_stop == 40  # fifty at least
    review.decide(ids[10:60], "keep")
    before = review_progress(audit)
    assert before.remaining is not None
    assert (before.until_stop, before.predicted) == (0, pytest.approx(1.2))
    review.decide(ids[:17], "remove")
    after = review_progress(audit)
    assert after.remaining is not None
    assert after.expected > 5 * before.expected
    assert after.remaining[0] > 5 * before.remaining[0]
    assert after.until_stop > 0


@pytest.mark.parametrize(("hits", "until_stop"), [(2, 0), (3, 10)])
def test_three_wrong_ones_in_the_last_ten_forbid_the_stop(
    audit: Audit, hits: int, until_stop: int
) -> None:
    ids = with_even(audit, 0.02, 4000)
    review = open_review(audit)
    review.decide(ids[: 300 - hits], "keep")
    review.decide(ids[300 - hits : 300], "remove")
    assert review_progress(audit).until_stop == until_stop


def test_the_lines_have_the_counts_and_what_the_audit_cannot_see() -> None:
    ends = ("estimate", "low", "high")
    wrong = {
        "missing": None,
        "pairs": dict(zip(ends, (0.2, 0, 6), strict=True)),
        "captions": dict(zip(ends, (701, 610, 790), strict=True)),
        "words": dict(zip(ends, (500.4, 360, 980), strict=True)),
        "kinds": [{"kind": "other word", "seen": True}, {"kind": "number", "seen": False}],
        "several": True,
        "stop": 900,
        "left": [60.2, 20.0, 80.0],
        "injected": 0,
        "injected_vague": 0,
    }
    verdict = {"checks": [{"name": "", "good": True}], "wrong_captions": wrong}
    counts, unseen, advice = summary_lines(verdict)
    assert re.findall(r"[\d,]+", counts) == ["6", "701", "610", "790", "500", "360", "980"]
    assert ("numbers" in unseen, "words" in unseen) == (True, False)
    assert re.findall(r"\d+", advice) == ["900", "60"]
    blind = wrong | {"kinds": wrong["kinds"][1:]}
    assert "words" not in summary_lines({"wrong_captions": blind})[0]
    missing = {"wrong_captions": {"missing": "too few pairs"}}
    assert summary_lines(missing) == ["Too few pairs.", "", ""]


def test_unlikely_words_are_marked_in_escaped_text(copy: Copy) -> None:
    audit = copy()
    shown = cards(audit, range(10))
    write_words(audit)
    firsts = first_captions(audit, shown, Selection(order="review_place"))
    for card in shown:
        html = marked(card.captions[0], firsts[card.pair_id][1])
        assert unescape(re.sub("</?u[^>]*>", "", html)) == card.captions[0]
        assert set(re.findall("<([a-z]+)", html)) == {"u"}


def test_a_word_is_suggested_if_it_makes_the_caption_likelier_right(
    audit: Audit,
) -> None:
    rows = caption_rows(audit)
    words = write_words(audit)
    parts = [[0.6, 0.3, 0.05, 0.95], [0.0, 0.1, 0.8, 0.9], [0.0, 0.3, 0.3, 0.6]]
    rows.loc[:2, ["p_pair", "p_caption", "p_word", "p_wrong"]] = parts
    write_table(audit.folder / CAPTION_TABLE, rows)
    write_table(
        audit.folder / "words.parquet",
        words.assign(p_wrong=np.where(words["caption"] == 2, 0.5, 0.8)),
    )
    pair_id = rows["pair_id"][0]
    reasons, marks = explain_captions(audit, [pair_id, rows["pair_id"][3]])
    assert list(reasons) == [pair_id]
    shares = [re.findall(r"\d+ %", reasons[pair_id][number])[0] for number in range(3)]
    assert shares == ["90 %", "80 %", "60 %"]
    assert words["word"][1] in reasons[pair_id][1]
    assert sorted(marks[pair_id]) == [1, 2]  # none in the caption of another picture
    # .8 · .71 / .997 > .5 > .5 · .71 / .997
    assert [bool(marks[pair_id][caption][0]["better"]) for caption in (1, 2)] == [True, False]
