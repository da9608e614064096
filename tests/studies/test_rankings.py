"""Which pairs each ranking takes out first."""

import numpy as np
import pandas as pd
import pytest

from clipmem_core.studies.rankings import DIRECTIONS, Removal, taken_out

RNG = np.random.default_rng(0)
IDS = [f"pair-{number}" for number in range(200)]
SCORES = pd.DataFrame({"pair_id": IDS, **{name: RNG.normal(size=200) for name in DIRECTIONS}})
POOL = np.array(IDS)


@pytest.mark.parametrize("by", list(DIRECTIONS))
def test_the_most_memorized_or_least_fitting_go_first(by: str) -> None:
    found = taken_out(Removal(by, 20), SCORES, POOL, seed=0)
    order = SCORES.sort_values(by, ascending=by.startswith("similarity"))
    assert found == set(order["pair_id"][:20])


def test_only_pairs_of_the_pool_with_a_score_are_taken_out() -> None:
    scores = SCORES.assign(clipmem=SCORES["clipmem"].where(SCORES.index % 2 == 0))
    found = taken_out(Removal("clipmem", 25), scores, POOL[:100], seed=0)
    assert found <= {pair_id for place, pair_id in enumerate(IDS[:100]) if place % 2 == 0}
    assert taken_out(Removal("random", 50), scores, POOL[:100], seed=0) == set(IDS[:100:2])
    with pytest.raises(ValueError, match="60 pairs are to be taken out by clipmem, and 50 have a score"):
        taken_out(Removal("clipmem", 60), scores, POOL[:100], seed=0)


@pytest.mark.parametrize("by", ["clipmem", "random"])
def test_a_larger_removal_holds_a_smaller_one(by: str) -> None:
    assert taken_out(Removal(by, 10), SCORES, POOL, seed=3) < taken_out(Removal(by, 60), SCORES, POOL, seed=3)


def test_a_random_removal_follows_its_seed_and_no_score_or_order() -> None:
    first, other = (taken_out(Removal("random", 100), SCORES, POOL, seed=seed) for seed in (0, 1))
    assert first != other
    shuffled = SCORES.sample(frac=1, random_state=1)
    assert taken_out(Removal("random", 100), shuffled.assign(clipmem=1.0), POOL, seed=0) == first
    kept = SCORES["pair_id"].isin(first)
    assert abs(SCORES["clipmem"][kept].mean() - SCORES["clipmem"][~kept].mean()) < 0.45


def test_equal_scores_are_ordered_by_chance_and_not_by_their_place() -> None:
    tied = SCORES.assign(clipmem=0.0)
    found = taken_out(Removal("clipmem", 100), tied, POOL, seed=0)
    assert 30 < len(found & set(IDS[:100])) < 70


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match="by must be one of clipmem, .*, random, not 'size'"):
        Removal("size", 3)
