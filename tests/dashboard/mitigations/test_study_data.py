import math
from pathlib import Path

import pytest

from clipmem_core.audits.store import write_table
from clipmem_core.config import InputError
from clipmem_core.dashboard.mitigations.study_data import (
    compared_of,
    described,
    found_once,
    measures_of,
    points_of,
    rows_of,
)
from clipmem_core.studies.results import sentences
from clipmem_core.studies.store import ARMS
from tests.made_arms import make_arms


def test_points_are_the_means_over_seeds(data: Path) -> None:
    study = make_arms(data)
    points = points_of(study, "clipmem_candidate", "linear_probe").set_index("arm")
    rows = study.arms[study.arms["arm"] == "text-mask"]
    assert points.at["text-mask", "memorization"] == pytest.approx(rows["clipmem_candidate"].mean())
    assert points.at["text-mask", "utility"] == pytest.approx(rows["linear_probe"].mean())
    half = 4.302652729911275 * rows["linear_probe"].std() / 3**0.5  # Student's t at 2 degrees of freedom
    assert points.at["text-mask", "utility_high"] == pytest.approx(rows["linear_probe"].mean() + half)
    assert list(points.index) == list(dict.fromkeys(study.arms["arm"]))


def test_what_is_beyond_external_pairs_is_a_measure_too(data: Path) -> None:
    study = make_arms(data)
    points = points_of(study, "clipmem_net", "retrieval").set_index("arm")
    rows = study.arms[study.arms["arm"] == "none"]
    expected = (rows["clipmem_candidate"] - rows["clipmem_external"]).mean()
    assert points.at["none", "memorization"] == pytest.approx(expected)


def test_two_seeds_give_no_interval(data: Path) -> None:
    study = make_arms(data, seeds={"none": 3, "text-mask": 2, "early-stop": 1})
    points = points_of(study, "clipmem_candidate", "retrieval").set_index("arm")
    assert points["memorization_low"].isna().to_dict() == {"none": False, "text-mask": True, "early-stop": True}
    assert points.at["early-stop", "told"][-1] == "1 seed"


def test_an_arm_tells_its_setting_its_values_and_its_difference_to_none(data: Path) -> None:
    study = make_arms(data)
    points = points_of(study, "clipmem_candidate", "retrieval").set_index("arm")
    name, setting, memorized, useful, seeds = points.at["text-mask-strong", "told"]
    assert (name, setting, seeds) == ("text-mask-strong", "text_mask=0.3", "3 training seeds of one split")
    wide = study.arms.pivot_table(index="seed", columns="arm", values="clipmem_candidate")
    difference = (wide["text-mask-strong"] - wide["none"]).mean()
    assert f"against none {difference:+.3f}".replace("-", "−") in memorized
    assert useful.startswith("retrieval 0.")
    assert len(points.at["none", "told"]) == 4
    assert "against" not in " ".join(points.at["none", "told"])


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


def test_a_table_that_lacks_what_is_drawn_says_so(data: Path) -> None:
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
