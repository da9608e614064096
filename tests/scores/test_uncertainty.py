import numpy as np
import pytest
from scipy.stats import f, kstest

from clipmem_core.scores import uncertainty
from clipmem_core.scores.uncertainty import Errors, fit_prior, share_above, shrunk_by_group
from tests.scores.simulated import ensemble_in_out, noisy, p_of, paper_in_out, simulate


@pytest.mark.parametrize(
    ("folds", "replicates", "halves", "degrees"), [(2, 3, False, 2), (8, 2, True, 13)]
)
def test_the_error_is_that_of_a_regression_on_side_and_repeat(
    folds: int, replicates: int, halves: bool, degrees: int
) -> None:
    in_out = ensemble_in_out(250, folds=folds, replicates=replicates, halves=halves)
    _, alignments = noisy(in_out)
    own = uncertainty.degrees_of_freedom(in_out.inside, in_out.replicates)
    found = uncertainty.error_variances(alignments, in_out.inside, in_out.replicates, own)
    replicate = np.kron(np.eye(replicates), np.ones((folds, 1)))
    for pair in range(0, 250, 40):
        regressors = np.column_stack([in_out.inside[:, pair], replicate])
        _, squares, rank, _ = np.linalg.lstsq(regressors, np.stack(alignments)[:, pair])
        variance = squares[0] / degrees * np.linalg.inv(regressors.T @ regressors)[0, 0]
        assert found[pair] == pytest.approx(variance)
        assert folds * replicates - rank == own == degrees


def test_a_prior_is_found_again_with_its_trend() -> None:
    degrees, d0 = 2, 3
    rng = np.random.default_rng(0)
    level = rng.normal(size=40_000)
    scale = np.exp(0.5 * level)
    inner = np.abs(level) < 2
    variance = scale * f.rvs(degrees, d0, size=40_000, random_state=rng)
    found, found_d0 = fit_prior(variance, degrees, level)
    assert found_d0 == pytest.approx(d0, rel=0.15)
    np.testing.assert_allclose(found[inner], scale[inner], rtol=0.15)


SIZES = np.array([0.2, 0.3, 0.45])


def errors_of(error: np.ndarray) -> Errors:
    """Normal errors."""
    return Errors(error**2, np.full(len(error), 1e9), error**2, 0)


def test_normal_values_shrink_by_the_formula() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.3, 0.2, size=20_000)
    seen = true + 0.1 * rng.normal(size=20_000)
    expected = 0.3 + (seen - 0.3) * 0.04 / (0.04 + 0.01)
    inner = np.abs(seen - 0.3) < 0.4
    errors = errors_of(np.full(20_000, 0.1))
    found = shrunk_by_group(seen, errors, np.full(20_000, "scored"), seed=0)
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.03)


def test_the_share_above_a_size_is_within_its_interval() -> None:
    """Thirty sets at three sizes of three times the noise and more: three pairs in ten memorized,
    and noisier."""
    inside = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        true = np.where(rng.random(600) < 0.7, 0.0, rng.exponential(0.2, 600))
        error = 0.06 * np.exp(0.3 * rng.normal(size=600)) * (1 + true)
        seen = true + error * rng.normal(size=600)
        table = share_above(seen, errors_of(error), np.arange(600), SIZES, seed=seed)
        share = (true[:, None] >= SIZES).mean(axis=0)
        inside.append((table["low"] <= share) & (share <= table["high"]))
    assert np.mean(inside) >= 0.93  # 90 intervals of 95 %


def test_too_few_pairs_have_no_distribution() -> None:
    seen = np.arange(49)
    errors = errors_of(np.ones(49))
    assert np.isnan(shrunk_by_group(seen, errors, np.full(49, "scored"), seed=0)).all()
    assert share_above(seen, errors, seen, SIZES, seed=0).empty


def test_p_is_uniform_on_noise_in_the_paper() -> None:
    """One random pair of each audit, since pairs of one audit share its null; g is higher than f by
    an offset."""
    in_out = paper_in_out(250)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(in_out.membership.group == "candidate")
    audits = (list(rng.normal(size=(2, 250)) + [[0], [0.3]]) for _ in range(1_000))
    p = np.array([p_of(alignments, in_out)[rng.choice(rows)] for alignments in audits])
    # Exactly 1 to 51 with 50 held-out pairs; spread evenly between the steps it is continuous
    steps = p * 51
    np.testing.assert_allclose(steps, steps.round())
    assert kstest((steps - np.random.default_rng(1).random(len(p))) / 51, "uniform").pvalue > 0.01


def test_q_is_the_share_of_false_finds_at_most() -> None:
    false = []
    power = []
    for seed in range(3):
        drawn = simulate(seed, held_out_noise=0.8, memorized=0.1)
        found = (
            uncertainty.q_values(
                p_of(drawn.alignments, drawn.in_out), drawn.in_out.membership.group
            )
            <= 0.1
        )
        real = drawn.true > 0
        false.append((found & ~real).sum() / max(found.sum(), 1))
        power.append(found[drawn.scored & real].mean())
    assert np.mean(false) <= 0.1
    assert np.mean(power) > 0.3


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


@pytest.mark.parametrize(("members", "folds", "halves"), [(16, 8, True), (8, 4, False)])
def test_clipmem_within_196_errors_covers_95_in_100_pairs(
    members: int, folds: int, halves: bool
) -> None:
    """2,000 scored pairs each, log-normal noise of σ 0.5, members with offsets, and members of a
    repeat that differ."""
    covered = []
    for seed in (0, 1):
        drawn = simulate(seed, members=members, folds=folds, halves=halves)
        off = np.abs(drawn.clipmem - drawn.true) / drawn.errors.se
        covered.append((off <= 1.96)[drawn.scored].mean())
    assert 0.93 <= np.mean(covered) <= 0.97
