"""Turns what was typed after a command into the command's dataclass; what was not understood is one line."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from clipmem_core.config import FIELDS, InputError, preset_config


def understood(kind: type, arguments: Sequence[str], *, program: str, fields: Mapping[str, Any] | None = None) -> Any:
    """Turn what was typed into a command.

    Args:
        kind: the command's dataclass.
        arguments: the words after its name.
        program: what precedes them.
        fields: of the config, where the command has another default than the preset.

    Raises:
        InputError: one line that says what was not understood.
        SystemExit: help was asked for, and printed.
    """
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    default = _defaults(kind, list(arguments), fields or {})
    rest = [word for word in arguments if word not in _switched_on(default)]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=rest, prog=program, default=default, config=marks)
    except SystemExit as end:
        if end.code:
            raise InputError(f"{_one_line(errors.getvalue())} (`{program} --help` lists every flag)") from None
        raise


def _defaults(kind: type, arguments: list[str], fields: Mapping[str, Any]) -> Any:
    """Return the command with the preset's values, so that every flag shows and overrides the right one.

    The preset is the one typed, or that of the config which the command has where nothing is typed.
    """
    own = {f.name: f for f in dataclasses.fields(kind)}
    required = [name for name, f in own.items() if f.default is f.default_factory]
    if "config" not in own:
        return None
    make: Any = own["config"].default_factory
    preset = make().preset
    for place, word in enumerate(arguments):
        if word == "--preset" and place + 1 < len(arguments):
            preset = arguments[place + 1]
        elif word.startswith("--preset="):
            preset = word.split("=", 1)[1]
    config = dataclasses.replace(preset_config(preset), **fields)
    return kind(config=config, **dict.fromkeys(required, tyro.MISSING))


def _switched_on(command: Any) -> set[str]:
    """Return the switches that a preset turns on: they say nothing, and may be typed all the same."""
    config = vars(command.config) if command is not None else {}
    return {FIELDS[name].flag for name, value in config.items() if value is True}


def _one_line(box: str) -> str:
    """Take the sentence out of the box that the parser draws: of lines or, where a terminal has none, of dashes."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │╭╮╰╯─") for line in plain.splitlines()]
    near = re.search(r"(?:Perhaps you meant|Similar arguments)\W*(--[\w-]+)", plain)
    kept = ["missing:"] if "Required options" in plain else []
    for line in lines:
        if re.fullmatch(r"-*|(Parsing|Value) error|(Required|Unrecognized) options|Missing (argument|from .*)", line):
            continue
        if line.startswith(("For full helptext", "Perhaps you meant", "Similar arguments", "To see", "Argument help")):
            break
        kept.append(line)
    said = " ".join(kept).removesuffix(" (required)") or "the arguments were not understood"
    return f"{said}; did you mean {near[1]}?" if near else said
