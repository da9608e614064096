import io
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.store import write_table
from clipmem_core.dashboard.mitigations.points import compared_of
from clipmem_core.dashboard.mitigations.table import as_csv, detectable, table_of
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
    assert row["seeds"] == 3


def test_the_chosen_arm_comes_first(data: Path) -> None:
    rows = rows_of(make_arms(data))
    table, texts = table_of(rows, "mask-and-crops", reached=(), shares=BOTH)
    plain, plain_texts = table_of(rows, None, reached=(), shares=BOTH)
    assert table["arm"][0] == "mask-and-crops"
    assert table["arm"][1:].tolist() == [arm for arm in plain["arm"] if arm != "mask-and-crops"]
    place = plain["arm"].tolist().index("mask-and-crops")
    assert texts["clipmem"][0] == plain_texts["clipmem"][place]


def test_arms_that_reach_the_aim_come_next(data: Path) -> None:
    rows = rows_of(make_arms(data))
    plain = table_of(rows, None, reached=(), shares=BOTH)[0]["arm"].tolist()
    reached = plain[-2:]
    found, texts = table_of(rows, plain[1], reached=reached, shares=BOTH)
    assert found["arm"].tolist() == [plain[1], *reached, plain[0], *plain[2:-2]]
    assert len(texts) == len(found)


def test_columns_that_say_nothing_are_left_out(data: Path) -> None:
    study = make_arms(data)
    assert "samples" not in table_of(rows_of(study), None, reached=(), shares=BOTH)[0]
    write_table(study.folder / ARMS, study.arms.drop(columns="zero_shot"))
    assert "zero-shot" not in table_of(rows_of(study), None, reached=(), shares=BOTH)[0]
    arms = study.arms
    arms.loc[arms["arm"] == "early-stop", "samples_seen"] /= 2
    write_table(study.folder / ARMS, arms)
    assert set(table_of(rows_of(study), None, reached=(), shares=BOTH)[1]["samples"]) == {"×1.00", "×0.50"}


def test_differences_to_what_may_be_0_are_not_told_in_percent(data: Path) -> None:
    rows = rows_of(make_arms(data))
    one, other = (table_of(rows, None, reached=(), shares=shares)[1]["clipmem"] for shares in (BOTH, ()))
    assert one.str.contains("%").all()
    assert not other.str.contains("%").any()


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
    assert "arms with fewer than 3 seeds cannot" in captions(open_study(study))


def test_the_file_holds_every_arm_and_measure(data: Path) -> None:
    study = make_arms(data)
    table = pd.read_csv(io.BytesIO(as_csv(study)))
    assert set(table["arm"]) == set(study.arms["arm"])
    row = table[(table["arm"] == "text-mask") & (table["measure"] == "membership_auroc")].iloc[0]
    auroc = wide(study, "membership_auroc")
    assert row["difference"] == pytest.approx((auroc["text-mask"] - auroc["none"]).mean())
    assert row["setting"] == "text_mask=0.15"
