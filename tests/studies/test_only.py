"""Some arms of a study trained further, the others as they are."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.commands import parse
from clipmem_core.config import InputError
from clipmem_core.studies.setting import parse_setting
from clipmem_core.studies.store import StudyFolder
from clipmem_core.studies.typed import commands_of
from tests.studies.conftest import Trained
from tests.studies.test_run import Start, numbers


def test_only_some_arms_get_more_seeds_and_the_one_they_are_compared_with(
    start: Start, trained: Trained, whole: StudyFolder
) -> None:
    also = [parse_setting("colour=0.2")]
    study = start("two", "again", seeds=1, also=also)
    before = numbers(study)
    start("two", "again", only=["whole"])
    assert trained.members[6:] == ["none/f-1", "none/g-1", "whole/f-1", "whole/g-1"]
    pd.testing.assert_frame_equal(numbers(study)[:3], before)
    both = list(numbers(whole))
    rows = numbers(study).query("arm != 'colour-0.2'").reset_index(drop=True)
    pd.testing.assert_frame_equal(rows[both], numbers(whole))
    again = commands_of(study)
    assert [line.split(" --name again --preset tiny ")[1].split()[:2] for line in again] == [
        ["--seeds", "1"],
        ["--seeds", "2"],
    ]
    assert [parse(shlex.split(line)[3:]).only for line in again] == [(), ("whole",)]
    assert [parse(shlex.split(line)[3:]).also for line in again] == [("colour=0.2",), ()]
    start("two", "again")  # and then the rest
    assert trained.members[10:] == ["colour-0.2/f-1", "colour-0.2/g-1"]


def test_only_an_arm_that_a_study_does_not_have_trains_nothing(start: Start, trained: Trained, data: Path) -> None:
    with pytest.raises(InputError, match=r"study two has no arm 'hole' to train only: choose from none, whole$"):
        start("two", "again", only=["whole", "hole"])
    assert trained.members == []
    assert not (data / "studies" / "again" / "study.json").exists()
