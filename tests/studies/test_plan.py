"""The arms of the built-in studies, their command lines, and the job that resumes one."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clipmem_core.audit.jobs import Task
from clipmem_core.audit.settings import check_config, resolve
from clipmem_core.audit.store import acquire_lock, write_json
from clipmem_core.cli import parse
from clipmem_core.config import AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.studies.arm import Decided, normal
from clipmem_core.studies.plan import (
    DEFAULTS,
    STUDIES,
    command_of,
    find_study,
    removal_arms,
    resume_arguments,
    resume_study,
    runs_outside_job,
)
from clipmem_core.studies.study_folder import StudyFolder
from tests.made_arms import request_of
from tests.studies.conftest import config_of
from tests.studies.made_context import make_study

CONFIG = AuditConfig()
NOTHING = Decided()


def pairs(captions: int, shared: int = 2000) -> pd.DataFrame:
    return pd.DataFrame({"captions": [["a"], ["b"] * captions] * (shared // 2), "group": "shared"})


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_has_its_reference_and_arms_that_can_run_and_that_their_texts_tell_apart(name: str) -> None:
    config = dataclasses.replace(preset_config("small"), **DEFAULTS)
    for captions in (1, 2, 7):
        if name == "captions" and captions == 1:
            with pytest.raises(InputError, match="study captions needs pairs with several captions"):
                find_study(name).arms(config, pairs(captions))
            continue
        arms = {arm.name: arm for arm in find_study(name).arms(config, pairs(captions))}
        assert len(arms) == len(find_study(name).arms(config, pairs(captions)))
        reference = dataclasses.replace(config, **arms["none"].fields)
        texts = {arm.name: normal(arm, reference).text for arm in arms.values()}
        assert texts["none"] == ""
        assert len(set(texts.values())) == len(arms)
        for arm in arms.values():
            check_config(dataclasses.replace(reference, **arm.fields))


def test_removal_goes_as_far_as_half_of_the_shared_pairs() -> None:
    arms = removal_arms(CONFIG, pairs(1, shared=450))
    assert [arm.removal.n for arm in arms if arm.removal and arm.removal.by == "clipmem"] == [50, 100, 200]
    assert [arm.name for arm in arms[:4]] == ["none", "clipmem-50", "similarity_in-50", "random-50"]
    assert arms[2].row(NOTHING) == {"removed_by": "similarity_in", "removed": 50}
    with pytest.raises(InputError, match="needs at least 100 shared pairs, and there are 98"):
        removal_arms(CONFIG, pairs(1, shared=98))


def asked_for(data: Path, *flags: str, **changes: Any) -> StudyFolder:
    """Write the study.json of a study that was started with some flags."""
    config = dataclasses.replace(resolve(config_of("combined", *flags)), **changes)
    folder = StudyFolder(data / "studies" / "asked")
    folder.write_request(
        request_of("combined", as_dict(config), arms={"none": {}}, source="my pairs.csv", seeds_per_split=1)
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


def test_a_study_goes_on_with_the_very_same_config_and_its_command_makes_it_again(tmp_path: Path) -> None:
    for flags, changes in FLAGS:
        folder = asked_for(tmp_path, *flags, **changes)
        asked = folder.request["config"]
        command = parse(["study", *resume_arguments(folder)])
        assert (command.study, command.source, command.name) == ("combined", "my pairs.csv", "asked")
        assert as_dict(dataclasses.replace(command.config, members=asked["members"])) == asked
        if changes:
            continue
        again = as_dict(parse(shlex.split(command_of(folder))[3:]).config)
        apart = ("device", "precision", "threads", "members")
        assert {name: own for name, own in again.items() if name not in apart} == {
            name: own for name, own in asked.items() if name not in apart
        }


def test_the_command_says_nothing_that_follows_from_the_machine_and_is_safe_to_paste(tmp_path: Path) -> None:
    folder = asked_for(tmp_path, "--weight-decay", "0.2")
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
