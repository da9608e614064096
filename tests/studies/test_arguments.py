"""What is typed for a study, read by the command line again."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits.settings import resolve
from clipmem_core.audits.store import write_json
from clipmem_core.commands import parse
from clipmem_core.config import SourceOptions, as_dict
from clipmem_core.studies.plan import commands_of, resume_arguments
from clipmem_core.studies.store import ARM, ARMS, SEED, StudyFolder
from tests.made_arms import asked_of
from tests.studies.conftest import config_of


def asked_for(data: Path, study: str, *flags: str, **changes: Any) -> StudyFolder:
    """Write the study.json of a study that was started with some flags."""
    config = dataclasses.replace(resolve(config_of(study, *flags)), **changes)
    folder = StudyFolder(data / "studies" / "asked")
    folder.write_asked(asked_of(study, as_dict(config), arms={"none": {}}, source="my pairs.csv", seeds_per_split=1))
    return folder


ODD = SourceOptions(csv_separator="\t", csv_caption_key="a caption", scenes_pairs=220)


FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--precision", "fp32", "--threads", "1"], {}),
    (["--eval-crop-scale", "0", "--views", "4", "--eval-captions", "0"], {}),  # what the study sets, typed away
    (["--drop-lookalikes", "--lr", "1e-05", "--seed", "7", "--plant-miscaptions", "5"], {}),
    ([], {"source": ODD, "device": "cuda", "precision": "amp_bf16", "threads": 3}),  # of another machine
]


@pytest.mark.parametrize("study", ["combined", "views", "time"])
def test_a_study_goes_on_with_the_very_same_config_and_its_command_makes_it_again(tmp_path: Path, study: str) -> None:
    for flags, changes in FLAGS:
        folder = asked_for(tmp_path, study, *flags, **changes)
        asked = folder.asked["config"]
        command = parse(["study", *resume_arguments(folder)])
        assert (command.study, command.source, command.name) == (study, "my pairs.csv", "asked")
        assert as_dict(dataclasses.replace(command.config, members=asked["members"])) == asked
        if changes:
            continue
        again = as_dict(parse(shlex.split(*commands_of(folder))[3:]).config)
        apart = ("device", "precision", "threads", "members")
        assert {name: own for name, own in again.items() if name not in apart} == {
            name: own for name, own in asked.items() if name not in apart
        }


def test_the_command_says_nothing_that_follows_from_the_machine_and_is_safe_to_paste(tmp_path: Path) -> None:
    folder = asked_for(tmp_path, "combined", "--weight-decay", "0.2")
    write_json(folder.folder / "own.json", {"arms": [{"name": "a", "setting": "text_mask=0.3 lookalikes"}]})
    words = shlex.split(*commands_of(folder))
    command = parse(words[3:])
    assert words[:3] == ["python", "-m", "clipmem_core"]
    assert (command.source, command.also, command.config.weight_decay) == (
        "my pairs.csv",
        ("text_mask=0.3 lookalikes",),
        0.2,
    )
    assert not {"--device", "--precision", "--threads", "--protocol", "--views"} & set(words)


SEEDS: list[tuple[dict[str, int], list[tuple[int, tuple[str, ...]]]]] = [
    ({"none": 7, "a": 7, "b c": 7}, [(7, ())]),
    ({"none": 2, "a": 2, "b c": 2}, [(2, ())]),
    ({"none": 3, "a": 2, "b c": 3}, [(2, ()), (3, ("b c",))]),
    ({"none": 5, "a": 1, "b c": 3}, [(1, ()), (3, ("b c",)), (5, ("none",))]),
    ({"none": 2, "a": 1, "b c": 0}, [(1, ("a",)), (2, ("none",))]),
    ({"none": 0, "a": 0, "b c": 0}, [(7, ())]),
]


def test_arms_with_more_seeds_have_a_command_of_their_own(tmp_path: Path) -> None:
    for place, (seeds, commands) in enumerate(SEEDS):
        folder = asked_for(tmp_path / str(place), "combined", seeds=7)
        folder.write_asked(folder.asked | {"arms": {arm: {} for arm in seeds}})
        if rows := [{ARM: arm, SEED: seed} for arm, count in seeds.items() for seed in range(count)]:
            folder.add(ARMS, rows)
        found = [parse(shlex.split(command)[3:]) for command in commands_of(folder)]
        assert [(command.config.seeds, command.only) for command in found] == commands
