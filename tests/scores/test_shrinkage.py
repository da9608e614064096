import numpy as np
import pytest

from clipmem_core.scores.memorization import noise_of, shrunk_by_group
from clipmem_core.scores.shrinkage import Noise, share_above, shrunk
from tests.scores.simulated import NOISE, simulate

SIZES = np.array([0.2, 0.3, 0.45])


def _pairs(seed: int, n_pairs: int) -> tuple[np.ndarray, np.ndarray, Noise]:
    """Return true and observed clipmem, seven pairs in ten not memorized, and the noise, more where they are."""
    rng = np.random.default_rng(seed)
    true = np.where(rng.random(n_pairs) < 0.7, 0.0, rng.exponential(0.2, n_pairs))
    error = 0.06 * np.exp(0.3 * rng.normal(size=n_pairs)) * (1 + true)
    return true, true + error * rng.normal(size=n_pairs), Noise(error, np.inf)


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
    raw, expected, true = [], [], []
    for seed in range(4):
        drawn = simulate(seed, members=members, folds=4)
        found = shrunk_by_group(drawn.clipmem, drawn.errors, drawn.sides.membership.group, seed=0)
        assert np.isnan(found[drawn.sides.external]).all()
        top = np.argsort(np.where(drawn.scored, -drawn.clipmem, np.inf))[:50]
        raw.append(drawn.clipmem[top].mean())
        expected.append(found[top].mean())
        true.append(drawn.true[top].mean())
    assert np.mean(expected) == pytest.approx(np.mean(true), abs=0.02)
    assert np.mean(raw) > np.mean(true) + 0.25 * NOISE * np.sqrt(4 / members)


def test_shrunken_values_are_nearer_to_the_truth_than_raw_ones() -> None:
    true, seen, noise = _pairs(0, 2_000)
    found = shrunk(seen, noise, seed=0)
    assert np.mean((found - true) ** 2) < 0.6 * np.mean((seen - true) ** 2)


def test_the_share_above_a_size_is_within_its_interval() -> None:
    """Thirty sets of pairs at three sizes of three times the noise and more."""
    inside = []
    for seed in range(30):
        true, seen, noise = _pairs(seed, 600)
        table = share_above(seen, noise, SIZES, seed=seed)
        share = (true[:, None] >= SIZES).mean(axis=0)
        inside.append((table["low"] <= share) & (share <= table["high"]))
    assert np.mean(inside) >= 0.93  # 90 intervals of 95 %


def test_the_share_above_a_size_does_not_grow_with_the_members_as_that_of_raw_values_falls() -> None:
    shares, raw = [], []
    for members in (4, 16):
        drawn = simulate(0, members=members, folds=4)
        rows = np.flatnonzero(drawn.scored)
        shares.append(
            share_above(drawn.clipmem[rows], noise_of(drawn.errors, rows), np.array([0.3]), seed=0)["share"][0]
        )
        raw.append((drawn.clipmem[rows] > 0.3).mean())
    true = (drawn.true[rows] > 0.3).mean()
    assert shares == pytest.approx([true, true], abs=0.02)
    assert raw[0] > true + 0.01


def test_errors_far_below_the_spread_leave_values_as_they_are() -> None:
    seen = np.random.default_rng(0).normal(size=300)
    np.testing.assert_allclose(shrunk(seen, Noise(np.zeros(300), np.inf), seed=0), seen, atol=0.05)


@pytest.mark.parametrize("seen", [np.arange(49.0), np.zeros(200)])
def test_too_few_pairs_or_equal_ones_have_no_distribution(seen: np.ndarray) -> None:
    noise = Noise(np.ones(len(seen)), 5.0)
    assert np.isnan(shrunk(seen, noise, seed=0)).all()
    assert share_above(seen, noise, SIZES, seed=0).empty
