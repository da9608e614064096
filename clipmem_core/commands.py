"""What each command does with what was typed. Wrong input is one line on stderr and exit code 2, never a traceback."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipmem_core.arguments import understood
from clipmem_core.audits.settings import audit_name
from clipmem_core.config import InputError, data_folder
from clipmem_core.flags import Audit, Export, Fetch, Inspect, Paradigms, Score, Study, Units
from clipmem_core.shortage import shortage

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def inspect(command: Inspect) -> None:
    from clipmem_core.audits.inspect import inspect_source

    inspect_source(command.source, command.options)


def fetch(command: Fetch) -> None:
    from clipmem_core.audits.screen import RichScreen
    from clipmem_core.pairs.debian.fetch import fetch as fetch_set

    with RichScreen() as screen:
        folder = fetch_set(command.name, data=data_folder(), report=screen.say)
        screen.say(f"next: python -m clipmem_core audit {folder} --name {command.name} --preset small")


def audit(command: Audit) -> None:
    from clipmem_core.audits.run import run_audit
    from clipmem_core.audits.screen import RichScreen, show_verdict

    with RichScreen(command.config.batch_size) as screen:
        name = command.name or audit_name(command.source, command.config)
        finished = run_audit(command.source, command.config, name=name, screen=screen)
    show_verdict(finished)


def score(command: Score) -> None:
    from clipmem_core.audits.checkpoints import score_checkpoints
    from clipmem_core.audits.screen import RichScreen, show_verdict

    with RichScreen() as screen:
        finished = score_checkpoints(
            command.source,
            command.config,
            name=command.name,
            membership=command.membership,
            checkpoints=command.checkpoints,
            screen=screen,
        )
    show_verdict(finished)


def study(command: Study) -> None:
    from clipmem_core.audits.screen import RichScreen
    from clipmem_core.review.study_decisions import decided_of
    from clipmem_core.studies.arm import parse_setting
    from clipmem_core.studies.results import show_study
    from clipmem_core.studies.run import run_study

    also = [parse_setting(text) for text in command.also]
    more: dict[str, Any] = {"also": also, "equal_time": command.equal_time, "only": command.only}
    with RichScreen(command.config.batch_size) as screen:
        done = run_study(
            command.study,
            command.source,
            command.config,
            name=command.name,
            screen=screen,
            decisions=decided_of,
            **more,
        )
    show_study(done)


def units(command: Units) -> None:
    from clipmem_core.audits.screen import RichScreen
    from clipmem_core.audits.store import open_audit
    from clipmem_core.audits.unitmem import run_references, run_units, say_layers, say_references

    with RichScreen() as screen:
        audit, members, sample = open_audit(command.name), command.members, command.sample
        say_layers(run_units(audit, members=members, sample=sample, screen=screen), screen)
        say_references(run_references(audit, members=members, sample=sample, screen=screen), screen)


def paradigms(command: Paradigms) -> None:
    from clipmem_core.audits.paradigms import run_paradigms, say_paradigms
    from clipmem_core.audits.screen import RichScreen
    from clipmem_core.audits.store import open_audit

    with RichScreen() as screen:
        audit = open_audit(command.name)
        say_paradigms(run_paradigms(audit, seeds=command.seeds, epochs=command.epochs, screen=screen), screen)


def export(command: Export) -> None:
    from clipmem_core.audits.screen import RichScreen
    from clipmem_core.audits.store import open_audit
    from clipmem_core.exports import write

    audit, path = open_audit(command.name), Path(command.out).expanduser()
    with RichScreen() as screen:
        summary = write(audit, command.format, path, overwrite=command.overwrite, progress=screen.pictures)
        screen.say(f"{path}: {summary.line}")
        for note in summary.notes:
            screen.say(f"note: {note}")
        if summary.command:
            screen.say(f"audit it: {summary.command}")


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "inspect": (Inspect, inspect),
    "fetch": (Fetch, fetch),
    "audit": (Audit, audit),
    "score": (Score, score),
    "study": (Study, study),
    "units": (Units, units),
    "paradigms": (Paradigms, paradigms),
    "export": (Export, export),
}


def parse(arguments: Sequence[str]) -> Any:
    """Turn what was typed into a command.

    Raises:
        InputError: one line that says what was not understood.
        SystemExit: help was asked for, and printed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(DONE if arguments else WRONG_INPUT)
    if arguments[0] not in COMMANDS:
        raise InputError(f"command {arguments[0]!r} is unknown: choose one of {', '.join(COMMANDS)}")
    kind, fields = COMMANDS[arguments[0]][0], {}
    if kind is Study:
        from clipmem_core.studies.plans import STUDIES, defaults_of

        fields = defaults_of(next((word for word in arguments[1:] if word in STUDIES), ""))
    return understood(kind, arguments[1:], program=f"python -m clipmem_core {arguments[0]}", fields=fields)


def _overview() -> str:
    lines = [f"  {name:9} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
    return "\n".join(["usage: python -m clipmem_core COMMAND …", "", *lines, "", "COMMAND --help lists every flag."])


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        command = parse(arguments)
        COMMANDS[arguments[0]][1](command)
    except InputError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `… | head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except (OSError, RuntimeError, MemoryError) as error:
        said, short = " ".join(str(error).splitlines()), shortage(error)
        go_on = f"{short}, and the same command goes on where it stopped{f' ({said})' if said else ''}"
        print(f"error: {go_on if short else said}", file=sys.stderr)
        return WRONG_INPUT if short else FAILED
    return DONE
