from pathlib import Path

import pytest

from clipmem_core.audits.jobs import Task
from clipmem_core.audits.store import acquire_lock
from clipmem_core.config import InputError
from clipmem_core.studies.plan import is_elsewhere, resume_arguments, resume_study, study_task
from tests.studies.made_context import make_study

Started = list[Task]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    found: Started = []
    monkeypatch.setattr(Task, "start", lambda task: found.append(task))
    return found


def test_a_study_has_a_folder_of_its_own(started: Started, tmp_path: Path) -> None:
    task = study_task("mine", ["combined", "scenes", "--name=mine"])
    assert task.folder == tmp_path / "jobs" / ".studies" / "mine"
    assert task.arguments == ["study", "combined", "scenes", "--name=mine"]


def test_a_study_goes_on_with_what_its_folder_says(started: Started, tmp_path: Path) -> None:
    study = make_study(tmp_path)
    resume_study(study)
    (task,) = started
    assert task.folder.name == "made"
    assert task.arguments[1:] == resume_arguments(study)
    assert {"combined", "made.csv", "--name=made", "--preset=tiny", "--seeds=3"} <= set(task.arguments)


def test_a_study_that_another_process_works_on_is_left_to_it(started: Started, tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert not is_elsewhere(study.name)
    with acquire_lock(study.folder, what="study"):
        assert is_elsewhere(study.name)
        resume_study(study)
    assert not started
    assert not is_elsewhere(study.name)
    resume_study(study)
    assert started


@pytest.mark.parametrize("name", ["../a", ""])
def test_a_name_that_no_study_can_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name "):
        study_task(name)
