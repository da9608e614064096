import math
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.dashboard.mitigations.lines import Against, against_of, lines_of, paper_of
from clipmem_core.dashboard.mitigations.points import points_of
from clipmem_core.studies.store import StudyFolder
from tests.made_arms import make_arms


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


def test_noise_begins_at_none(data: Path) -> None:
    found = against(make_arms(data, "text-noise"))
    assert places(found)["none"] == 0
    assert places(found)["text-noise-0.15"] == 0.15
    assert "σ" in found.title


def test_each_ranking_is_a_line_that_begins_at_none(data: Path) -> None:
    study = make_arms(data, "removal")
    found = against(study)
    assert set(found.places["line"]) == {"clipmem", "similarity_in", "random"}
    assert places(found, "random") == {
        "none": 0,
        "random-50": pytest.approx(50**0.5),
        "random-100": 10,
        "random-200": pytest.approx(200**0.5),
        "random-400": 20,
        "random-800": pytest.approx(800**0.5),
    }
    assert found.ticks[10] == "100"
    lines = lines_of(found, points_of(study, "clipmem_candidate", "retrieval"))
    assert sorted(set(lines["line"])) == ["at random", "highest clipmem", "lowest similarity, models trained on them"]
    assert (lines["arm"] == "none").sum() == 3


def test_arms_that_change_more_than_the_setting_are_left_out(data: Path) -> None:
    found = against(make_arms(data, captions=1))
    assert found.field == "text_mask"
    assert places(found) == {"none": 0, "text-mask": 0.15, "text-mask-strong": 0.3}


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


def test_the_paper_knows_no_auroc_and_nothing_of_own_studies(data: Path) -> None:
    study = make_arms(data, "captions")
    paper = paper_of(study, ours(0.3, 0.5), "membership_auroc")
    assert paper is not None
    assert paper["memorization"].isna().all()
    assert paper_of(make_arms(data, "combined"), ours(0.3, 0.5), "clipmem_candidate") is None
    assert paper_of(study, ours(0.3, 0.5).iloc[:0], "clipmem_candidate") is None
    assert math.isfinite(paper["utility"].sum())
