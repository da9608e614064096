import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies.arm import Context
from clipmem_core.studies.plan_arms import scale_arms
from clipmem_core.studies.plans import STUDIES
from clipmem_core.studies.scaling import extrapolated, pairs_a_side, scale

PAIRS = pd.DataFrame(
    {
        "pair_id": [f"p{number}" for number in range(3_000)],
        "group": np.repeat(["shared", "candidate", "independent", "external"], [1_900, 300, 300, 500]),
    }
)


def rows_of(powers: dict[str, float]) -> pd.DataFrame:
    """Rows of a study whose clipmem goes with pairs to a power, in three seeds."""
    rng, rows = np.random.default_rng(0), []
    for fixed, power in powers.items():
        for size in (500, 1_000, 2_000, 4_000):
            arm, of = ("all", "all") if size == 4_000 else (f"{fixed}-{size}", fixed)
            for seed in range(3):
                gap = 0.1 * (size / 4_000) ** power * np.exp(0.01 * rng.normal())
                rows.append([arm, seed, size, of, gap, 0.5 + gap / 4, 0.5 + gap / 2])
    columns = ["arm", "seed", "pairs", "fixed", "clipmem_net", "membership_auroc", "attack_auroc"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(["arm", "seed"])


def test_a_study_of_the_law_is_said_to_hold_it_and_others_not() -> None:
    told = scale(rows_of({"epochs": -1.0, "steps": -1.2}), pd.DataFrame())
    assert told[0].startswith("With epochs fixed, clipmem less that of external pairs goes from 0.8")
    assert "says −1: the interval holds that." in told[0]
    assert "says −2: it falls more slowly than that." in told[2]
    assert "one power will do" in told[1]
    assert any(sentence.startswith("attack AUROC: ") for sentence in told)


def test_an_extrapolation_tells_size_interval_and_what_it_would_take_to_see_it() -> None:
    told = extrapolated(rows_of({"epochs": -1.0, "steps": -2.0}), 400_000)[0]
    assert "400,000 pairs and as many epochs, 100 times as many pairs as were tried, give clipmem of 0.00" in told
    assert "membership AUROC of alignment of 0.500" in told
    assert "pairs a side (80 % power)" in told
    assert "400,000,000 pairs" in extrapolated(rows_of({"epochs": -1.0}), 0)[0]
    assert told.endswith("batch and data were not tried.")


def test_near_one_half_a_rank_test_needs_what_noether_says() -> None:
    z = norm.ppf(0.975) + norm.ppf(0.8)
    assert pairs_a_side(0.51) == pytest.approx(z**2 / (6 * 0.01**2), rel=0.001)


def test_where_the_fall_speeds_up_a_line_gives_too_much_and_that_is_said() -> None:
    rows = rows_of({"epochs": -0.2})
    bent = rows.assign(clipmem_net=rows["clipmem_net"] * np.exp(-0.05 * np.log(rows["pairs"] / 500) ** 2))
    assert extrapolated(bent, 0)[0].endswith("if it bends on, clipmem is less than that.")
    bent = rows.assign(clipmem_net=rows["clipmem_net"] * np.exp(0.05 * np.log(rows["pairs"] / 500) ** 2))
    assert extrapolated(bent, 0)[0].endswith("if it bends on, clipmem is more than that.")


def test_nothing_is_said_of_one_size_or_of_another_study() -> None:
    rows = rows_of({"epochs": -1.0})
    assert scale(rows[rows["pairs"] == 500].drop(columns=["membership_auroc", "attack_auroc"]), pd.DataFrame()) == []
    assert extrapolated(rows.drop(columns="fixed"), 0) == []


def test_arms_have_as_many_epochs_or_as_many_steps_as_all_pairs() -> None:
    arms = {arm.name: arm for arm in scale_arms(AuditConfig(epochs=12), PAIRS)}
    assert list(arms) == ["all", "epochs-500", "epochs-1000", "epochs-2000", "steps-500", "steps-1000", "steps-2000"]
    assert arms["epochs-500"].shown == {"pairs": 500, "fixed": "epochs", "epochs": 12}
    assert dict(arms["steps-1000"].epochs) == {"epochs": round(12 * 2.2)}
    assert STUDIES["scale"].defaults == {"batch_size": 256}
    with pytest.raises(InputError, match="study scale trains on 500, 1000 and more pairs, and here are 850"):
        scale_arms(AuditConfig(), PAIRS[1_350:])


def test_each_member_of_an_arm_trains_on_so_many_pairs_and_fewer_are_part_of_more() -> None:
    config = dataclasses.replace(AuditConfig(), protocol="paper")
    arms = scale_arms(config, PAIRS)
    context = Context(config, arms[0], {}, PAIRS, PAIRS["group"].to_numpy(dtype=str), np.arange(3_000))
    left: dict[str, frozenset[str]] = {arm.name: context.changes(arm).removed for arm in arms}
    assert left["all"] == frozenset()
    for size in (500, 1_000, 2_000):
        kept = PAIRS[~PAIRS["pair_id"].isin(left[f"epochs-{size}"])]
        counts = kept["group"].value_counts()
        assert counts["shared"] + counts["candidate"] == counts["shared"] + counts["independent"] == size
        assert counts["external"] == 500
        assert left[f"steps-{size}"] == left[f"epochs-{size}"]
    assert left["epochs-500"] > left["epochs-1000"] > left["epochs-2000"]
