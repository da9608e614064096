"""Estimates of wrong captions from decisions and scores."""

import re
from collections.abc import Callable
from html import unescape

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    CONFIG,
    PAIRS,
    SCORES,
    VERDICT,
    Audit,
    write_json,
)
from clipmem_core.errors.calibration import CaptionEvidence, probabilities
from clipmem_core.errors.posterior import review_place
from clipmem_core.review.cards import cards, explain_captions, first_captions, marked
from clipmem_core.review.decisions import open_review
from clipmem_core.review.filters import find_rows
from clipmem_core.review.log import Choice
from clipmem_core.review.progress_and_repair import review_order, review_progress, wrong_lines
from clipmem_core.review.views import RANDOM, Selection
from clipmem_core.scores.score_tables import wrong_captions
from clipmem_core.utils.ragged import Ragged
from tests.fixtures import caption_rows, rewrite, write_words

Copy = Callable[..., Audit]


def with_counts(audit: Audit, wrong: int, pairs: int) -> None:
    """Give an audit scores of so many pairs, the first of which have wrong captions, and the
    verdict on them."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(5, 1, pairs - wrong)])
    columns = {"caption_row": int, "surprise": float, "changed": float, "kind": int}
    words = pd.DataFrame(columns=list(columns)).astype(columns)
    none = np.empty((0, 3))
    found = Ragged.of(np.ones(pairs)), fit, rng.normal(0, 1, pairs), -fit
    read = np.ones(pairs, bool)
    evidence = CaptionEvidence(*found, none, none, none[:, 0], words, read, ~read)
    judged = probabilities(evidence)
    ids = [f"p{row}" for row in range(pairs)]
    worst = judged.pairs
    columns = {"p_wrong": judged.pairs, "misfit": worst, "suspicion": worst}
    columns |= {"review_place": review_place(worst), "p_check": 0.0, "csls_out": 0.0}
    scores = pd.DataFrame({"pair_id": ids, "group": "scored", **columns})
    rewrite(audit.folder / SCORES, scores)
    table = pd.DataFrame({"pair_id": ids, "captions": [[name] for name in ids], "injected": None})
    rewrite(audit.folder / PAIRS, table)
    write_json(audit.folder / CONFIG, audit.record.values | {"pairs": pairs})
    counted = wrong_captions(table["injected"], scores, judged)
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": counted})


def in_review_order(audit: Audit) -> list[str]:
    return [f"p{row}" for row in review_order(audit).order]


def test_one_number_follows_the_decisions(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    before = review_progress(audit)
    assert (before.decided, before.sentence) == (0, "")
    assert before.remaining == pytest.approx(30, abs=5)
    assert before.remaining == audit.verdict["wrong_captions"]["all"]["estimate"]
    review = open_review(audit)
    ids = in_review_order(audit)[:200]
    wrong = [name for name in ids if int(name[1:]) < 30]
    review.decide([name for name in ids if name not in wrong], "keep")
    review.decide(wrong[:5], "recaption", captions=["another"])
    review.decide(wrong[5:], "remove")
    review.decide([f"p{row}" for row in range(390, 400)], "remove")
    review.undo(len(review.history()))
    result = review_progress(audit)
    assert (result.decided, result.wrong) == (200, len(wrong))
    assert round(result.low) <= 30 - len(wrong) <= round(result.high)
    assert result.next_50 < 2
    assert wrong_lines(audit)[:2] == [result.sentence, result.certificate.sentence]


def test_the_certificate_counts_random_checks_alone(audit: Audit) -> None:
    with_counts(audit, 0, 4000)
    review = open_review(audit)
    assert find_rows(audit, Selection(order=RANDOM), size=50) == (
        review_order(audit).drawn[:50].tolist()
    )
    checked = [f"p{row}" for row in review_order(audit).drawn[:50]]
    ranked = [f"p{row}" for row in audit.scores["suspicion"].nlargest(30).index]
    review.decide(sorted(set(ranked) - set(checked)), "keep")
    assert not review_progress(audit).certificate.checks
    review.decide(checked[:10], "remove")  # errors that the scores do not see
    review.decide(checked[10:], "keep")
    result = review_progress(audit)
    assert result.remaining > 100
    review.decide_each({in_review_order(audit)[-1]: Choice("remove", neutral=True)})
    after = review_progress(audit)
    assert (after.repaired, after.remaining < result.remaining) == (1, True)
    found = result.certificate
    assert (len(found.checks), found.wrong, found.kept) == (50, 10, 3990)
    assert 0.2 < found.share < 0.5
    kept = Choice("keep", neutral=True)
    review.decide_each(dict.fromkeys(in_review_order(audit)[:100], kept))
    assert review_progress(audit).certificate.kept < 3990


def test_a_decision_that_is_changed_keeps_its_place(audit: Audit) -> None:
    with_counts(audit, 0, 4000)
    review = open_review(audit)
    checked = [f"p{row}" for row in review_order(audit).drawn[:10]]
    for name in checked:
        review.decide([name], "keep")
    review.decide(checked[:1], "remove")
    review.undo(5)
    assert len(review_progress(audit).certificate.checks) == 4  # the fifth is the next one
    review.decide(checked[4:5], "keep")
    found = review_progress(audit).certificate
    assert (len(found.checks), found.wrong) == (10, 1)


def test_unlikely_words_are_marked_in_escaped_text(copy: Copy) -> None:
    audit = copy()
    shown = cards(audit, range(10))
    write_words(audit)
    firsts = first_captions(audit, shown, Selection(order="review_place"))
    for card in shown:
        html = marked(card.captions[0], firsts[card.pair_id][1])
        assert unescape(re.sub("</?u[^>]*>", "", html)) == card.captions[0]
        assert set(re.findall("<([a-z]+)", html)) == {"u"}


def test_a_word_is_suggested_if_it_makes_the_caption_likelier_right(audit: Audit) -> None:
    rows = caption_rows(audit)
    words = write_words(audit)
    parts = [[0.6, 0.3, 0.05, 0.95], [0.0, 0.1, 0.8, 0.9], [0.0, 0.3, 0.3, 0.6]]
    rows.loc[:2, ["p_pair", "p_caption", "p_word", "p_wrong"]] = parts
    rewrite(audit.folder / CAPTION_TABLE, rows)
    rewrite(
        audit.folder / "words.parquet",
        words.assign(p_wrong=np.where(words["caption"] == 2, 0.5, 0.8)),
    )
    pair_id = rows["pair_id"][0]
    explained = explain_captions(audit, [pair_id, rows["pair_id"][3]])
    pair = explained[pair_id]
    assert sorted(pair.reasons) == [0, 1, 2]
    assert not explained[rows["pair_id"][3]].reasons
    assert words["word"][1] in pair.reasons[1]
    # .8 · .71 / .997 > .5 > .5 · .71 / .997
    assert [bool(pair.marks[caption][0]["better"]) for caption in (1, 2)] == [True, False]
