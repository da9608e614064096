import re
import shlex
from pathlib import Path

import pytest

from clipmem_core.commands import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "data/results/README.md")]
PAGES += [ROOT / "clipmem_core" / "audits" / name for name in ("README.md", "CLUSTER.md")]
# In a code block a command ends with its line or comment; within a sentence it ends with the quote.
COMMAND = re.compile(r"`python -m clipmem_core ([^`]+)`|^    python -m clipmem_core ([^#\n]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE = re.compile(r"`(data/results/[\w.-]+\.csv)`")


def commands() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return list(dict.fromkeys(" ".join("".join(found).split()) for found in COMMAND.findall(text)))


@pytest.mark.parametrize("typed", commands())
def test_every_quoted_command_can_be_typed(typed: str) -> None:
    parse(shlex.split(typed))


def test_the_readme_quotes_every_kind_of_command() -> None:
    assert {typed.split()[0] for typed in commands()} >= {"inspect", "fetch", "audit", "score", "study", "export"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_what_a_page_links_to_or_names_as_a_table_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in LINK.findall(text) if not (page.parent / name).exists()]
    assert not missing + [name for name in FILE.findall(text) if not (ROOT / name).exists()]


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.encode()) <= 10_000


def test_the_first_commands_are_those_that_need_nothing_else() -> None:
    shown = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    ")]
    assert shown[:2] == ["make run", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make (run|test|check|bench|lowest)\b", README)) <= set(targets)
