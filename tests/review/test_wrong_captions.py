"""How many captions are wrong by what people decided, and by the verdict, in words."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.scoring import wrong_captions
from clipmem_core.audits.store import CAPTION_TABLE, SCORES, VERDICT, Audit, write_json, write_table
from clipmem_core.audits.verdict import likely_wrong
from clipmem_core.columns import PAIR_COLUMNS
from clipmem_core.review.caption_scores import caption_scores
from clipmem_core.review.decisions import open_review
from clipmem_core.review.wrong_captions import drawn_at_random, known_count, wrong_so_far, wrong_words
from clipmem_core.scores.prevalence import estimate_wrong, p_wrong
from clipmem_core.scores.reviewed import plan_review, review_place

Copy = Callable[..., Audit]


def with_counts(audit: Audit, wrong: int, pairs: int) -> None:
    """Give an audit scores of so many pairs, the first of which have wrong captions, and the verdict on them."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(5, 1, pairs - wrong)])
    table = {"pair_id": [f"p{row}" for row in range(pairs)], "group": "scored", "misfit": -fit, "csls_out": fit}
    scores = pd.DataFrame(table | {"csls_swapped": rng.normal(0, 1, pairs), "csls_near": rng.normal(2, 1, pairs)})
    everyone = np.ones(pairs, dtype=bool)
    scores["p_wrong"] = p_wrong(fit, scores["csls_swapped"].to_numpy(), everyone)
    scores["review_place"] = review_place(-fit, fit, everyone)
    write_table(audit.folder / SCORES, scores)
    rows = [[f"p{row}", f"{row}.png", [f"caption {row}"], None, 8, 8, "", None] for row in range(pairs)]
    table = pd.DataFrame(rows, columns=PAIR_COLUMNS)
    write_table(audit.folder / "pairs.parquet", table)
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": wrong_captions(table, scores)})


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
    said = f"{len(wrong)} of 200 were wrong; about 0 in the next 50; about 0 left (0–"
    assert found.sentence.startswith(said)
    assert "; suggested stop: here; by the random share alone " in found.sentence
    assert wrong_words(audit)[0] == found.sentence
    assert "Holds whatever" not in wrong_words(audit)[1]
    assert "holds whatever the scores are worth" in wrong_words(audit)[1]


def test_what_is_ahead_and_when_to_stop_follow_from_the_probabilities_in_the_order_of_the_review(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    known, scores, review = known_count(audit), audit.scores, open_review(audit)
    assert known is not None
    order = known.review.order.tolist()
    review.decide([f"p{row}" for row in order[:10]], "remove")
    found = wrong_so_far(audit)
    assert found is not None
    assert found.ahead == pytest.approx(sum(scores["p_wrong"][row] for row in order[10:60]))
    # The last before the stop is worth a look, the twenty after it are not.
    chances = [scores["p_wrong"][row] for row in order[10:]]
    assert 15 < found.more < 40
    assert chances[found.more - 1] >= 0.1
    assert sum(chances[found.more : found.more + 20]) < 0.1 * 20
    assert f"; suggested stop: after {found.more} more" in found.sentence


def test_count_and_order_are_those_of_scoring_and_not_made_again(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    known, scores = known_count(audit), audit.scores
    assert known is not None
    again = plan_review(scores["misfit"].to_numpy())
    assert known.review.order.tolist() == again.order.tolist()
    assert drawn_at_random(audit) == set(again.order[again.at_random])
    count = estimate_wrong(scores["csls_out"].to_numpy(), scores["csls_swapped"].to_numpy())
    assert (known.count.estimate, known.count.high) == (count.estimate, count.high)


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
    assert wrong_words(audit) == likely_wrong(audit.verdict)
    assert likely_wrong({}) == ("", "")
    assert likely_wrong({"wrong_captions": [1]}) == ("", "")


def test_too_few_pairs_leave_what_was_decided_without_a_count_of_the_rest(audit: Audit) -> None:
    open_review(audit).decide(audit.pairs["pair_id"].tolist()[:3], "remove")
    found = wrong_so_far(audit)
    assert found is not None
    assert found.left is None
    assert found.sentence == "3 of 3 were wrong."


def test_where_many_are_wrong_a_second_round_is_advised_once() -> None:
    told = {"estimate": 80.0, "low": 60.0, "high": 99.0}
    for pairs, more, advised in ((700, {}, True), (900, {}, False), (700, {"second_round_left_out": 80}, False)):
        groups = [{"group": "scored", "n": pairs}, {"group": "external", "n": 60}]
        verdict = {"wrong_captions": told, "groups": groups, "checks": [{"name": "fine", "good": True}], **more}
        assert ("--rounds 2" in likely_wrong(verdict)[1]) is advised


def test_the_verdict_says_how_many_and_what_that_rests_on(audit: Audit) -> None:
    with_counts(audit, 30, 400)
    told = wrong_captions(audit.pairs.assign(planted=["miscaption"] * 3 + [None] * 397), audit.scores)
    sentence, basis = likely_wrong({"wrong_captions": told, "checks": [{"name": "fine", "good": True}]})
    assert sentence.startswith("Likely about 3")
    assert "; 3 wrong ones were planted. Look at the first 3" in sentence
    assert "swapped at random" in basis
    assert f"with them there may be up to {told['near'][2]:,.0f}, and only decisions tell." in basis
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
