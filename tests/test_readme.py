import re
import shlex
from pathlib import Path

import pytest

from clipmem_core.commands import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# In a code block a command ends with its line or comment; within a sentence it ends with the quote.
COMMAND = re.compile(r"`python -m clipmem_core ([^`]+)`|^    python -m clipmem_core ([^#\n]+)", re.MULTILINE)


def tree() -> list[str]:
    """Return the paths in the tree of the code: lines of a name and a sentence, indented by two a folder."""
    block = README.split("## The code\n")[1].split("\n## ")[0]
    folders: list[str] = []
    paths = []
    for line in block.splitlines():
        if line.startswith("    "):
            name = line.split()[0]
            folders[(len(line) - len(line.lstrip())) // 2 - 2 :] = [name]
            paths.append("".join(folders))
    return paths


def modules(folder: str) -> set[str]:
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))
    return {path for path in found if not path.endswith("__init__.py")}


def test_everything_in_the_tree_exists() -> None:
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing
    assert len(tree()) == len(set(tree()))


def test_every_module_is_in_the_tree() -> None:
    assert not (modules("clipmem_core") | modules("pages") | {"app.py", "tests/", "data/"}) - set(tree())


def test_everything_in_the_tree_has_a_sentence() -> None:
    block = README.split("## The code\n")[1].split("\n## ")[0]
    named = [line.split() for line in block.splitlines() if line.startswith("    ") and ".py" in line.split()[0]]
    assert not [words[0] for words in named if len(words) < 3]


def commands() -> list[str]:
    return [" ".join("".join(found).split()) for found in COMMAND.findall(README)]


@pytest.mark.parametrize("typed", commands())
def test_every_quoted_command_can_be_typed(typed: str) -> None:
    parse(shlex.split(typed))


def test_the_readme_quotes_every_kind_of_command() -> None:
    assert {typed.split()[0] for typed in commands()} >= {"inspect", "fetch", "audit", "score"}


def test_the_first_commands_are_those_that_need_nothing_else() -> None:
    shown = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    ")]
    assert shown[:2] == ["make run", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make (run|test|check|bench)\b", README)) <= set(targets)
