"""Reviews by rank with a random share, on drawn sets where every wrong caption is known."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from clipmem_core.scores.reviewed import count_of_sample, count_reviewed, plan_review, review_place, suspicion_of


def reviewed(seed: int, share: float, apart: float, looked_at: int, pairs: int = 600) -> tuple[int, float, float]:
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(pairs) < share * pairs
    review = plan_review(rng.normal(size=pairs) + apart * wrong, seed=seed)
    decided = np.zeros(pairs, dtype=bool)
    decided[review.order[:looked_at]] = True
    count = count_reviewed(review, wrong & decided, decided, np.full(pairs, 0.5))
    assert count.low is not None
    assert count.high is not None
    return int(wrong.sum()), count.low, count.high


@pytest.mark.parametrize("apart", [3.0, 0.5, -2.0])
def test_the_interval_covers_whatever_the_scores_are_worth(apart: float) -> None:
    """Nominal .95; of 150 reviews at most 15 may miss (P = .003 under .95). At −2 the scores are worse than none."""
    missed = 0
    for seed in range(50):
        for share in (0.05, 0.2, 0.4):
            truth, low, high = reviewed(seed, share, apart, 200)
            missed += not low <= truth <= high
    assert missed <= 15


def test_a_tenth_of_the_places_is_random_and_every_pair_has_one_place() -> None:
    suspicion = np.arange(2000.0)
    suspicion[:100] = np.nan
    review = plan_review(suspicion)
    assert sorted(review.order) == list(range(100, 2000))
    assert 0.08 < review.at_random.mean() < 0.12
    first = review.order[:100][~review.at_random[:100]]
    assert (np.diff(suspicion[first]) < 0).all()  # the others come by suspicion
    assert suspicion[review.order[:200][review.at_random[:200]]].mean() == pytest.approx(1050, abs=350)


def test_the_top_is_counted_and_the_rest_is_estimated_by_its_sample_alone() -> None:
    review = plan_review(-np.arange(100.0), seed=3)
    wrong = np.arange(100) < 20
    decided = np.zeros(100, dtype=bool)
    decided[:10] = True  # the ten most suspicious
    rest = review.drawn[review.drawn >= 10][:12]
    decided[rest] = True
    count = count_reviewed(review, wrong & decided, decided, np.zeros(100))
    found = int(wrong[rest].sum())
    assert count.estimate == 10 + 90 * found / 12
    low, high = count_of_sample(found, 12, 90)
    assert (count.low, count.high) == (10 + low, 10 + high)


def test_without_a_random_pair_only_what_is_known_bounds_the_count() -> None:
    review = plan_review(-np.arange(100.0), share=0.0)
    decided, wrong = np.arange(100) < 10, np.arange(100) < 4
    count = count_reviewed(review, wrong, decided, np.zeros(100))
    assert count.estimate is None
    assert "at random" in count.missing
    drawn_first = review.drawn[0] < 10
    assert drawn_first or (count.low, count.high) == (4.0, 94.0)


def test_when_everything_was_looked_at_the_count_is_exact() -> None:
    wrong, decided = np.arange(50) % 7 == 0, np.ones(50, dtype=bool)
    count = count_reviewed(plan_review(np.arange(50.0)), wrong, decided, np.zeros(50))
    assert (count.low, count.high) == (8.0, 8.0)


def test_pairs_that_somebody_picked_widen_nothing_and_are_not_lost() -> None:
    review = plan_review(-np.arange(200.0), seed=1)
    decided = np.arange(200) < 20
    decided[review.drawn[review.drawn >= 20][:5]] = True
    wrong = np.zeros(200, dtype=bool)
    picked = review.drawn[review.drawn >= 20][50:80]
    decided[picked], wrong[picked] = True, True
    count = count_reviewed(review, wrong, decided, np.zeros(200))
    assert count.low == 30  # what was found by other ways
    assert count.high is not None
    assert count.high >= 30


def test_the_interval_of_a_sample_covers_95_percent_on_average_over_shares() -> None:
    """Exactly, by the hypergeometric distribution of what is found; never below 90 %."""
    pairs, drawn = 300, 20
    ends = np.array([count_of_sample(found, drawn, pairs) for found in range(drawn + 1)])
    coverage = []
    for wrong in range(3, 150):
        chance = hypergeom.pmf(np.arange(drawn + 1), pairs, wrong, drawn)
        coverage.append(chance[(ends[:, 0] <= wrong) & (wrong <= ends[:, 1])].sum())
    assert np.mean(coverage) == pytest.approx(0.96, abs=0.02)
    assert min(coverage) > 0.9


def test_without_a_misfit_pairs_come_by_csls() -> None:
    suspicion = suspicion_of(np.full(3, np.nan), np.array([0.5, -0.5, np.nan]))
    np.testing.assert_array_equal(suspicion, [-0.5, 0.5, np.nan])
    place = review_place(np.array([1.0, 2.0, np.nan]), np.zeros(3))
    assert sorted(place[:2]) == [1.0, 2.0]
    assert np.isnan(place[2])
