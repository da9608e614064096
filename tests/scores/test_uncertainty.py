from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, spearmanr, t, ttest_1samp
from sklearn.metrics import roc_auc_score

from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.membership import Membership, ensemble_membership
from clipmem_core.scores.moderated import fit_prior
from clipmem_core.scores.uncertainty import (
    group_summary,
    in_errors,
    membership_auroc,
    ranking_reliability,
    ranking_stability,
    standard_errors,
)
from tests.scores.simulated import noisy_ensemble, noisy_paper, simulate


def _clipmem(drawn: Membership, alignments: list[np.ndarray], protocol: str) -> np.ndarray:
    mean_in, mean_out = side_means(alignments, Sides(drawn, protocol, 0).inside)
    return mean_in - mean_out


@pytest.mark.parametrize("protocol", ["paper", "ensemble"])
def test_with_one_member_on_a_side_the_error_is_the_spread_of_external_pairs(protocol: str) -> None:
    drawn, alignments = noisy_paper() if protocol == "paper" else noisy_ensemble(folds=3, repeats=1)
    errors = standard_errors(alignments, Sides(drawn, protocol, 0))
    assert errors.kind == "sd of external"
    external = _clipmem(drawn, alignments, protocol)[drawn.group == "external"]
    np.testing.assert_allclose(errors.se, np.std(external, ddof=1))


def test_the_error_is_the_posterior_variance_widened_by_students_t() -> None:
    drawn, alignments = noisy_paper(550, seeds=4)
    errors, candidates = (
        standard_errors(alignments, Sides(drawn, "paper", 0)),
        np.flatnonzero(drawn.group == "candidate"),
    )
    own = np.var(np.stack(alignments[0::2]) - np.stack(alignments[1::2]), axis=0, ddof=1)[candidates] / 4
    prior = fit_prior(own, 3, np.mean(alignments, axis=0)[candidates])
    expected = (
        (3 * own + prior.degrees * prior.scale) / (3 + prior.degrees) if np.isfinite(prior.degrees) else prior.scale
    )
    np.testing.assert_allclose(errors.variance[candidates], expected)
    np.testing.assert_allclose(errors.se, np.sqrt(errors.variance) * t.ppf(0.975, errors.degrees) / 1.959964)
    assert errors.kind == "moderated"


@pytest.mark.parametrize(
    "how",
    [
        {"members": 4, "folds": 2, "halves": False},
        {"members": 4, "folds": 4},
        {"members": 8},
        {"members": 16},
        {"members": 16, "folds": 2, "halves": False},
        {"members": 8, "folds": 4, "halves": False},
    ],
)
def test_clipmem_within_196_errors_covers_95_in_100_pairs_of_unlike_noise(how: dict[str, Any]) -> None:
    """2,000 scored pairs each, log-normal noise of σ 0.5, members with offsets, repeats whose members pull apart."""
    covered = [simulate(seed, **how).covered() for seed in (0, 1)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_complementary_folds_are_noisier_than_members_by_themselves_would_say() -> None:
    drawn = simulate(0, members=16, folds=2, halves=False, spread=0.0, alike=0.3)
    off = (drawn.clipmem - drawn.true)[drawn.scored]
    assert np.mean(drawn.errors.variance[drawn.scored]) == pytest.approx(np.mean(off**2), rel=0.1)
    assert (
        np.mean(off**2)
        > 1.2 * 2 / 8 * np.var(np.stack(drawn.alignments) - drawn.true * drawn.sides.inside, axis=0).mean()
    )


def test_a_value_in_errors_is_as_far_out_as_a_normal_one() -> None:
    found = in_errors(np.array([0.3, -0.3, 0.0]), np.array([0.01, 0.01, 0.0]), np.array([4.0, np.inf, 4.0]))
    assert norm.sf(found[0]) == pytest.approx(t.sf(3, 4))
    assert found[1:].tolist() == pytest.approx([-3, 0])


def test_three_seeds_give_a_t_interval_over_the_means_of_each_seed() -> None:
    drawn, alignments = noisy_paper(seeds=3, memorized=1.0)
    summary = group_summary(alignments, Sides(drawn, "paper", 0)).set_index("group")
    assert list(summary.index) == ["candidate", "independent", "shared", "external"]
    assert set(summary["kind"]) == {"95% interval over seeds"}
    candidates = drawn.group == "candidate"
    means = [(f - g)[candidates].mean() for f, g in zip(alignments[0::2], alignments[1::2], strict=True)]
    interval = ttest_1samp(means, 0).confidence_interval()
    row = summary.loc["candidate"]
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([np.mean(means), interval.low, interval.high])
    assert row["n"] == candidates.sum()
    assert summary.loc["independent", "mean"] == pytest.approx(-1, abs=0.2)


def test_fewer_than_three_replicates_show_the_spread_of_pairs_and_three_repeats_an_interval() -> None:
    for protocol, (drawn, alignments) in (("paper", noisy_paper(seeds=2)), ("ensemble", noisy_ensemble())):
        summary = group_summary(alignments, Sides(drawn, protocol, 0)).set_index("group")
        external = _clipmem(drawn, alignments, protocol)[drawn.group == "external"]
        assert set(summary["kind"]) == {"SD over pairs"}
        row = summary.loc["external"]
        assert [row["mean"], row["high"] - row["mean"]] == pytest.approx([external.mean(), external.std(ddof=1)])
    drawn, alignments = noisy_ensemble(repeats=3, memorized=1.0)
    summary = group_summary(alignments, Sides(drawn, "ensemble", 0)).set_index("group")
    assert set(summary["kind"]) == {"95% interval over repeats"}
    assert summary.loc["scored", "low"] < 1 < summary.loc["scored", "high"]


def test_membership_auroc_is_sklearns_over_judged_pairs_of_each_member() -> None:
    drawn, alignments = noisy_paper(memorized=1.0)
    values, mean = membership_auroc(alignments, drawn)
    candidate, independent = (np.flatnonzero(drawn.group == name) for name in ("candidate", "independent"))
    f = np.concatenate([alignments[0][candidate], alignments[0][independent]])
    assert values[0] == pytest.approx(roc_auc_score([1] * 200 + [0] * 200, f))
    assert mean == pytest.approx(values.mean())
    assert 0.7 < mean < 0.82


def test_membership_auroc_is_unknown_for_members_that_saw_everything() -> None:
    drawn, alignments = noisy_ensemble(250)
    everything = Membership(drawn.group, drawn.members, np.ones_like(drawn.trained))
    values, mean = membership_auroc(alignments, everything)
    assert np.isnan(values).all()
    assert np.isnan(mean)


def test_ranking_stability_is_the_rank_correlation_of_two_disjoint_halves() -> None:
    drawn, alignments = noisy_ensemble(repeats=2)
    lasting = np.random.default_rng(9).normal(size=2_200)
    alignments = [values + 2 * lasting * trained for values, trained in zip(alignments, drawn.trained, strict=True)]
    scored = drawn.group == "scored"
    halves = [side_means(alignments[rows], drawn.trained[rows]) for rows in (slice(0, 2), slice(2, 4))]
    expected = spearmanr(*[(mean_in - mean_out)[scored] for mean_in, mean_out in halves]).statistic
    assert ranking_stability(alignments, Sides(drawn, "ensemble", 0)) == pytest.approx(expected)
    assert expected > 0.5


@pytest.mark.parametrize("repeats", [2, 3, 6])
@pytest.mark.parametrize("noise", [1.0, 2.0, 4.0])
def test_reliability_is_the_rank_agreement_with_a_second_audit_of_as_many_members(repeats: int, noise: float) -> None:
    """Two audits of 20,000 pairs, whose members see what is lasting in each pair with noise of their own."""
    n_pairs = 22_000
    drawn = ensemble_membership(np.arange(n_pairs), folds=2, repeats=repeats, seed=0)
    scored, lasting = drawn.group == "scored", np.random.default_rng(9).normal(size=n_pairs)
    audits = [
        list(lasting * drawn.trained + noise * np.random.default_rng(seed).normal(size=drawn.trained.shape))
        for seed in (1, 2)
    ]
    shown = [np.subtract(*side_means(alignments, drawn.trained))[scored] for alignments in audits]
    found = ranking_reliability(ranking_stability(audits[0], Sides(drawn, "ensemble", 0)), repeats)
    assert found == pytest.approx(spearmanr(*shown).statistic, abs=0.02)
    by_theory = 1 / (1 + 2 * noise**2 / repeats)  # variance of what lasts in that of the mean, of Pearson's kind
    assert found == pytest.approx(by_theory, abs=0.03)


def test_parting_candidates_from_independents_is_no_stability() -> None:
    drawn, alignments = noisy_paper(22_000, seeds=2, memorized=5.0)
    assert abs(ranking_stability(alignments, Sides(drawn, "paper", 0))) < 0.06


def test_stability_is_unknown_with_one_seed_or_equal_scores() -> None:
    drawn, alignments = noisy_paper()
    assert np.isnan(ranking_stability(alignments, Sides(drawn, "paper", 0)))
    drawn, _ = noisy_ensemble(250)
    assert np.isnan(ranking_stability([np.zeros(250)] * 4, Sides(drawn, "ensemble", 0)))
    assert np.isnan(ranking_reliability(float("nan")))
    assert ranking_reliability(1.0) == ranking_reliability(1.0, 5) == 1.0
