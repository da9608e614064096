import numpy as np
import pytest
from scipy.stats import f, kstest, t, ttest_1samp, ttest_ind

from clipmem_core.scores import uncertainty
from clipmem_core.scores.membership import Sides, ensemble_membership, replicate_clipmem, side_means
from clipmem_core.scores.uncertainty import Noise, fit_prior, share_above, shrunk, standard_errors
from tests.scores.simulated import NOISE, noisy_ensemble, noisy_paper, p_of, simulate


def _drawn(*, folds: int, repeats: int, halves: bool) -> tuple[list[np.ndarray], Sides]:
    drawn = ensemble_membership(np.arange(250), folds=folds, repeats=repeats, seed=0, halves=halves)
    values = (
        np.random.default_rng(0).normal(size=drawn.trained.shape)
        + np.arange(len(drawn.members))[:, None] / 10
    )
    return list(values), Sides(drawn, "ensemble", 0)


@pytest.mark.parametrize(
    ("folds", "repeats", "halves", "degrees"),
    [(2, 3, False, 2), (4, 1, True, 2), (4, 2, True, 5), (8, 2, True, 13)],
)
def test_the_error_is_that_of_a_regression_on_side_and_repeat(
    folds: int, repeats: int, halves: bool, degrees: int
) -> None:
    alignments, sides = _drawn(folds=folds, repeats=repeats, halves=halves)
    plan = uncertainty.design(sides.inside, sides.replicates)
    found = uncertainty.error_variances(alignments, sides.inside, plan)
    repeat = np.kron(np.eye(repeats), np.ones((folds, 1)))
    for pair in range(0, 250, 40):
        regressors = np.column_stack([sides.inside[:, pair], repeat])
        _, squares, rank, _ = np.linalg.lstsq(regressors, np.stack(alignments)[:, pair])
        variance = squares[0] / degrees * np.linalg.inv(regressors.T @ regressors)[0, 0]
        assert found[pair] == pytest.approx(variance)
        assert folds * repeats - rank == plan.degrees == degrees


def test_with_more_members_in_than_out_the_error_is_that_of_the_differences_of_repeats() -> None:
    alignments, sides = _drawn(folds=4, repeats=3, halves=False)
    plan = uncertainty.design(sides.inside, sides.replicates)
    found = uncertainty.error_variances(alignments, sides.inside, plan)
    differences = replicate_clipmem(alignments, sides.replicates, sides.inside)
    np.testing.assert_allclose(
        found, (differences.mean(axis=0) / ttest_1samp(differences, 0).statistic) ** 2
    )
    assert plan.degrees == 2


def test_members_that_were_given_without_a_plan_are_two_samples() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random((9, 60)) < 0.5
    inside[:2] = True
    inside[2:4] = False
    values = rng.normal(size=(9, 60))
    plan = uncertainty.design(inside, [np.arange(4), np.arange(4, 9)])
    found = uncertainty.error_variances(list(values), inside, plan)
    for pair in range(60):
        one = values[inside[:, pair], pair]
        other = values[~inside[:, pair], pair]
        assert found[pair] == pytest.approx(
            ((one.mean() - other.mean()) / ttest_ind(one, other).statistic) ** 2
        )
    assert plan.degrees == 7


@pytest.mark.parametrize(("degrees", "d0"), [(1, 4), (2, 3), (13, 20)])
def test_a_prior_is_found_again_with_its_trend(degrees: int, d0: float) -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=40_000)
    scale = np.exp(0.5 * level)
    inner = np.abs(level) < 2
    variance = scale * f.rvs(degrees, d0, size=40_000, random_state=rng)
    prior = fit_prior(variance, degrees, level)
    assert prior.degrees == pytest.approx(d0, rel=0.15)
    np.testing.assert_allclose(prior.scale[inner], scale[inner], rtol=0.15)


SIZES = np.array([0.2, 0.3, 0.45])


def test_shrunken_values_of_normal_ones_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.3, 0.2, size=20_000)
    seen = true + 0.1 * rng.normal(size=20_000)
    expected = 0.3 + (seen - 0.3) * 0.04 / (0.04 + 0.01)
    inner = np.abs(seen - 0.3) < 0.4
    found = shrunk(seen, Noise(np.full(20_000, 0.1), np.inf), seed=0)
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.03)


@pytest.mark.parametrize("members", [4, 16])
def test_the_top_of_a_list_is_as_high_as_its_shrunken_values_say(members: int) -> None:
    """The 50 pairs of highest clipmem of each of four audits, against what is true of them."""
    means = []
    for seed in range(4):
        drawn = simulate(seed, members=members, folds=4)
        found = uncertainty.shrunk_by_group(
            drawn.clipmem, drawn.errors, drawn.sides.membership.group, seed=0
        )
        assert np.isnan(found[drawn.sides.external]).all()
        top = np.argsort(np.where(drawn.scored, -drawn.clipmem, np.inf))[:50]
        means.append([values[top].mean() for values in (drawn.clipmem, found, drawn.true)])
    raw, expected, true = np.mean(means, axis=0)
    assert expected == pytest.approx(true, abs=0.02)
    assert raw > true + 0.25 * NOISE * np.sqrt(4 / members)


def test_the_share_above_a_size_is_within_its_interval() -> None:
    """Thirty sets at three sizes of three times the noise and more: three pairs in ten memorized,
    and noisier."""
    inside = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        true = np.where(rng.random(600) < 0.7, 0.0, rng.exponential(0.2, 600))
        error = 0.06 * np.exp(0.3 * rng.normal(size=600)) * (1 + true)
        table = share_above(
            true + error * rng.normal(size=600), Noise(error, np.inf), SIZES, seed=seed
        )
        share = (true[:, None] >= SIZES).mean(axis=0)
        inside.append((table["low"] <= share) & (share <= table["high"]))
    assert np.mean(inside) >= 0.93  # 90 intervals of 95 %


@pytest.mark.parametrize("seen", [np.arange(49.0), np.zeros(200)])
def test_too_few_pairs_or_equal_ones_have_no_distribution(seen: np.ndarray) -> None:
    noise = Noise(np.ones(len(seen)), 5.0)
    assert np.isnan(shrunk(seen, noise, seed=0)).all()
    assert share_above(seen, noise, SIZES, seed=0).empty


@pytest.mark.parametrize("group", ["candidate", "independent"])
def test_p_is_uniform_on_noise_in_the_paper(group: str) -> None:
    """One random pair of each audit, since pairs of one audit share its null; g is higher than f by
    an offset."""
    drawn = noisy_paper(250)[0]
    rng = np.random.default_rng(0)
    sides = Sides(drawn, "paper", 0)
    rows = np.flatnonzero(drawn.group == group)
    audits = (list(rng.normal(size=drawn.trained.shape) + [[0], [0.3]]) for _ in range(1_000))
    p = np.array([p_of(alignments, sides)[rng.choice(rows)] for alignments in audits])
    steps = (
        p * 51
    )  # exactly 1 to 51 with 50 external pairs; spread evenly between the steps it is continuous
    assert kstest((steps - np.random.default_rng(1).random(len(p))) / 51, "uniform").pvalue > 0.01
    np.testing.assert_allclose(steps, steps.round())


def test_an_offset_that_all_pairs_share_is_no_memorization() -> None:
    """f is better than g by half a standard deviation, in all four seeds."""
    drawn, alignments = noisy_paper(seeds=4)
    alignments = [values + 0.5 * (row % 2 == 0) for row, values in enumerate(alignments)]
    p = p_of(alignments, Sides(drawn, "paper", 0))
    for group in ("candidate", "independent", "shared"):
        assert (p[drawn.group == group] <= 0.05).mean() < 0.12


def test_noisy_pairs_are_called_memorized_no_more_often_than_quiet_ones() -> None:
    """Log-normal noise of σ 0.5 over pairs that nobody memorized, 16 members: P(p ≤ 0.05) in each
    tenth of it."""
    tenths = []
    for drawn in (simulate(seed, memorized=0.0) for seed in range(3)):
        by_noise = np.argsort(drawn.noise[drawn.scored])
        tenths.append(np.mean(np.split((drawn.p() <= 0.05)[drawn.scored][by_noise], 10), axis=1))
    found = np.mean(tenths, axis=0)  # of 600 pairs each
    assert found.mean() == pytest.approx(0.05, abs=0.015)
    assert found.min() > 0.005
    assert found.max() < 0.085


@pytest.mark.parametrize(
    "other", [{}, {"external_noise": 0.8}, {"external_noise": 0.8, "memorized": 0.1}]
)
def test_of_what_q_finds_at_most_the_share_it_says_is_false(other: dict[str, float]) -> None:
    found = [simulate(seed, **other).false_finds(0.1) for seed in range(3)]  # type: ignore[arg-type]
    false, power = np.mean(found, axis=0)
    assert false <= 0.1
    assert power > 0.3


def test_p_and_q_by_hand() -> None:
    clipmem = np.array([0.3, -0.3, 0.1, np.nan])
    null = np.array([0.1, 0.2, -0.4])
    groups = np.array(["candidate", "independent", "scored", "scored"])
    np.testing.assert_allclose(
        uncertainty.p_values(clipmem, null, groups), [1 / 4, 2 / 4, 3 / 4, np.nan]
    )
    p = np.array([0.01, 0.02, 0.03, 0.5, 0.9, 0.04, np.nan])
    groups = np.array(["candidate"] * 3 + ["independent", "shared", "independent", "candidate"])
    np.testing.assert_allclose(
        uncertainty.q_values(p, groups), [0.03, 0.03, 0.03, 0.5, np.nan, 0.08, np.nan]
    )


@pytest.mark.parametrize("protocol", ["paper", "ensemble"])
def test_with_one_member_on_a_side_the_error_is_the_spread_of_external_pairs(protocol: str) -> None:
    drawn, alignments = noisy_paper() if protocol == "paper" else noisy_ensemble(folds=3, repeats=1)
    sides = Sides(drawn, protocol, 0)
    errors = standard_errors(alignments, sides)
    clipmem = np.subtract(*side_means(alignments, sides.inside))
    assert errors.kind == "sd of external"
    np.testing.assert_allclose(errors.se, np.std(clipmem[drawn.group == "external"], ddof=1))


def test_the_error_is_the_posterior_variance_widened_by_students_t() -> None:
    drawn, alignments = noisy_paper(550, seeds=4)
    errors = standard_errors(alignments, Sides(drawn, "paper", 0))
    candidates = drawn.group == "candidate"
    own = (
        np.var(np.stack(alignments[0::2]) - np.stack(alignments[1::2]), axis=0, ddof=1)[candidates]
        / 4
    )
    prior = fit_prior(own, 3, np.mean(alignments, axis=0)[candidates])
    d0 = min(prior.degrees, 1e9)
    np.testing.assert_allclose(
        errors.variance[candidates], (3 * own + d0 * prior.scale) / (3 + d0), rtol=1e-6
    )
    np.testing.assert_allclose(
        errors.se, np.sqrt(errors.variance) * t.ppf(0.975, errors.degrees) / 1.959964
    )
    assert errors.kind == "moderated"


@pytest.mark.parametrize(
    ("members", "folds", "halves"),
    [(4, 2, False), (4, 4, True), (8, 8, True), (16, 8, True), (16, 2, False), (8, 4, False)],
)
def test_clipmem_within_196_errors_covers_95_in_100_pairs(
    members: int, folds: int, halves: bool
) -> None:
    """2,000 scored pairs each, log-normal noise of σ 0.5, members with offsets, and members of a
    repeat that differ."""
    covered = [
        simulate(seed, members=members, folds=folds, halves=halves).covered() for seed in (0, 1)
    ]
    assert 0.93 <= np.mean(covered) <= 0.97
