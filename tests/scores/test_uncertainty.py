import numpy as np
import pytest
from scipy.stats import kstest, spearmanr, ttest_1samp, ttest_ind
from sklearn.metrics import roc_auc_score

from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.membership import Membership, ensemble_membership, paper_membership
from clipmem_core.scores.uncertainty import (
    group_summary,
    membership_auroc,
    null_scores,
    p_values,
    q_values,
    ranking_reliability,
    ranking_stability,
    standard_errors,
)

Drawn = tuple[Membership, list[np.ndarray]]


def _ensemble(
    n_pairs: int = 2_200, *, folds: int = 2, repeats: int = 2, memorized: float = 0.0, seed: int = 0
) -> Drawn:
    drawn = ensemble_membership(np.arange(n_pairs), folds=folds, repeats=repeats, seed=seed)
    noise = np.random.default_rng(seed).normal(size=drawn.trained.shape) + np.arange(folds * repeats)[:, None] / 10
    return drawn, list(noise + memorized * drawn.trained)


def _paper(n_pairs: int = 2_200, *, seeds: int = 1, memorized: float = 0.0, seed: int = 0) -> Drawn:
    drawn = paper_membership(np.arange(n_pairs), seeds=seeds, seed=seed)
    return drawn, list(np.random.default_rng(seed).normal(size=drawn.trained.shape) + memorized * drawn.trained)


def _clipmem(drawn: Membership, alignments: list[np.ndarray], protocol: str) -> np.ndarray:
    mean_in, mean_out = side_means(alignments, Sides(drawn, protocol, 0).inside)
    return mean_in - mean_out


def test_standard_errors_are_those_of_a_paired_t_test_over_seeds_and_of_welchs_over_members() -> None:
    drawn, alignments = _paper(250, seeds=4)
    errors, kind = standard_errors(alignments, Sides(drawn, "paper", 0))
    assert kind == "paired over seeds"
    differences = np.stack(alignments[0::2]) - np.stack(alignments[1::2])
    test = ttest_1samp(differences, 0)
    np.testing.assert_allclose(errors, differences.mean(axis=0) / test.statistic)
    drawn, alignments = _ensemble(250, folds=3, repeats=2)
    errors, kind = standard_errors(alignments, Sides(drawn, "ensemble", 0))
    assert kind == "welch"
    inside, values = Sides(drawn, "ensemble", 0).inside, np.stack(alignments)
    clipmem = _clipmem(drawn, alignments, "ensemble")
    for pair in range(0, 250, 10):
        test = ttest_ind(values[inside[:, pair], pair], values[~inside[:, pair], pair], equal_var=False)
        assert errors[pair] == pytest.approx(clipmem[pair] / test.statistic)


@pytest.mark.parametrize("protocol", ["paper", "ensemble"])
def test_with_one_member_on_a_side_the_error_is_the_spread_of_external_pairs(protocol: str) -> None:
    drawn, alignments = _paper() if protocol == "paper" else _ensemble(folds=3, repeats=1)
    errors, kind = standard_errors(alignments, Sides(drawn, protocol, 0))
    assert kind == "sd of external"
    external = _clipmem(drawn, alignments, protocol)[drawn.group == "external"]
    np.testing.assert_allclose(errors, np.std(external, ddof=1))


def _p_of_one_pair_an_audit(drawn: Membership, groups: list[str], *, audits: int, spread: float) -> np.ndarray:
    """Return p of one random pair in each of many audits of pure noise, whose members differ by an offset.

    Pairs of one audit share its null, so their p values would not be independent.
    """
    rng, judged = np.random.default_rng(0), np.flatnonzero(np.isin(drawn.group, groups))
    protocol = "paper" if drawn.members[0] == "f-0" else "ensemble"
    offsets = spread * np.arange(len(drawn.members))[:, None]
    p = []
    for _ in range(audits):
        alignments = list(rng.normal(size=drawn.trained.shape) + offsets)
        null = null_scores(alignments, Sides(drawn, protocol, 0))
        p.append(p_values(_clipmem(drawn, alignments, protocol), null, drawn.group)[rng.choice(judged)])
    return np.array(p)


@pytest.mark.parametrize("group", ["candidate", "independent"])
def test_p_is_uniform_on_noise_in_the_paper(group: str) -> None:
    drawn, _ = _paper(250)
    p = _p_of_one_pair_an_audit(drawn, [group], audits=1_500, spread=0.3)
    steps = p * 51  # exactly 1 to 51 with 50 external pairs; spread evenly between the steps it is continuous
    assert kstest((steps - np.random.default_rng(1).random(len(p))) / 51, "uniform").pvalue > 0.01
    np.testing.assert_allclose(steps, steps.round())


@pytest.mark.parametrize(("folds", "repeats"), [(2, 2), (3, 1)])
def test_p_is_uniform_on_noise_in_an_ensemble_of_members_that_differ(folds: int, repeats: int) -> None:
    drawn, _ = _ensemble(250, folds=folds, repeats=repeats)
    p = _p_of_one_pair_an_audit(drawn, ["scored"], audits=1_500, spread=0.3)
    assert kstest(p, "uniform").pvalue > 0.01


def test_the_null_of_many_members_is_sampled_and_has_the_spread_of_scored_pairs() -> None:
    drawn, alignments = _ensemble(4_400, folds=2, repeats=9)
    null = null_scores(alignments, Sides(drawn, "ensemble", 0))
    assert len(null) == 400 * 256
    scored = _clipmem(drawn, alignments, "ensemble")[drawn.group == "scored"]
    assert null.std() == pytest.approx(scored.std(), rel=0.1)


def test_memorized_pairs_have_small_p_on_both_sides_of_zero() -> None:
    drawn, alignments = _paper(memorized=8.0)
    null = null_scores(alignments, Sides(drawn, "paper", 0))
    p = p_values(_clipmem(drawn, alignments, "paper"), null, drawn.group)
    assert np.median(p[np.isin(drawn.group, ["candidate", "independent"])]) == 1 / 201
    assert np.median(p[drawn.group == "shared"]) > 0.3


def test_p_counts_the_null_by_hand_and_keeps_missing_scores_missing() -> None:
    clipmem, null = np.array([0.3, -0.3, 0.1, np.nan]), np.array([0.1, 0.2, -0.4])
    groups = np.array(["candidate", "independent", "scored", "scored"])
    np.testing.assert_allclose(p_values(clipmem, null, groups), [1 / 4, 2 / 4, 3 / 4, np.nan])
    with pytest.raises(ValueError, match="at least one external pair, not none"):
        p_values(clipmem, null[:0], groups)
    p = np.array([0.01, 0.02, 0.03, 0.5, 0.9, 0.04, np.nan])
    groups = np.array(["candidate"] * 3 + ["independent", "shared", "independent", "candidate"])
    np.testing.assert_allclose(q_values(p, groups), [0.03, 0.03, 0.03, 0.5, np.nan, 0.08, np.nan])


def test_three_seeds_give_a_t_interval_over_the_means_of_each_seed() -> None:
    drawn, alignments = _paper(seeds=3, memorized=1.0)
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
    for protocol, (drawn, alignments) in (("paper", _paper(seeds=2)), ("ensemble", _ensemble())):
        summary = group_summary(alignments, Sides(drawn, protocol, 0)).set_index("group")
        external = _clipmem(drawn, alignments, protocol)[drawn.group == "external"]
        assert set(summary["kind"]) == {"SD over pairs"}
        row = summary.loc["external"]
        assert [row["mean"], row["high"] - row["mean"]] == pytest.approx([external.mean(), external.std(ddof=1)])
    drawn, alignments = _ensemble(repeats=3, memorized=1.0)
    summary = group_summary(alignments, Sides(drawn, "ensemble", 0)).set_index("group")
    assert set(summary["kind"]) == {"95% interval over repeats"}
    assert summary.loc["scored", "low"] < 1 < summary.loc["scored", "high"]


def test_membership_auroc_is_sklearns_over_judged_pairs_of_each_member() -> None:
    drawn, alignments = _paper(memorized=1.0)
    values, mean = membership_auroc(alignments, drawn)
    candidate, independent = (np.flatnonzero(drawn.group == name) for name in ("candidate", "independent"))
    f = np.concatenate([alignments[0][candidate], alignments[0][independent]])
    assert values[0] == pytest.approx(roc_auc_score([1] * 200 + [0] * 200, f))
    assert mean == pytest.approx(values.mean())
    assert 0.7 < mean < 0.82
    drawn, alignments = _ensemble(250)
    everything = Membership(drawn.group, drawn.members, np.ones_like(drawn.trained))
    values, mean = membership_auroc(alignments, everything)
    assert np.isnan(values).all()
    assert np.isnan(mean)


def test_ranking_stability_is_the_rank_correlation_of_two_disjoint_halves() -> None:
    drawn, alignments = _ensemble(repeats=2)
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
    drawn, alignments = _paper(22_000, seeds=2, memorized=5.0)
    assert abs(ranking_stability(alignments, Sides(drawn, "paper", 0))) < 0.06


def test_stability_is_unknown_with_one_seed_or_equal_scores() -> None:
    drawn, alignments = _paper()
    assert np.isnan(ranking_stability(alignments, Sides(drawn, "paper", 0)))
    drawn, _ = _ensemble(250)
    assert np.isnan(ranking_stability([np.zeros(250)] * 4, Sides(drawn, "ensemble", 0)))
    assert np.isnan(ranking_reliability(float("nan")))
    assert ranking_reliability(1.0) == ranking_reliability(1.0, 5) == 1.0
