import numpy as np
import pytest
from scipy.stats import f, ttest_1samp, ttest_ind

from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.membership import ensemble_membership
from clipmem_core.scores.moderated import design, error_variances, fit_prior, moderate


def _drawn(*, folds: int, repeats: int, halves: bool) -> tuple[list[np.ndarray], Sides]:
    drawn = ensemble_membership(np.arange(250), folds=folds, repeats=repeats, seed=0, halves=halves)
    values = np.random.default_rng(0).normal(size=drawn.trained.shape) + np.arange(len(drawn.members))[:, None] / 10
    return list(values), Sides(drawn, "ensemble", 0)


@pytest.mark.parametrize(
    ("folds", "repeats", "halves", "degrees"), [(2, 3, False, 2), (4, 1, True, 2), (4, 2, True, 5), (8, 2, True, 13)]
)
def test_the_error_is_that_of_a_regression_on_side_and_repeat(
    folds: int, repeats: int, halves: bool, degrees: int
) -> None:
    alignments, sides = _drawn(folds=folds, repeats=repeats, halves=halves)
    plan = design(sides.inside, sides.replicates)
    found = error_variances(alignments, sides.inside, plan)
    repeat = np.kron(np.eye(repeats), np.ones((folds, 1)))
    for pair in range(0, 250, 40):
        regressors = np.column_stack([sides.inside[:, pair], repeat])
        _, squares, rank, _ = np.linalg.lstsq(regressors, np.stack(alignments)[:, pair])
        variance = squares[0] / degrees * np.linalg.inv(regressors.T @ regressors)[0, 0]
        assert found[pair] == pytest.approx(variance)
        assert folds * repeats - rank == plan.degrees == degrees


def test_with_more_members_in_than_out_the_error_is_that_of_the_differences_of_repeats() -> None:
    alignments, sides = _drawn(folds=4, repeats=3, halves=False)
    plan = design(sides.inside, sides.replicates)
    found, values = error_variances(alignments, sides.inside, plan), np.stack(alignments)
    mean_in, mean_out = side_means(alignments, sides.inside)
    for pair in range(0, 250, 40):
        own, inside = values[:, pair].reshape(3, 4), sides.inside[:, pair].reshape(3, 4)
        differences = [row[side].mean() - row[~side].mean() for row, side in zip(own, inside, strict=True)]
        expected = (mean_in - mean_out)[pair] / ttest_1samp(differences, 0).statistic
        assert found[pair] == pytest.approx(expected**2)
    assert plan.degrees == 2


def test_members_that_were_given_without_a_plan_are_two_samples() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random((9, 60)) < 0.5
    inside[:2], inside[2:4] = True, False
    values, plan = rng.normal(size=(9, 60)), design(inside, [np.arange(4), np.arange(4, 9)])
    found = error_variances(list(values), inside, plan)
    for pair in range(60):
        one, other = values[inside[:, pair], pair], values[~inside[:, pair], pair]
        assert found[pair] == pytest.approx(((one.mean() - other.mean()) / ttest_ind(one, other).statistic) ** 2)
    assert plan.degrees == 7


@pytest.mark.parametrize(("folds", "repeats"), [(3, 1), (2, 1), (8, 1)])
def test_one_repeat_of_folds_says_nothing_of_the_error(folds: int, repeats: int) -> None:
    _, sides = _drawn(folds=folds, repeats=repeats, halves=False)
    assert design(sides.inside, sides.replicates).degrees == 0


@pytest.mark.parametrize(("degrees", "d0"), [(1, 4), (2, 3), (13, 20)])
def test_a_prior_is_found_again_with_its_trend(degrees: int, d0: float) -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=40_000)
    scale = np.exp(0.5 * level)
    variance = scale * f.rvs(degrees, d0, size=40_000, random_state=rng)
    prior = fit_prior(variance, degrees, level)
    assert prior.degrees == pytest.approx(d0, rel=0.15)
    inner = np.abs(level) < 2
    np.testing.assert_allclose(prior.scale[inner], scale[inner], rtol=0.15)


def test_variances_that_differ_by_sampling_alone_are_one() -> None:
    rng = np.random.default_rng(3)
    variance = 2 * rng.chisquare(5, 20_000) / 5
    prior = fit_prior(variance, 5, rng.normal(size=20_000))
    assert prior.degrees > 200
    assert np.quantile(moderate(variance, 5, prior), [0.01, 0.99]) == pytest.approx([2, 2], rel=0.1)


def test_pairs_that_never_vary_have_no_prior() -> None:
    variance = np.array([0.0, 0.0, 0.0, 0.3])
    prior = fit_prior(variance, 2, np.zeros(4))
    assert prior.degrees == 0
    assert moderate(variance, 2, prior).tolist() == variance.tolist()
