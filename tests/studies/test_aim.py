import math

import pandas as pd
import pytest

from clipmem_core.studies.aim import base_of, outcome_of

NONE = [(0.4, 0.8, 0.5)] * 3


def rows(**arms: list[tuple[float, float, float]]) -> pd.DataFrame:
    """Return a table of arms whose seeds have clipmem, AUROC and retrieval."""
    names = ["clipmem_candidate", "membership_auroc", "retrieval"]
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, **dict(zip(names, values, strict=True))}
            for arm, seeds in arms.items()
            for seed, values in enumerate(seeds)
        ]
    )


@pytest.mark.parametrize(
    ("arm", "reached"),
    [
        ((0.299, 0.79, 0.476), True),  # a quarter of .4 is .1, a twentieth of .5 is .025
        ((0.301, 0.79, 0.476), False),
        ((0.299, 0.81, 0.476), False),
        ((0.299, 0.79, 0.474), False),
    ],
)
def test_the_aim_is_a_quarter_less_and_a_twentieth_lost_at_most(arm: tuple[float, float, float], reached: bool) -> None:
    found = outcome_of(rows(none=NONE, a=[arm] * 3), "a")
    assert found is not None
    assert found.reached is reached
    few = outcome_of(rows(none=NONE, a=[arm] * 2), "a")
    assert few is not None
    assert not few.reached


def test_of_what_is_lost_the_lower_end_of_the_interval_counts() -> None:
    # .01, 0 and −.01 of .5: half a 95 % interval with two degrees of freedom is 4.303 · .01 / √3.
    found = outcome_of(rows(none=NONE, a=[(0.2, 0.7, 0.51), (0.2, 0.7, 0.5), (0.2, 0.7, 0.49)]), "a")
    assert found is not None
    assert found.loss == pytest.approx(4.303 * 0.01 / 3**0.5 / 0.5, rel=1e-3)
    assert found.missed == pytest.approx(max(0.25 - 0.5, found.loss - 0.05))


def test_a_share_of_what_may_be_nothing_is_none() -> None:
    nothing = rows(none=[(-0.05, 0.6, 0.5)] * 3, a=[(-0.2, 0.5, 0.5)] * 3)
    found = outcome_of(nothing, "a")
    assert found is not None
    assert math.isnan(found.less)
    assert not found.reached
    open_ = rows(none=[(0.3, 0.6, 0.5), (-0.2, 0.6, 0.5), (0.1, 0.6, 0.5)])
    assert math.isnan(base_of(open_, "none", "clipmem_candidate"))
    assert base_of(open_, "none", "retrieval") == pytest.approx(0.5)


def test_shares_are_of_the_seeds_that_both_have() -> None:
    arms = rows(none=[(0.4, 0.8, 0.5), (0.4, 0.8, 0.5), (9.0, 0.8, 0.5)], a=[(0.2, 0.7, 0.5)] * 2)
    found = outcome_of(arms, "a")
    assert found is not None
    assert (found.n, found.less) == (2, pytest.approx(0.5))
    assert outcome_of(arms[arms["arm"] == "a"], "a") is None
