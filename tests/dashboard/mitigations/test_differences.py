import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import write_table
from clipmem_core.dashboard.mitigations.differences import as_csv, detectable, effect, table_of, verdict
from clipmem_core.dashboard.mitigations.study_data import compared_of
from clipmem_core.studies.effects import AIM
from clipmem_core.studies.store import ARMS, StudyFolder
from tests.dashboard.mitigations.test_chart import open_study
from tests.dashboard.test_maps_pages import captions
from tests.made_arms import make_arms

BOTH = ("clipmem_candidate", "retrieval")


def rows_of(study: StudyFolder) -> pd.DataFrame:
    compared = compared_of(study)
    return compared[compared["arm"] != "none"]


def wide(study: StudyFolder, measure: str) -> pd.DataFrame:
    return study.arms.pivot_table(index="seed", columns="arm", values=measure)


def test_numbers_are_paired_differences_and_shares_of_none(data: Path) -> None:
    study = make_arms(data)
    table, texts = table_of(rows_of(study), None, reached=(), shares=BOTH)
    row, text = table.set_index("arm").loc["text-mask"], texts[table["arm"] == "text-mask"].iloc[0]
    clipmem, auroc, seconds = (wide(study, name) for name in ("clipmem_candidate", "membership_auroc", "seconds"))
    share = 100 * (clipmem["text-mask"] - clipmem["none"]).mean() / clipmem["none"].mean()
    assert row["clipmem"] == pytest.approx(share)
    assert text["clipmem"].startswith(f"−{-share:.1f} % [−")
    assert row["AUROC"] == pytest.approx((auroc["text-mask"] - auroc["none"]).mean())
    assert row["seconds"] == pytest.approx(seconds["text-mask"].mean() / seconds["none"].mean())
    assert text["seconds"] == f"×{row['seconds']:.2f}"
    assert row["peak MB"] == wide(study, "peak_mb")["text-mask"].mean() > 1200
    assert text["peak MB"] == f"{row['peak MB']:,.0f}"
    assert row["n"] == 3
    table = pd.read_csv(io.BytesIO(as_csv(study)))
    assert set(table["arm"]) == set(study.arms["arm"])
    row = table[(table["arm"] == "text-mask") & (table["measure"] == "membership_auroc")].iloc[0]
    auroc = wide(study, "membership_auroc")
    assert row["difference"] == pytest.approx((auroc["text-mask"] - auroc["none"]).mean())
    assert row["setting"] == "text_mask=0.15"


def test_the_chosen_arm_comes_first_and_those_that_reach_the_aim_next(data: Path) -> None:
    rows = rows_of(make_arms(data))
    table, texts = table_of(rows, None, reached=(), shares=BOTH)
    plain = table["arm"].tolist()
    found, found_texts = table_of(rows, plain[1], reached=plain[-2:], shares=BOTH)
    assert found["arm"].tolist() == [plain[1], *plain[-2:], plain[0], *plain[2:-2]]
    assert found_texts["clipmem"][0] == texts["clipmem"][1]
    assert len(found_texts) == len(found)
    # What may be 0 in none is not told in percent of it.
    assert texts["clipmem"].str.contains("%").all()
    assert not table_of(rows, None, reached=(), shares=())[1]["clipmem"].str.contains("%").any()


def test_columns_that_say_nothing_are_left_out(data: Path) -> None:
    study = make_arms(data)
    assert "samples" not in table_of(rows_of(study), None, reached=(), shares=BOTH)[0]
    write_table(study.folder / ARMS, study.arms.drop(columns="zero_shot"))
    assert "zero-shot" not in table_of(rows_of(study), None, reached=(), shares=BOTH)[0]
    arms = study.arms
    arms.loc[arms["arm"] == "early-stop", "samples_seen"] /= 2
    write_table(study.folder / ARMS, arms)
    assert set(table_of(rows_of(study), None, reached=(), shares=BOTH)[1]["samples"]) == {"×1.00", "×0.50"}


def test_the_table_says_what_it_is_and_who_reaches_the_aim(data: Path) -> None:
    app = open_study(make_arms(data), setting="text_mask=0.3")
    shown = app.dataframe[0].value
    assert shown["arm"].iloc[0] == "text-mask-strong"
    # captions-and-adaptive-mask has 26 % less, but not at the end of its interval.
    assert set(shown.loc[shown["aim"] == "✓", "arm"]) == {"text-mask-strong", "mask-and-crops"}
    told = captions(app)
    assert "2 arms reach the aim (at least 25\u00a0% less mean clipmem" in told
    assert "none has clipmem 0.3" in told
    assert "four times of five from about" in told


def test_without_a_seed_in_common_there_is_no_table(data: Path) -> None:
    app = open_study(make_arms(data, seeds={"none": 1}))
    assert "No arm and none have a seed in common yet." in captions(app)
    assert not app.dataframe


def test_one_seed_has_differences_and_no_intervals(data: Path) -> None:
    study = make_arms(data, seeds=1)
    _, texts = table_of(rows_of(study), None, reached=(), shares=BOTH)
    assert not texts["AUROC"].str.contains(r"\[").any()
    assert detectable(rows_of(study), shares=BOTH) == ""
    assert "arms with n below 3 cannot" in captions(open_study(study))


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
    arms = rows(none=NONE[:1], a=[(0.2, 0.7, 0.5, 50.0)] * 2)
    assert effect(arms[~((arms["arm"] == "a") & (arms["seed"] == 0))], "a") == ""
    assert verdict(arms[arms["arm"] == "a"], "a") == ""


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


def test_what_meets_the_aim_says_whether_it_does_beside_all_other_arms() -> None:
    steady = [(0.2, 0.7, 0.5, 1.0)] * 3
    # Clipmem .27, .26, .28 of .4: 26 % less at the end of the interval, and less than that of one that holds for three.
    close = [(0.27, 0.7, 0.5, 1.0), (0.26, 0.7, 0.5, 1.0), (0.28, 0.7, 0.5, 1.0)]
    arms = rows(none=NONE, a=steady, b=close, c=NONE)
    assert verdict(arms, "a").endswith("It still does with intervals that hold for all 3 arms at once.")
    assert verdict(arms, "b").endswith("It does not with intervals that hold for all 3 arms at once.")


def test_below_0_there_is_nothing_to_lower_and_no_percentage() -> None:
    arms = rows(none=[(-0.05, 0.6, 0.5, 1.0)] * 3, a=[(0.02, 0.6, 0.5, 1.0)] * 3)
    assert effect(arms, "a").startswith("clipmem +0.070 [+0.070, +0.070], AUROC")
    assert "leave open whether mean clipmem of none is above 0" in verdict(arms, "a")
    arms = rows(none=[(0.3, 0.6, 0.5, 1.0), (-0.2, 0.6, 0.5, 1.0), (0.1, 0.6, 0.5, 1.0)], a=[(0.0, 0.6, 0.5, 1.0)] * 3)
    assert "%" not in effect(arms, "a").split("AUROC")[0]
    assert effect(arms, "a").endswith("×1.00 seconds.")
    arms["retrieval"], arms["clipmem_candidate"] = 0.0, 0.3
    assert "leave open whether retrieval of none" in verdict(arms, "a")


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
