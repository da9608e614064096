import re
import shlex
from pathlib import Path

import pytest

from clipmem_core.cli import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "data/results/README.md")]
PAGES += [ROOT / "clipmem_core" / "audit" / name for name in ("README.md", "CLUSTER.md")]
# In a code block a command ends with its line or comment; within a sentence it ends with the quote.
COMMAND = re.compile(r"`python -m clipmem_core ([^`]+)`|^    python -m clipmem_core ([^#\n]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE = re.compile(r"`(data/results/[\w.-]+\.csv)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_quoted_command_can_be_typed_and_every_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in COMMAND.findall(text):
        parse(shlex.split("".join(words)))
    missing = [name for name in LINK.findall(text) if not (page.parent / name).exists()]
    assert not missing + [name for name in FILE.findall(text) if not (ROOT / name).exists()]
