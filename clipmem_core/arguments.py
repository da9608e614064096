"""Parses the words after a command into the command's dataclass; the first mistake is one line."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, field
from typing import Any, NoReturn, get_args

from clipmem_core.config import FIELDS, AuditConfig, InputError, as_dict, flat, meant, preset_config


def positional(metavar: str, help: str | Callable[[], str]) -> Any:
    """Declare a positional field of a command."""
    return field(metadata={"metavar": metavar, "help": help})


def flag(help: str, default: Any = MISSING, **how: Any) -> Any:
    """Declare a field of a command with a flag, required without a default; a `repeated` flag takes one value each
    time."""
    return field(default=default, metadata={"help": help, **how})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (`{self.prog} --help` lists every flag)")


def parse_command(kind: type, words: Sequence[str], *, program: str, changes: Mapping[str, Any]) -> Any:
    """Parse the words after a command into its dataclass; `changes` are defaults that differ from the preset's."""
    own, parts, flags = dataclasses.fields(kind), dict[str, Any](), list[str]()
    usage = " ".join([program, "[options]", *(each.metadata["metavar"] for each in own if "metavar" in each.metadata)])
    how: dict[str, Any] = {"allow_abbrev": False, "argument_default": argparse.SUPPRESS}
    parser = _Parser(prog=program, usage=usage, description=kind.__doc__, **how)
    for each in own:
        if each.default_factory is MISSING:
            flags += _add(parser, each.name, each.type, each.default, **each.metadata)
            continue
        parts[each.name] = each.default_factory()
        usual = flat(as_dict(parts[each.name])) | dict(changes)
        group = parser.add_argument_group("settings")
        for name, value in usual.items():
            flags += _add(group, name, type(value), value, help=FIELDS[name].help)
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant(unknown[0], flags)}")
    typed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()
    }
    values = {each.name: typed.pop(each.name) for each in own if each.name in typed}
    for name, part in parts.items():
        if isinstance(part, AuditConfig):
            config = dataclasses.replace(preset_config(typed.get("preset", part.preset)), **changes)
            part = dataclasses.replace(config, source=_replaced(config.source, typed))
        values[name] = _replaced(part, typed)
    return kind(**values)


def _add(parser: Any, name: str, kind: Any, default: Any, *, help: Any, **how: Any) -> list[str]:
    """Add a field to a parser or a group, and return its flags."""
    said = (help() if callable(help) else help).replace("%", "%%")
    if "metavar" in how:
        return parser.add_argument(name, help=said, **how).option_strings
    shown = default not in (MISSING, "", ()) and default is not False
    arguments: dict[str, Any] = {"help": f"{said} (default: {default})".strip() if shown else said}
    arguments["required"] = default is MISSING
    value, *more = get_args(kind) or [kind]
    if kind is bool:
        arguments["action"] = argparse.BooleanOptionalAction
    elif isinstance(value, str):
        arguments["choices"] = [value, *more]
    else:
        arguments |= {"type": value, "metavar": value.__name__.upper()}
        arguments |= {"action": "append"} if how.get("repeated") else {"nargs": "*"} if more else {}
    return parser.add_argument("--" + name.replace("_", "-"), **arguments).option_strings


def _replaced(part: Any, typed: Mapping[str, Any]) -> Any:
    """Return a config, or the options of a source, with the typed fields."""
    names = {each.name for each in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: value for name, value in typed.items() if name in names})
