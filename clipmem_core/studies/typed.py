"""What study.json says was asked for → what is typed to make the study again, or to go on with it."""

import shlex
from typing import Any

from clipmem_core.audits.results import FOLLOWING, typed_flags
from clipmem_core.audits.settings import flag, flat, typed
from clipmem_core.studies.plans import defaults_of
from clipmem_core.studies.store import StudyFolder


def command_of(study: StudyFolder) -> str:
    """Return the command that makes a study again, with the arms that a person added; on any machine."""
    asked = study.asked
    words = [f"python -m clipmem_core study {asked['study']}", shlex.quote(asked["source"]), f"--name {study.name}"]
    words += [f"--preset {asked['config']['preset']}", f"--seeds {asked['config']['seeds']}"]
    given = {name: value for name, value in _given(asked).items() if name not in FOLLOWING}
    also = [f"--also {shlex.quote(arm['setting'])}" for arm in study.own]
    return " ".join([*words, *typed_flags(given), *also])


def resume_arguments(study: StudyFolder) -> list[str]:
    """Return what follows `study` on the command line to go on with a study: the very same config.

    The arms that a person added are in its folder already; those with equal time may be still to come.
    """
    asked = study.asked
    config = asked["config"]
    flags = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in _given(asked).items()]
    named = [f"--name={study.name}", f"--preset={config['preset']}", f"--seeds={config['seeds']}"]
    equal_time = ["--equal-time"] if asked.get("equal_time") else []
    return [asked["study"], asked["source"], *named, *flags, *equal_time]


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the config that have to be typed, beside preset and seeds."""
    config, usual = asked["config"], defaults_of(asked["study"])
    given = {
        name: value
        for name, value in typed(config).items()
        if name not in ("seeds", "members") and value != usual.get(name)
    }
    # What the study sets and somebody typed back to the preset's value.
    return given | {
        name: flat(config)[name] for name, value in usual.items() if name != "seeds" and flat(config)[name] != value
    }
