import numpy as np
import pandas as pd
import pytest

from clipmem_core.dashboard.mitigations.effect import effect, verdict
from clipmem_core.studies.aim import AIM


def rows(**arms: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    """Return a table of arms whose seeds have clipmem, AUROC, retrieval and seconds."""
    names = ["clipmem_candidate", "membership_auroc", "retrieval", "seconds"]
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, **dict(zip(names, values, strict=True))}
            for arm, seeds in arms.items()
            for seed, values in enumerate(seeds)
        ]
    )


NONE = [(0.4, 0.8, 0.5, 100.0)] * 3


def test_an_arm_is_told_in_percent_of_none_with_intervals_over_seeds() -> None:
    # Clipmem: −0.08 of 0.4, three times. Retrieval: 0.01, 0 and −0.01 of 0.5, with t = 4.303 and se = 0.00577.
    arms = rows(none=NONE, a=[(0.32, 0.77, 0.51, 102.0), (0.32, 0.77, 0.5, 102.0), (0.32, 0.77, 0.49, 102.0)])
    assert effect(arms, "a") == (
        "clipmem −20\u00a0% [−20, −20], AUROC −0.030 [−0.030, −0.030], "
        "retrieval +0.0\u00a0% [−5.0, +5.0]; ×1.02 seconds."
    )


def test_one_seed_has_no_interval_and_is_not_judged() -> None:
    arms = rows(none=NONE, a=[(0.2, 0.7, 0.5, 50.0)])
    assert effect(arms, "a") == "clipmem −50\u00a0%, AUROC −0.100, retrieval +0.0\u00a0%; ×0.50 seconds."
    assert verdict(arms, "a") == f"1 seed is too few to say whether it meets the aim: {AIM}."


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ((0.28, 0.7, 0.5, 1.0), f"It meets the aim: {AIM}."),
        ((0.36, 0.7, 0.5, 1.0), "clipmem may fall by only 10\u00a0%."),
        ((0.28, 0.8, 0.5, 1.0), "AUROC may not fall."),
        ((0.28, 0.7, 0.4, 1.0), "retrieval may lose 20\u00a0%."),
        ((0.5, 0.9, 0.4, 1.0), "clipmem may not fall, AUROC may not fall, retrieval may lose 20\u00a0%."),
    ],
)
def test_what_misses_the_aim_says_by_what(arm: tuple[float, float, float, float], said: str) -> None:
    assert verdict(rows(none=NONE, a=[arm] * 3), "a").endswith(said)


def test_below_0_there_is_nothing_to_lower_and_no_percentage() -> None:
    arms = rows(none=[(-0.05, 0.6, 0.5, 1.0)] * 3, a=[(0.02, 0.6, 0.5, 1.0)] * 3)
    assert effect(arms, "a").startswith("clipmem +0.070 [+0.070, +0.070], AUROC")
    assert "leave open whether mean clipmem of none is above 0" in verdict(arms, "a")


def test_no_percentage_is_told_of_a_mean_that_may_be_0() -> None:
    arms = rows(none=[(0.3, 0.6, 0.5, 1.0), (-0.2, 0.6, 0.5, 1.0), (0.1, 0.6, 0.5, 1.0)], a=[(0.0, 0.6, 0.5, 1.0)] * 3)
    assert "%" not in effect(arms, "a").split("AUROC")[0]
    assert effect(arms, "a").endswith("×1.00 seconds.")
    arms["retrieval"], arms["clipmem_candidate"] = 0.0, 0.3
    assert "leave open whether retrieval of none" in verdict(arms, "a")


def test_an_arm_without_a_seed_of_none_says_nothing() -> None:
    arms = rows(none=NONE[:1], a=[(0.2, 0.7, 0.5, 50.0)] * 2)
    assert effect(arms[~((arms["arm"] == "a") & (arms["seed"] == 0))], "a") == ""
    assert verdict(arms[arms["arm"] == "a"], "a") == ""


def test_numbers_that_are_missing_are_survived() -> None:
    assert effect(rows(none=[(0.0, 0.8, 0.5, np.nan)] * 3, a=NONE), "a") == ""
    without = rows(none=[(0.0, 0.8, 0.5, 0.0)] * 3, a=NONE)
    assert effect(without, "a").startswith("clipmem +0.400 [+0.400, +0.400]")
    assert effect(without, "a").endswith("retrieval +0.0\u00a0% [+0.0, +0.0].")


def test_an_arm_that_forgets_is_judged_beside_what_forgets_only_what_was_never_trained() -> None:
    arms = rows(none=NONE, untrained=[(0.4, 0.8, 0.52, 100.0)] * 3, rare=[(0.2, 0.7, 0.49, 100.0)] * 3)
    arms = arms.replace({"untrained": "forget-untrained"})
    arms["text_forget_df"] = arms["arm"].map({"forget-untrained": 1.0, "rare": 3.0})
    assert "retrieval −2.0\u00a0%" in effect(arms, "rare")
    assert "retrieval −5.8\u00a0%" in effect(arms, "rare", "forget-untrained")
    assert verdict(arms, "rare") == f"It misses the aim against forget-untrained ({AIM}): retrieval may lose 6\u00a0%."
