import dataclasses
import math

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score, roc_curve

from clipmem_core.scores import attacks
from clipmem_core.scores.attacks import (
    Attacked,
    Shadows,
    Side,
    attack,
    attack_table,
    roc,
    shadows_of,
)
from clipmem_core.scores.membership import Sides, ensemble_membership, paper_membership

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


def shadows(n_pairs: int, *, folds: int, repeats: int = 1, halves: bool = True) -> Shadows:
    drawn = ensemble_membership(
        np.arange(n_pairs), folds=folds, repeats=repeats, seed=0, halves=halves
    )
    return shadows_of(Sides(drawn, "ensemble", 0))


def test_with_many_shadows_the_attack_is_the_best_there_is() -> None:
    """Gaussian noise of σ 1 about a mean that training moves by 1.5: by Neyman and Pearson nothing
    beats the value itself less the pair's own mean, whose AUROC is Φ(1.5 / √2) and which finds
    Φ(1.5 − z) at a rate of false alarms."""
    among = shadows(5_500, folds=64)
    among = dataclasses.replace(among, attacked=among.attacked & (np.arange(64) % 16 == 0)[:, None])
    alignments = drawn_members(among.trained, memorized=1.5)
    found = [
        one for one in attack(alignments, among, attacks=(BAVARIA, ALIGNMENT)) if len(one.rows)
    ]
    table = attack_table(found, n_boot=20, seed=0).set_index(["attack", "measure"])["value"]
    assert table[BAVARIA, "auroc"] == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.008)
    for rate in (0.01, 0.001):
        assert table[BAVARIA, f"TPR@{rate}"] == pytest.approx(
            norm.cdf(1.5 - norm.isf(rate)), abs=0.02
        )
    assert table[ALIGNMENT, "auroc"] == pytest.approx(
        norm.cdf(1.5 / 2), abs=0.008
    )  # the pairs' own spread is in it


DESIGNS = {
    "2 folds": shadows(1_100, folds=2, repeats=2, halves=False),
    "halves": shadows(1_100, folds=8, repeats=2),
    "4 folds": shadows(1_100, folds=4, repeats=2, halves=False),
    "paper": shadows_of(Sides(paper_membership(np.arange(2_200), seeds=3, seed=0), "paper", 0)),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_where_nothing_is_memorized_no_attack_finds_anything(design: str) -> None:
    """Neither the number of a pair's shadows nor an offset of a member may show which side the
    target is on."""
    among = DESIGNS[design]
    draws = (
        drawn_members(among.trained, memorized=0.0, uneven=0.5, seed=seed) for seed in range(12)
    )
    runs = [attack(alignments, among) for alignments in draws]
    for name in ATTACKS:
        values = np.array([np.mean([roc(one, name)["auroc"] for one in found]) for found in runs])
        assert abs(values.mean() - 0.5) < 0.003 + 3 * values.std(ddof=1) / math.sqrt(len(values)), (
            name
        )


def _evidence(values: np.ndarray, centre: float, weight: float, shape: float, rate: float) -> float:
    """Log density of values under a normal–inverse-gamma prior (Murphy 2007, equation 95)."""
    n = len(values)
    mean = np.mean(values) if len(values) else 0.0
    late = (
        rate
        + np.sum((values - mean) ** 2) / 2
        + weight * n * (mean - centre) ** 2 / (2 * (weight + n))
    )
    grown = (
        gammaln(shape + n / 2)
        - gammaln(shape)
        + shape * math.log(rate)
        - (shape + n / 2) * math.log(late)
    )
    return grown + 0.5 * math.log(weight / (weight + n)) - n / 2 * math.log(2 * math.pi)


def _fitted(own: list[np.ndarray], other: list[np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Variance and shape of the prior and its mean of each pair, pair by pair from the shadows on
    both sides."""
    freedom = [len(values) - 1 for values in own]
    squares = [np.var(values, ddof=1) for values in own]
    variance = np.average(squares, weights=freedom)
    ratio = (
        np.mean([s**2 / (1 + 2 / d) for s, d in zip(squares, freedom, strict=True)])
        / np.mean(squares) ** 2
    )
    shape = min(2 + 1 / (ratio - 1), 50.0) if ratio > 1 else 50.0
    means, others = ([values.mean() for values in side] for side in (own, other))
    return float(variance), shape, np.polyval(np.polyfit(others, means, 1), others)


def test_bavaria_is_the_ratio_of_marginal_likelihoods_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    sides = [
        [rng.normal(pair / 9, 1 + pair % 3, size=4 + pair % 2) for pair in range(30)]
        for _ in range(2)
    ]
    values = rng.normal(size=30)
    packed = [
        Side(*np.array([(len(x), x.mean(), ((x - x.mean()) ** 2).sum()) for x in side]).T)
        for side in sides
    ]
    expected = np.zeros(30)
    for sign, own, other in ((1, *sides), (-1, *reversed(sides))):
        variance, shape, line = _fitted(own, other)
        left = np.mean([(x.mean() - at) ** 2 for x, at in zip(own, line, strict=True)])
        between = max(left - variance * np.mean([1 / len(x) for x in own]), 1e-3 * variance)
        prior = (variance / between, shape, variance * (shape - 1))
        for pair in range(30):
            with_it = _evidence(np.append(own[pair], values[pair]), line[pair], *prior)
            expected[pair] += sign * (with_it - _evidence(own[pair], line[pair], *prior))
    np.testing.assert_allclose(attacks.bavaria(values, *packed, noise=1.0), expected, rtol=1e-9)


def test_lira_is_the_ratio_of_gaussians_with_the_pooled_variance() -> None:
    inside, outside = (
        Side(np.array([2, 2]), mean, np.array([2.0, 4.0])) for mean in (np.ones(2), np.zeros(2))
    )
    values = np.array([1.0, 0.25])
    expected = [norm.logpdf(x, 1, math.sqrt(3)) - norm.logpdf(x, 0, math.sqrt(3)) for x in values]
    np.testing.assert_allclose(attacks.lira(values, inside, outside, noise=9.0), expected)


def test_rmia_ranks_pairs_as_the_share_of_population_pairs_they_beat() -> None:
    """The attack as published, pair by pair of the population, with likelihoods exp(alignment /
    1000)."""
    rng = np.random.default_rng(0)
    # with and without the pair
    target = rng.normal(size=60)
    shadows = rng.normal(size=(2, 5, 60))
    others = rng.normal(size=(10, 2_000))
    population = rng.normal(size=2_000)
    ratio = target / 1000 - np.mean([logsumexp(side / 1000, axis=0) for side in shadows], axis=0)
    beside = (
        population / 1000 - logsumexp(others / 1000, axis=0) + math.log(2)
    )  # ten shadows, not five
    share = [(one >= beside).mean() for one in ratio]
    ours = attacks.rmia(
        target,
        *(Side(np.full(60, 5), side.mean(axis=0), np.zeros(60)) for side in shadows),
        noise=1.0,
    )
    assert spearmanr(ours, share).statistic > 0.999


def test_a_target_is_compared_with_the_others_alone_and_one_of_its_repeat_less() -> None:
    """Alignments of the target, and of its complement in the repeat, move no shadow's mean."""
    among = shadows(550, folds=2, repeats=3, halves=False)
    alignments = drawn_members(among.trained)
    before = attack(alignments, among, attacks=(RMIA,))
    changed = [
        values + 5 * (row == 1) * among.attacked[row] for row, values in enumerate(alignments)
    ]
    after = attack(changed, among, attacks=(RMIA,))
    np.testing.assert_allclose(
        after[0].scores[RMIA], before[0].scores[RMIA]
    )  # r0-f1 is the complement of r0-f0
    assert not np.allclose(after[2].scores[RMIA], before[2].scores[RMIA])


def test_the_measures_are_those_of_scikit_learn_ties_counting_against_the_attack() -> None:
    rng = np.random.default_rng(0)
    trained = rng.random(3_000) < 0.5
    scores = np.round(rng.normal(size=3_000) + trained, 1)
    rates = roc(Attacked(np.arange(3_000), trained, {LIRA: scores}), LIRA)
    assert rates["auroc"] == pytest.approx(roc_auc_score(trained, scores))
    alarms, found, _ = roc_curve(trained, scores, drop_intermediate=False)
    for rate in (0.01, 0.001):
        assert rates[f"TPR@{rate}"] == pytest.approx(found[alarms <= rate].max())


def test_intervals_over_pairs_are_those_of_pairs_drawn_anew() -> None:
    among = shadows(550, folds=4)
    found = attack(drawn_members(among.trained), among, attacks=(ALIGNMENT,))
    table = attack_table(found, n_boot=60, seed=3).set_index("measure")
    pairs = found[0].rows
    rng = np.random.default_rng([3, 6])
    means = []
    for _ in range(60):
        drawn = rng.integers(len(pairs), size=len(pairs))
        means.append(
            np.mean(
                [roc_auc_score(one.trained[drawn], one.scores[ALIGNMENT][drawn]) for one in found]
            )
        )
    row = table.loc["auroc"]
    np.testing.assert_allclose(
        [row["pairs_low"], row["pairs_high"]], np.percentile(means, (2.5, 97.5))
    )


def test_a_rate_below_one_false_alarm_and_an_attack_without_shadows_are_absent() -> None:
    among = shadows(1_100, folds=4)
    table = attack_table(attack(drawn_members(among.trained), among), n_boot=5, seed=0)
    rows = table[table["attack"] == BAVARIA].set_index("measure")
    assert np.isfinite(rows.loc["TPR@0.01", "value"])
    assert rows.loc["TPR@0.001", ["value", "pairs_low"]].isna().all()
    assert rows.loc["TPR@0.001", "missing"].startswith(
        "needs 1,000 pairs that a member was not trained on"
    )
    among = shadows(550, folds=4, halves=False)  # one of four leaves a pair out
    found = attack(drawn_members(among.trained), among)
    rows = attack_table(found, n_boot=5, seed=0).query("measure == 'auroc'").set_index("attack")
    assert rows["value"].isna().to_dict() == {
        BAVARIA: True,
        LIRA: True,
        RMIA: True,
        ALIGNMENT: False,
    }
    assert rows.loc[BAVARIA, "missing"] == "some pair has no shadow on one side"
