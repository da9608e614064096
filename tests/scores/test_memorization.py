import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import spearmanr, ttest_1samp
from sklearn.metrics import roc_auc_score

from clipmem_core.columns import TERMS
from clipmem_core.scores import memorization
from clipmem_core.scores.membership import (
    Membership,
    Sides,
    ensemble_membership,
    paper_membership,
    side_means,
)
from clipmem_core.scores.memorization import group_summary, memorization_table
from clipmem_core.scores.registry import SCORE_COLUMNS
from tests.scores.simulated import noisy_ensemble, noisy_paper


def test_a_two_by_two_ensemble_by_hand() -> None:
    groups = np.repeat(["scored", "external"], 2)
    members = ("r0-f0", "r0-f1", "r1-f0", "r1-f1")
    drawn = Membership(groups, members, np.eye(2, 4, dtype=bool)[[0, 1, 0, 1]])
    alignment = [
        [0.9, 0.1, 0.2, 0.0],
        [0.1, 0.7, 0.2, 0.0],
        [0.7, 0.2, 0.2, 0.0],
        [0.3, 0.5, 0.2, 0.0],
    ]
    terms = [{term: np.array(row) for term in TERMS} for row in alignment]
    table = memorization_table(terms, Sides(drawn, "ensemble", 0))
    assert list(table) == SCORE_COLUMNS[2:20]
    assert table["clipmem"].tolist() == pytest.approx([0.8 - 0.2, 0.6 - 0.15, 0, 0])
    assert table["alignment_in"].tolist()[:2] == pytest.approx([0.8, 0.6])
    assert table["positive_out"].tolist()[:2] == pytest.approx([0.2, 0.15])
    assert table["clipmem_relative"].tolist() == pytest.approx([1.0, 0.75, 0, 0])
    assert table[["n_in", "n_out"]].values.tolist() == [[2, 2], [2, 2], [0, 4], [0, 4]]
    assert table["p_value"].tolist()[:2] == pytest.approx(
        [1 / 9, 1 / 9]
    )  # two external pairs, four labellings each
    assert table["q_value"].tolist()[:2] == pytest.approx([1 / 9, 1 / 9])
    assert table["q_value"][2:].isna().all()
    # In minus out is 0.8 and 0.4 in the repeats of one pair, 0.6 and 0.3 in those of the other: two
    # variances of a mean, 0.04 and 0.0225, of one degree of freedom, which differ no more than two
    # samples of one variance do. What both say of it is the mean of their logs, less that of χ²(1).
    pooled = np.sqrt(0.04 * 0.0225) * np.exp(np.log(0.5) - digamma(0.5))
    assert table["se"].tolist()[:2] == pytest.approx([np.sqrt(pooled)] * 2)
    assert table["clipmem_shrunk"].isna().all()  # two pairs have no distribution
    assert table["similarity_in"].isna().tolist() == [False, False, True, True]
    assert table["similarity_out"].tolist() == pytest.approx([0.2, 0.15, 0.2, 0.0])


def test_a_paper_audit_by_hand() -> None:
    groups = np.array(["shared", "candidate", "independent", "external", "external"])
    drawn = Membership(
        groups, ("f-0", "g-0"), np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], dtype=bool)
    )
    f = np.array([0.5, 0.9, 0.2, 0.1, 0.2])
    g = np.array([0.5, 0.3, 0.7, 0.2, 0.1])
    terms = [dict.fromkeys(TERMS, f), dict.fromkeys(TERMS, g)]
    table = memorization_table(terms, Sides(drawn, "paper", 0))
    assert table["clipmem"].tolist() == pytest.approx([0, 0.6, -0.5, -0.1, 0.1])
    assert table["alignment_in"].tolist() == f.tolist()
    assert table["negative_text_out"].tolist() == g.tolist()
    assert table[["n_in", "n_out"]].values.tolist() == [[2, 0], [1, 1], [1, 1], [0, 2], [0, 2]]
    np.testing.assert_allclose(table["similarity_in"], [0.5, 0.9, 0.7, np.nan, np.nan])
    np.testing.assert_allclose(table["similarity_out"], [np.nan, 0.3, 0.2, 0.15, 0.15])
    assert table["p_value"].tolist()[1:3] == pytest.approx([1 / 3, 1 / 3])
    assert table["se"].tolist() == pytest.approx([np.sqrt(0.02)] * 5)


def test_three_seeds_give_a_t_interval_over_the_means_of_each_seed() -> None:
    drawn, alignments = noisy_paper(seeds=3, memorized=1.0)
    summary = group_summary(alignments, Sides(drawn, "paper", 0)).set_index("group")
    assert list(summary.index) == ["candidate", "independent", "shared", "external"]
    assert set(summary["kind"]) == {"95% interval over seeds"}
    candidates = drawn.group == "candidate"
    means = [
        (f - g)[candidates].mean() for f, g in zip(alignments[0::2], alignments[1::2], strict=True)
    ]
    interval = ttest_1samp(means, 0).confidence_interval()
    row = summary.loc["candidate"]
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(
        [np.mean(means), interval.low, interval.high]
    )
    assert row["n"] == candidates.sum()
    assert summary.loc["independent", "mean"] == pytest.approx(-1, abs=0.2)


def test_fewer_than_three_replicates_show_the_spread_of_pairs_and_three_repeats_an_interval() -> (
    None
):
    for protocol, (drawn, alignments) in (
        ("paper", noisy_paper(seeds=2)),
        ("ensemble", noisy_ensemble()),
    ):
        sides = Sides(drawn, protocol, 0)
        summary = group_summary(alignments, sides).set_index("group")
        external = np.subtract(*side_means(alignments, sides.inside))[drawn.group == "external"]
        assert set(summary["kind"]) == {"SD over pairs"}
        row = summary.loc["external"]
        assert [row["mean"], row["high"] - row["mean"]] == pytest.approx(
            [external.mean(), external.std(ddof=1)]
        )
    drawn, alignments = noisy_ensemble(repeats=3, memorized=1.0)
    summary = group_summary(alignments, Sides(drawn, "ensemble", 0)).set_index("group")
    assert set(summary["kind"]) == {"95% interval over repeats"}
    assert summary.loc["scored", "low"] < 1 < summary.loc["scored", "high"]


def test_membership_auroc_is_sklearns_over_judged_pairs_of_each_member() -> None:
    drawn, alignments = noisy_paper(memorized=1.0)
    values, mean = memorization.membership_auroc(alignments, drawn)
    candidate, independent = (
        np.flatnonzero(drawn.group == name) for name in ("candidate", "independent")
    )
    f = np.concatenate([alignments[0][candidate], alignments[0][independent]])
    assert values[0] == pytest.approx(roc_auc_score([1] * 200 + [0] * 200, f))
    assert mean == pytest.approx(values.mean())
    assert 0.7 < mean < 0.82


def test_ranking_stability_is_the_rank_correlation_of_two_disjoint_halves() -> None:
    drawn, alignments = noisy_ensemble()
    lasting = np.random.default_rng(9).normal(size=2_200)
    alignments = [
        values + 2 * lasting * trained
        for values, trained in zip(alignments, drawn.trained, strict=True)
    ]
    scored = drawn.group == "scored"
    halves = [
        side_means(alignments[rows], drawn.trained[rows]) for rows in (slice(0, 2), slice(2, 4))
    ]
    expected = spearmanr(*[(mean_in - mean_out)[scored] for mean_in, mean_out in halves]).statistic
    assert memorization.ranking_stability(alignments, Sides(drawn, "ensemble", 0)) == pytest.approx(
        expected
    )
    assert expected > 0.5


@pytest.mark.parametrize(("repeats", "noise"), [(2, 1.0), (2, 4.0), (3, 2.0), (6, 1.0), (6, 4.0)])
def test_reliability_is_the_rank_agreement_with_a_second_audit_of_as_many_members(
    repeats: int, noise: float
) -> None:
    """Two audits of 20,000 pairs, whose members see what is lasting in each pair with noise of
    their own."""
    n_pairs = 22_000
    drawn = ensemble_membership(np.arange(n_pairs), folds=2, repeats=repeats, seed=0)
    scored = drawn.group == "scored"
    lasting = np.random.default_rng(9).normal(size=n_pairs)
    noises = (
        noise * np.random.default_rng(seed).normal(size=drawn.trained.shape) for seed in (1, 2)
    )
    audits = [list(lasting * drawn.trained + own) for own in noises]
    shown = [np.subtract(*side_means(alignments, drawn.trained))[scored] for alignments in audits]
    stability = memorization.ranking_stability(audits[0], Sides(drawn, "ensemble", 0))
    found = memorization.ranking_reliability(stability, repeats)
    assert found == pytest.approx(spearmanr(*shown).statistic, abs=0.02)
    by_theory = 1 / (
        1 + 2 * noise**2 / repeats
    )  # variance of what lasts in that of the mean, of Pearson's kind
    assert found == pytest.approx(by_theory, abs=0.03)


def test_sslmem_is_the_mean_cosine_of_different_views_in_minus_out() -> None:
    rng = np.random.default_rng(0)
    drawn = paper_membership(np.arange(220), seeds=2, seed=0)
    views = [rng.normal(size=(220, 4, 5)) for _ in range(4)]
    views = [member / np.linalg.norm(member, axis=2, keepdims=True) for member in views]
    squares = [np.linalg.norm(member.mean(axis=1), axis=1) ** 2 for member in views]
    captions = np.where(np.arange(220) < 3, 1, 4)
    table = memorization.sslmem(
        squares, squares, Sides(drawn, "paper", 0), n_views=4, n_captions=captions
    )
    off_diagonal = ~np.eye(4, dtype=bool)
    cosine = [[(pair @ pair.T)[off_diagonal].mean() for pair in member] for member in views]
    expected = (np.array(cosine[0]) + cosine[2] - cosine[1] - cosine[3]) / 2
    np.testing.assert_allclose(table["sslmem_image"], expected)
    np.testing.assert_allclose(table["sslmem_text"][3:], expected[3:])
    assert table["sslmem_text"][:3].isna().all()
