"""What each command does with what was typed. Wrong input is one line on stderr and exit code 2, never a traceback."""

import contextlib
import dataclasses
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from clipmem_core.audits.settings import audit_name
from clipmem_core.config import AuditConfig, InputError, SourceOptions, data_folder, preset_config

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help="a path, a hub name, or `scenes`")]


@dataclass(frozen=True)
class Inspect:
    """Say what is in a data set and what is broken; changes nothing."""

    source: Source
    options: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class Fetch:
    """Fetch a real data set from Debian's archive into the data folder."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET", help="openclipart | tuxpaint")]


@dataclass(frozen=True)
class Audit:
    """Train members with and without parts of a data set and score how strongly each pair is memorized."""

    source: Source
    name: str = ""  # the audit's folder; empty names it after the source
    config: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True)
class Score:
    """Score existing checkpoints: no training."""

    source: Source
    name: str  # the audit's folder
    membership: str  # CSV or Parquet: pair_id, one true/false column a member, and optionally group
    checkpoints: tuple[str, ...]  # open_clip checkpoints, in the order of the member columns
    config: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True)
class Export:
    """Write an audit's cleaned data set, decisions or report in a format of other tools."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help="the audit")]
    format: str  # csv | coco | wds | datacomp | html | decisions
    out: str  # the file to write
    overwrite: bool = False  # replace what is there


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
    kind = COMMANDS[arguments[0]][0]
    rest = list(arguments[1:])
    program = f"python -m clipmem_core {arguments[0]}"
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    default = _defaults(kind, rest)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=rest, prog=program, default=default, config=marks)
    except SystemExit as end:
        if end.code:
            raise InputError(f"{_one_line(errors.getvalue())} (`{program} --help` lists every flag)") from None
        raise


def _defaults(kind: type, arguments: list[str]) -> Any:
    """Return the command with the preset's values, so that every flag shows and overrides the right one."""
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory]
    if "config" not in {f.name for f in dataclasses.fields(kind)}:
        return None
    preset = AuditConfig().preset
    for place, word in enumerate(arguments):
        if word == "--preset" and place + 1 < len(arguments):
            preset = arguments[place + 1]
        elif word.startswith("--preset="):
            preset = word.split("=", 1)[1]
    return kind(config=preset_config(preset), **dict.fromkeys(required, tyro.MISSING))


def _one_line(box: str) -> str:
    """Take the sentence out of the box that the parser draws: of lines or, where a terminal has none, of dashes."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │╭╮╰╯─") for line in plain.splitlines()]
    kept = ["missing:"] if "Required options" in plain else []
    for line in lines:
        if re.fullmatch(r"-*|(Parsing|Value) error|(Required|Unrecognized) options|Missing (argument|from .*)", line):
            continue
        if line.startswith(("For full helptext", "Perhaps you meant", "Similar arguments", "To see", "Argument help")):
            break
        kept.append(line)
    return " ".join(kept).removesuffix(" (required)") or "the arguments were not understood"


def _overview() -> str:
    lines = [f"  {name:8} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
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
    except (OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return FAILED
    return DONE
