from pathlib import Path

import pytest

from clipmem_core.audits.jobs import Task, queued
from clipmem_core.audits.lock import hold
from clipmem_core.audits.store import write_json
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


def test_a_study_waits_in_the_queue_and_then_runs(started: Started, tmp_path: Path) -> None:
    task = study_task("mine", ["combined", "scenes", "--name=mine"])
    assert task.folder == tmp_path / "jobs" / ".studies" / "mine"
    assert task.command == queued("study mine", ["study", "combined", "scenes", "--name=mine"])


def test_a_study_goes_on_with_what_its_folder_says(started: Started, tmp_path: Path) -> None:
    study = make_study(tmp_path)
    resume_study(study)
    (task,) = started
    assert task.folder.name == "made"
    assert task.command[6:] == resume_arguments(study)
    assert {"combined", "made.csv", "--name=made", "--preset=tiny", "--seeds=3"} <= set(task.command[6:])


def test_a_study_that_another_process_works_on_is_left_to_it(started: Started, tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert not is_elsewhere(study.name)
    with hold(study.folder, what="study"):
        assert is_elsewhere(study.name)
        assert resume_study(study) is None
    assert not started
    assert not is_elsewhere(study.name)
    resume_study(study)
    assert started


@pytest.mark.parametrize("name", ["../a", ""])
def test_a_name_that_no_study_can_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name "):
        study_task(name)


def test_a_job_is_found_again_by_the_studys_name(started: Started, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / ".studies" / "mine"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
    job = study_task("mine").find()
    assert job is not None
    assert not job.running
    assert study_task("other").find() is None
