import numpy as np
import pytest
from scipy.stats import kstest

from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.significance import null_scores, p_values, q_values
from clipmem_core.scores.uncertainty import in_errors, standard_errors
from tests.scores.simulated import noisy_ensemble, noisy_paper, simulate


def _p(drawn: Membership, alignments: list[np.ndarray], protocol: str) -> np.ndarray:
    sides = Sides(drawn, protocol, 0)
    errors = standard_errors(alignments, sides)
    mean_in, mean_out = side_means(alignments, sides.inside)
    score = in_errors(mean_in - mean_out, errors.variance, errors.degrees)
    return p_values(score, null_scores(alignments, sides, errors), drawn.group)


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
        p.append(_p(drawn, alignments, protocol)[rng.choice(judged)])
    return np.array(p)


@pytest.mark.parametrize("group", ["candidate", "independent"])
def test_p_is_uniform_on_noise_in_the_paper(group: str) -> None:
    drawn, _ = noisy_paper(250)
    p = _p_of_one_pair_an_audit(drawn, [group], audits=1_000, spread=0.3)
    steps = p * 51  # exactly 1 to 51 with 50 external pairs; spread evenly between the steps it is continuous
    assert kstest((steps - np.random.default_rng(1).random(len(p))) / 51, "uniform").pvalue > 0.01
    np.testing.assert_allclose(steps, steps.round())


@pytest.mark.parametrize(("folds", "repeats"), [(2, 2), (3, 1)])
def test_p_is_uniform_on_noise_in_an_ensemble_of_members_that_differ(folds: int, repeats: int) -> None:
    drawn, _ = noisy_ensemble(250, folds=folds, repeats=repeats)
    p = _p_of_one_pair_an_audit(drawn, ["scored"], audits=300, spread=0.3)
    assert kstest(p, "uniform").pvalue > 0.01


def test_the_null_of_many_members_is_sampled_and_has_the_spread_of_scored_pairs() -> None:
    drawn, alignments = noisy_ensemble(4_400, folds=2, repeats=9)
    sides = Sides(drawn, "ensemble", 0)
    errors = standard_errors(alignments, sides)
    null = null_scores(alignments, sides, errors)
    assert len(null) == 400 * 256
    mean_in, mean_out = side_means(alignments, sides.inside)
    scored = in_errors(mean_in - mean_out, errors.variance, errors.degrees)[drawn.group == "scored"]
    assert null.std() == pytest.approx(scored.std(), rel=0.1)
    assert null.std() == pytest.approx(1, rel=0.1)


def test_memorized_pairs_have_small_p_on_both_sides_of_zero() -> None:
    drawn, alignments = noisy_paper(memorized=8.0)
    p = _p(drawn, alignments, "paper")
    assert np.median(p[np.isin(drawn.group, ["candidate", "independent"])]) == 1 / 201
    assert np.median(p[drawn.group == "shared"]) > 0.3


def test_an_offset_that_all_pairs_share_is_no_memorization() -> None:
    """f is better than g by half a standard deviation, in all four seeds."""
    drawn, alignments = noisy_paper(seeds=4)
    alignments = [values + 0.5 * (row % 2 == 0) for row, values in enumerate(alignments)]
    p = _p(drawn, alignments, "paper")
    for group in ("candidate", "independent", "shared"):
        assert (p[drawn.group == group] <= 0.05).mean() < 0.12


def test_noisy_pairs_are_called_memorized_no_more_often_than_quiet_ones() -> None:
    """Log-normal noise of σ 0.5 over pairs that nobody memorized, 16 members: P(p ≤ 0.05) in each tenth of it."""
    tenths = []
    for seed in range(3):
        drawn = simulate(seed, memorized=0.0)
        small = (drawn.p() <= 0.05)[drawn.scored]
        rows = np.array_split(np.argsort(drawn.noise[drawn.scored]), 10)
        tenths.append([small[tenth].mean() for tenth in rows])
    found = np.mean(tenths, axis=0)  # of 600 pairs each
    assert found.mean() == pytest.approx(0.05, abs=0.015)
    assert found.min() > 0.005
    assert found.max() < 0.085


@pytest.mark.parametrize("other", [{}, {"external_noise": 0.8}, {"external_noise": 0.8, "memorized": 0.1}])
def test_of_what_q_finds_at_most_the_share_it_says_is_false(other: dict[str, float]) -> None:
    found = [simulate(seed, **other).false_finds(0.1) for seed in range(3)]  # type: ignore[arg-type]
    false, power = np.mean(found, axis=0)
    assert false <= 0.1
    assert power > 0.3


def test_p_counts_the_null_by_hand_and_keeps_missing_scores_missing() -> None:
    clipmem, null = np.array([0.3, -0.3, 0.1, np.nan]), np.array([0.1, 0.2, -0.4])
    groups = np.array(["candidate", "independent", "scored", "scored"])
    np.testing.assert_allclose(p_values(clipmem, null, groups), [1 / 4, 2 / 4, 3 / 4, np.nan])
    with pytest.raises(ValueError, match="at least one external pair, not none"):
        p_values(clipmem, null[:0], groups)


def test_q_follows_benjamini_and_hochberg_within_each_group() -> None:
    p = np.array([0.01, 0.02, 0.03, 0.5, 0.9, 0.04, np.nan])
    groups = np.array(["candidate"] * 3 + ["independent", "shared", "independent", "candidate"])
    np.testing.assert_allclose(q_values(p, groups), [0.03, 0.03, 0.03, 0.5, np.nan, 0.08, np.nan])
