"""What a study of mitigations says: its points, the setting it varies, the paper's curve."""

import math
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.store import write_table
from clipmem_core.config import InputError
from clipmem_core.dashboard.mitigations.study_data import (
    Against,
    against_of,
    compared_of,
    described,
    found_once,
    measures_of,
    paper_of,
    points_of,
    rows_of,
)
from clipmem_core.studies.results import sentences
from clipmem_core.studies.store import ARMS, StudyFolder
from tests.made_arms import make_arms


def test_points_are_the_means_over_seeds_and_tell_setting_values_and_differences(data: Path) -> None:
    study = make_arms(data)
    points = points_of(study, "clipmem_candidate", "linear_probe").set_index("arm")
    assert list(points.index) == list(dict.fromkeys(study.arms["arm"]))
    rows = study.arms[study.arms["arm"] == "text-mask"]
    assert points.at["text-mask", "memorization"] == pytest.approx(rows["clipmem_candidate"].mean())
    assert points.at["text-mask", "utility"] == pytest.approx(rows["linear_probe"].mean())
    half = 4.302652729911275 * rows["linear_probe"].std() / 3**0.5  # Student's t at 2 degrees of freedom
    assert points.at["text-mask", "utility_high"] == pytest.approx(rows["linear_probe"].mean() + half)
    name, setting, memorized, useful, seeds = points.at["text-mask-strong", "told"]
    assert (name, setting, seeds) == ("text-mask-strong", "text_mask=0.3", "3 training seeds of one split")
    wide = study.arms.pivot_table(index="seed", columns="arm", values="clipmem_candidate")
    difference = (wide["text-mask-strong"] - wide["none"]).mean()
    assert f"against none {difference:+.3f}".replace("-", "−") in memorized
    assert useful.startswith("linear probe 0.")
    assert len(points.at["none", "told"]) == 4
    assert "against" not in " ".join(points.at["none", "told"])
    beyond = points_of(study, "clipmem_net", "retrieval").set_index("arm").at["none", "memorization"]
    rows = study.arms[study.arms["arm"] == "none"]
    assert beyond == pytest.approx((rows["clipmem_candidate"] - rows["clipmem_external"]).mean())


def test_two_seeds_give_no_interval(data: Path) -> None:
    study = make_arms(data, seeds={"none": 3, "text-mask": 2, "early-stop": 1})
    points = points_of(study, "clipmem_candidate", "retrieval").set_index("arm")
    assert points["memorization_low"].isna().to_dict() == {"none": False, "text-mask": True, "early-stop": True}
    assert points.at["early-stop", "told"][-1] == "1 seed"


def test_noise_is_told_with_the_dimension_it_is_in() -> None:
    told = described("a", "text_noise=0.1 adaptive_noise=0.2", 100)
    assert told[2].startswith("text noise: σ·√dim = 0.1 · √100 = 1.00")
    assert told[3].startswith("adaptive noise: σ·√dim = 0.2 · √100 = 2.00")
    assert described("a", "text_noise=0.1", 0) == ["a", "text_noise=0.1"]
    assert described("a", None, 64) == described("a", "", 64) == ["a"]


def test_only_measures_with_a_value_are_offered(data: Path) -> None:
    rows = rows_of(make_arms(data)).assign(zero_shot=math.nan).drop(columns="linear_probe")
    names = {"retrieval": "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
    assert measures_of(rows, names) == {"retrieval": "retrieval"}
    study = make_arms(data)
    write_table(study.folder / ARMS, study.arms.drop(columns="clipmem_text").assign(retrieval="high"))
    with pytest.raises(InputError, match="lacks clipmem_text, retrieval"):
        rows_of(study)


def test_without_rows_there_is_nothing(data: Path) -> None:
    study = make_arms(data, seeds=0)
    assert rows_of(study).empty
    assert compared_of(study).empty


def test_new_rows_change_what_was_kept(data: Path) -> None:
    study = make_arms(data, seeds={"none": 3, "text-mask": 3})
    before, told = compared_of(study), found_once(study, sentences)
    make_arms(data, seeds={"none": 3, "text-mask": 3, "text-mask-strong": 3})
    assert set(compared_of(study)["arm"]) - set(before["arm"]) == {"text-mask-strong"}
    assert found_once(study, sentences) != told


def against(study: StudyFolder) -> Against:
    found = against_of(study, list(dict.fromkeys(study.arms["arm"])))
    assert found is not None
    return found


def places(found: Against, line: str = "") -> dict[str, float]:
    rows = found.places[found.places["line"] == line]
    return dict(zip(rows["arm"], rows["place"], strict=True))


def test_captions_go_from_one_to_all(data: Path) -> None:
    found = against(make_arms(data, "captions", captions=7))
    assert places(found) == {"none": 1, "captions-2": 2, "captions-3": 3, "captions-4": 4, "captions-5": 5} | {
        "captions-all": 6
    }
    assert found.ticks == {1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "all"}


def test_noise_begins_at_none_and_arms_that_change_more_than_the_setting_are_left_out(data: Path) -> None:
    found = against(make_arms(data, "text-noise"))
    assert (places(found)["none"], places(found)["text-noise-0.15"]) == (0, 0.15)
    assert "σ" in found.title
    found = against(make_arms(data, captions=1))
    assert found.field == "text_mask"
    assert places(found) == {"none": 0, "text-mask": 0.15, "text-mask-strong": 0.3}


def test_each_ranking_is_a_line_that_begins_at_none(data: Path) -> None:
    study = make_arms(data, "removal")
    found = against(study)
    lines = sorted(set(found.places["line"]))
    assert lines == ["at random", "highest clipmem", "lowest similarity, models trained on them"]
    assert places(found, "at random") == {
        "none": 0,
        "random-50": pytest.approx(50**0.5),
        "random-100": 10,
        "random-200": pytest.approx(200**0.5),
        "random-400": 20,
        "random-800": pytest.approx(800**0.5),
    }
    assert found.ticks[10] == "100"
    assert (found.places["arm"] == "none").sum() == 3


@pytest.mark.parametrize("seeds", [{"none": 3, "text-mask": 3}, {"text-mask": 3, "text-mask-strong": 3}])
def test_with_too_few_arms_or_without_none_there_is_no_line(data: Path, seeds: dict[str, int]) -> None:
    study = make_arms(data, captions=1, seeds=seeds)
    assert against_of(study, list(seeds)) is None


def ours(memorization: float, utility: float) -> pd.DataFrame:
    return pd.DataFrame({"arm": ["none"], "memorization": [memorization], "utility": [utility]})


def test_the_paper_is_taken_relative_to_its_own_none(data: Path) -> None:
    paper = paper_of(make_arms(data, "captions"), ours(0.3, 0.5), "clipmem_candidate")
    assert paper is not None
    assert paper["place"].tolist() == [1, 2, 3, 4, 5]
    first, last = paper.iloc[0], paper.iloc[-1]
    assert (first["memorization"], first["utility"]) == (pytest.approx(0.3), pytest.approx(0.5))
    assert last["memorization"] == pytest.approx(0.3 * 0.422 / 0.438)
    assert last["utility"] == pytest.approx(0.5 * 64.88 / 63.11)
    assert last["band"] == pytest.approx(0.5 * 0.85 / 63.11)
    assert last["told"] == [
        "the paper",
        "captions a pair that are trained on: 5",
        "CLIPMem 0.422, over its run's range",
        "linear probe on ImageNet 64.88 % ± 0.85",
    ]


def test_of_removal_the_paper_shows_utility_alone(data: Path) -> None:
    paper = paper_of(make_arms(data, "removal"), ours(0.3, 0.5), "clipmem_candidate")
    assert paper is not None
    assert paper["memorization"].isna().all()
    best = paper[(paper["line"] == "highest clipmem") & (paper["value"] == "100")].iloc[0]
    assert best["place"] == 10
    assert best["utility"] == pytest.approx(0.5 * 66.4 / 63.1)
    assert (paper["place"] == 0).sum() == 3
    study = make_arms(data, "captions")
    paper = paper_of(study, ours(0.3, 0.5), "membership_auroc")
    assert paper is not None
    assert paper["memorization"].isna().all()
    assert paper["utility"].notna().all()
    assert paper_of(make_arms(data, "combined"), ours(0.3, 0.5), "clipmem_candidate") is None
    assert paper_of(study, ours(0.3, 0.5).iloc[:0], "clipmem_candidate") is None
