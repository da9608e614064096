"""The command line of a study, parsed again, and the job that resumes it."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audit.jobs import Task
from clipmem_core.audit.settings import resolve
from clipmem_core.audit.store import acquire_lock, write_json
from clipmem_core.cli import parse
from clipmem_core.config import SourceOptions, as_dict
from clipmem_core.studies.plan import command_of, resume_arguments, resume_study, runs_outside_job
from clipmem_core.studies.study_folder import StudyFolder
from tests.made_arms import request_of
from tests.studies.conftest import config_of
from tests.studies.made_context import make_study


def asked_for(data: Path, study: str, *flags: str, **changes: Any) -> StudyFolder:
    """Write the study.json of a study that was started with some flags."""
    config = dataclasses.replace(resolve(config_of(study, *flags)), **changes)
    folder = StudyFolder(data / "studies" / "asked")
    folder.write_request(
        request_of(study, as_dict(config), arms={"none": {}}, source="my pairs.csv", seeds_per_split=1)
    )
    return folder


ODD = SourceOptions(csv_separator="\t", csv_caption_key="a caption", scenes_pairs=220)


FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--precision", "fp32", "--threads", "1"], {}),
    (["--eval-crop-scale", "0", "--views", "4", "--eval-captions", "0"], {}),  # what the study sets, typed away
    (["--drop-near-duplicates", "--lr", "1e-05", "--seed", "7", "--inject-miscaptions", "5"], {}),
    ([], {"source": ODD, "device": "cuda", "precision": "amp_bf16", "threads": 3}),  # of another machine
]


@pytest.mark.parametrize("study", ["combined", "views", "time"])
def test_a_study_goes_on_with_the_very_same_config_and_its_command_makes_it_again(tmp_path: Path, study: str) -> None:
    for flags, changes in FLAGS:
        folder = asked_for(tmp_path, study, *flags, **changes)
        asked = folder.request["config"]
        command = parse(["study", *resume_arguments(folder)])
        assert (command.study, command.source, command.name) == (study, "my pairs.csv", "asked")
        assert as_dict(dataclasses.replace(command.config, members=asked["members"])) == asked
        if changes:
            continue
        again = as_dict(parse(shlex.split(command_of(folder))[3:]).config)
        apart = ("device", "precision", "threads", "members")
        assert {name: own for name, own in again.items() if name not in apart} == {
            name: own for name, own in asked.items() if name not in apart
        }


def test_the_command_says_nothing_that_follows_from_the_machine_and_is_safe_to_paste(tmp_path: Path) -> None:
    folder = asked_for(tmp_path, "combined", "--weight-decay", "0.2")
    write_json(folder.folder / "own.json", {"arms": [{"name": "a", "setting": "text_mask=0.3 near_duplicates"}]})
    words = shlex.split(command_of(folder))
    command = parse(words[3:])
    assert words[:3] == ["python", "-m", "clipmem_core"]
    assert (command.source, command.also, command.config.weight_decay) == (
        "my pairs.csv",
        ("text_mask=0.3 near_duplicates",),
        0.2,
    )
    assert not {"--device", "--precision", "--threads", "--protocol", "--views"} & set(words)


def test_a_study_is_resumed_with_its_config_unless_another_process_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    started: list[Task] = []
    monkeypatch.setattr(Task, "start", lambda task: started.append(task))
    study = make_study(tmp_path)
    with acquire_lock(study.folder, what="study"):
        assert runs_outside_job(study.name)
        resume_study(study)
    assert not started
    resume_study(study)
    (task,) = started
    assert task.folder == tmp_path / "jobs" / ".studies" / "made"
    assert task.arguments == ["study", *resume_arguments(study)]
