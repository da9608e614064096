import math

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_t, norm, spearmanr
from sklearn.metrics import roc_auc_score, roc_curve

from clipmem_core.scores import attacks
from clipmem_core.scores.attacks import Attacked, Shadows, attack, attack_table, roc
from clipmem_core.scores.membership import InOut
from clipmem_core.utils import draws
from tests.scores.simulated import ensemble_in_out, paper_in_out

ALIGNMENT, BAVARIA, LIRA, RMIA = ATTACKS = ("alignment", "bavaria", "lira", "rmia")


def drawn_members(
    trained: np.ndarray, *, memorized: float = 1.0, uneven: float = 0.0, seed: int = 0
) -> list[np.ndarray]:
    """Alignments of pairs that differ, under members that differ by an offset, with noise of σ 1
    about."""
    rng = np.random.default_rng(seed)
    members, pairs = trained.shape
    noise = np.exp(uneven * rng.normal(size=pairs)) * rng.normal(size=(members, pairs))
    return list(
        rng.normal(size=pairs) + noise + 0.3 * np.arange(members)[:, None] + memorized * trained
    )


def attacked(in_out: InOut, **how: float) -> list[Attacked]:
    """The result of attacking drawn members."""
    alignments = drawn_members(in_out.membership.trained, **how)
    return attack(alignments, in_out, np.flatnonzero(~in_out.held_out))


def test_many_shadows_give_the_best_attack() -> None:
    """Gaussian noise of σ 1 about a mean that training moves by 1.5: by Neyman and Pearson nothing
    beats the value itself less the pair's own mean, whose AUROC is Φ(1.5 / √2) and which finds
    Φ(1.5 − z) at a rate of false alarms."""
    found = attacked(ensemble_in_out(5_500, folds=64, replicates=1, halves=True), memorized=1.5)[
        ::16
    ]
    table = attack_table(found, n_boot=20, seed=0).set_index(["attack", "measure"])["value"]
    assert table[BAVARIA, "auroc"] == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.008)
    for rate, noise in ((0.01, 0.02), (0.001, 0.03)):
        expected = norm.cdf(1.5 - norm.isf(rate))
        assert table[BAVARIA, f"TPR@{rate}"] == pytest.approx(expected, abs=noise)
    # The spread of the pairs is in it
    assert table[ALIGNMENT, "auroc"] == pytest.approx(norm.cdf(1.5 / 2), abs=0.008)


@pytest.mark.parametrize(
    "in_out",
    [ensemble_in_out(1_100), ensemble_in_out(1_100, folds=4), paper_in_out(2_200, seeds=3)],
    ids=["2 folds", "4 folds", "paper"],
)
def test_no_attack_finds_anything_without_memorization(in_out: InOut) -> None:
    """Neither the number of a pair's shadows nor an offset of a member may show which side the
    target is on."""
    rows = np.flatnonzero(np.isin(in_out.membership.group, ["scored", "candidate", "independent"]))
    runs = []
    for seed in range(12):
        trained = in_out.membership.trained
        alignments = drawn_members(trained, memorized=0.0, uneven=0.5, seed=seed)
        runs.append(attack(alignments, in_out, rows))
    for name in ATTACKS:
        values = np.array([np.mean([roc(one, name)["auroc"] for one in found]) for found in runs])
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - 0.5) < 0.003 + 3 * error, name


def _evidence(values: np.ndarray, centre: float, weight: float, shape: float, rate: float) -> float:
    """Log density of values under a normal–inverse-gamma prior: a multivariate Student t."""
    n = len(values)
    scale = rate / shape * (np.eye(n) + 1 / weight)
    return multivariate_t.logpdf(values, np.full(n, centre), scale, df=2 * shape)


def _fitted(observed: list[np.ndarray], other: list[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Variance and shape of the prior and its mean of each pair, pair by pair from the shadows on
    both sides."""
    squares = np.array([np.var(values, ddof=1) for values in observed])
    freedom = np.array([len(values) - 1 for values in observed])
    variance = float(np.average(squares, weights=freedom))
    ratio = np.mean(squares**2 / (1 + 2 / freedom)) / np.mean(squares) ** 2
    means, others = ([values.mean() for values in side] for side in (observed, other))
    return variance, 2 + 1 / (ratio - 1), np.polyval(np.polyfit(others, means, 1), others)


def test_bavaria_is_a_ratio_of_marginal_likelihoods() -> None:
    rng = np.random.default_rng(0)
    in_out = [
        [rng.normal(pair / 9, 1 + pair % 3, size=4 + pair % 2) for pair in range(30)]
        for _ in range(2)
    ]
    values = rng.normal(size=30)
    statistics = [np.array([(len(x), x.mean(), len(x) * x.var()) for x in side]) for side in in_out]
    packed = [Shadows(*columns.T, noise=1.0) for columns in statistics]
    expected = np.zeros(30)
    for sign, side, other in ((1, *in_out), (-1, *reversed(in_out))):
        variance, shape, line = _fitted(side, other)
        left = np.mean([(x.mean() - at) ** 2 for x, at in zip(side, line, strict=True)])
        between = max(left - variance * np.mean([1 / len(x) for x in side]), 1e-3 * variance)
        prior = (variance / between, shape, variance * (shape - 1))
        for pair in range(30):
            with_it = _evidence(np.append(side[pair], values[pair]), line[pair], *prior)
            expected[pair] += sign * (with_it - _evidence(side[pair], line[pair], *prior))
    np.testing.assert_allclose(attacks.bavaria(values, *packed), expected, rtol=1e-9)


def test_lira_is_a_ratio_of_gaussians_with_the_pooled_variance() -> None:
    count = np.array([2, 2])
    squares = np.array([2.0, 4.0])
    inside, outside = (
        Shadows(count, mean, squares, noise=9.0) for mean in (np.ones(2), np.zeros(2))
    )
    values = np.array([1.0, 0.25])
    deviation = math.sqrt(3)
    expected = norm.logpdf(values, 1, deviation) - norm.logpdf(values, 0, deviation)
    np.testing.assert_allclose(attacks.lira(values, inside, outside), expected)


def test_rmia_ranks_pairs_as_published() -> None:
    """The attack as published, pair by pair of the population, with likelihoods exp(alignment /
    1000)."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=60)
    shadows = rng.normal(size=(2, 5, 60))  # with and without the pair
    others = rng.normal(size=(10, 2_000))
    population = rng.normal(size=2_000)
    ratio = target / 1000 - logsumexp(shadows / 1000, axis=1).mean(axis=0)
    # Ten shadows, not five
    beside = population / 1000 - logsumexp(others / 1000, axis=0) + math.log(2)
    share = [(one >= beside).mean() for one in ratio]
    in_out = (Shadows(np.full(60, 5), side.mean(axis=0), np.zeros(60), 1.0) for side in shadows)
    assert spearmanr(attacks.rmia(target, *in_out), share).statistic > 0.999


def test_no_shadow_is_the_target_or_its_complement() -> None:
    """Alignments of r0-f1, the complement of r0-f0, change nothing for that target."""
    in_out = ensemble_in_out(550, replicates=3)
    rows = np.flatnonzero(~in_out.held_out)
    alignments = drawn_members(in_out.membership.trained)
    before = attack(alignments, in_out, rows)
    alignments[1] = alignments[1] + 5 * ~in_out.held_out
    after = attack(alignments, in_out, rows)
    np.testing.assert_allclose(after[0].scores[RMIA], before[0].scores[RMIA])
    assert not np.allclose(after[2].scores[RMIA], before[2].scores[RMIA])


def test_measures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    trained = rng.random(3_000) < 0.5
    scores = np.round(rng.normal(size=3_000) + trained, 1)
    rates = roc(Attacked(trained, {LIRA: scores}), LIRA)
    assert rates["auroc"] == pytest.approx(roc_auc_score(trained, scores))
    alarms, found, _ = roc_curve(trained, scores, drop_intermediate=False)
    for rate in (0.01, 0.001):
        assert rates[f"TPR@{rate}"] == pytest.approx(found[alarms <= rate].max())


def test_intervals_over_pairs_are_those_of_a_slow_bootstrap() -> None:
    found = attacked(ensemble_in_out(550, folds=4, replicates=1, halves=True))
    row = attack_table(found, n_boot=60, seed=3).set_index(["attack", "measure"])
    row = row.loc[(ALIGNMENT, "auroc")]
    n_pairs = len(found[0].trained)
    rng = draws.rng(3, "attack resamples")
    means = []
    for _ in range(60):
        drawn = rng.integers(n_pairs, size=n_pairs)
        values = [roc_auc_score(one.trained[drawn], one.scores[ALIGNMENT][drawn]) for one in found]
        means.append(np.mean(values))
    expected = np.percentile(means, (2.5, 97.5))
    np.testing.assert_allclose([row["pairs_low"], row["pairs_high"]], expected)


def test_what_cannot_be_measured_is_missing_with_its_reason() -> None:
    table = attack_table(
        attacked(ensemble_in_out(1_100, folds=4, replicates=1, halves=True)), n_boot=5, seed=0
    )
    rows = table[table["attack"] == BAVARIA].set_index("measure")
    assert np.isfinite(rows.loc["TPR@0.01", "value"])
    assert rows.loc["TPR@0.001", ["value", "pairs_low"]].isna().all()
    assert "1,000" in rows.loc["TPR@0.001", "missing"]
