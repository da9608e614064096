"""What is typed on the command line to make a study again or to go on with it, and the detached process that does."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from clipmem_core.audits.jobs import Task, jobs_folder
from clipmem_core.audits.settings import flat, typed, typed_flags
from clipmem_core.audits.store import is_locked
from clipmem_core.config import affecting
from clipmem_core.studies.plans import defaults_of
from clipmem_core.studies.store import StudyFolder, study_folder

NAMED = ("preset", "seeds")  # said in any case
APART = ("seeds", "members")  # said already, or what follows from it


def commands_of(study: StudyFolder) -> list[str]:
    """Return the commands that make the rows of a study again, with the arms that a person added; on any machine.

    One where all arms have as many seeds, and one more for each number of seeds that only some have. Of a study without
    rows, the command as it was asked for.
    """
    asked, also = study.asked, [f"--also {shlex.quote(arm['setting'])}" for arm in study.own]
    rows = Counter(arm for arm, _ in study.done())
    commands: list[str] = []
    for seeds in sorted(set(rows.values())) or [asked["config"]["seeds"]]:
        some = [arm for arm in asked["arms"] if rows[arm] >= seeds] if rows else []
        # The reference goes along unnamed, but where it goes alone.
        named = [arm for arm in some if arm != asked["reference"]] or some
        only = [f"--only {shlex.quote(arm)}" for arm in named if len(some) < len(asked["arms"])]
        config = {name: own for name, own in asked["config"].items() if name not in affecting("machine")}
        words = _words(asked["study"], shlex.quote(asked["source"]), study.name, config | {"seeds": seeds}, joint=" ")
        said = [*words, *_split_words(study, joint=" "), *([] if commands else also), *only]
        commands.append(" ".join(["python -m clipmem_core study", *said]))
    return commands


def resume_arguments(study: StudyFolder) -> list[str]:
    """Return what follows `study` on the command line to go on with a study: the very same config.

    The arms that a person added are in its folder already; those with equal time may be still to come.
    """
    asked = study.asked
    equal_time = ["--equal-time"] if asked.get("equal_time") else []
    named = study_arguments(asked["study"], asked["source"], study.name, asked["config"])
    return [*named, *_split_words(study, joint="="), *equal_time]


def study_arguments(study: str, source: str, name: str, config: Mapping[str, Any]) -> list[str]:
    """Return what follows `study` on the command line for a config: its seeds, and what study and preset set otherwise.

    Args:
        study: which one, by its name in plans.STUDIES.
        source: a path, a hub name or `scenes`.
        name: the study's folder.
        config: its fields.
    """
    return _words(study, source, name, config, joint="=")


def study_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of a study.

    Args:
        name: the study's.
        arguments: what follows `python -m clipmem_core study`; they do not matter where its job is only looked for.

    Raises:
        InputError: the name cannot be one.
    """
    return Task(jobs_folder() / ".studies" / study_folder(name).name, ["study", *arguments])


def resume_study(study: StudyFolder) -> None:
    """Let a study go on, with the arms that were added to it, unless another process, perhaps in a terminal, holds it.

    A study at work looks for arms that were added meanwhile when it is through with the others.
    """
    if not is_elsewhere(study.name):
        study_task(study.name, resume_arguments(study)).start()


def is_elsewhere(name: str) -> bool:
    """Tell whether a process works on a study that is not its job."""
    job = study_task(name).find()
    return not (job is not None and job.running) and is_locked(study_folder(name).folder)


def _split_words(study: StudyFolder, *, joint: str) -> list[str]:
    """Return how many seeds share a split, where that is not one."""
    return [] if study.seeds_per_split == 1 else [f"--seeds-per-split{joint}{study.seeds_per_split}"]


def _words(study: str, source: str, name: str, config: Mapping[str, Any], *, joint: str) -> list[str]:
    values, usual = flat(config), defaults_of(study)
    named = [f"--{key}{joint}{value}" for key, value in {"name": name, **{k: config[k] for k in NAMED}}.items()]
    given = {key: value for key, value in typed(config).items() if key not in APART and value != usual.get(key)}
    # What the study sets and somebody typed back to the preset's value.
    given |= {key: values[key] for key, value in usual.items() if key != "seeds" and values[key] != value}
    return [study, source, *named, *typed_flags(given, joint=joint)]
