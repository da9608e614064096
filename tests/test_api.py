"""The examples of the Python interface, on an audit of the synthetic set."""

import doctest
import shutil
from pathlib import Path

import pytest

from clipmem_core import open_audit
from clipmem_core.api import audits


def test_the_examples_run(typed: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(typed, data, dirs_exist_ok=True)
    names = {"audit": open_audit("scenes")}
    undocumented = [
        name
        for name, value in vars(audits.AuditFrames).items()
        if not name.startswith("_") and "Example:" not in (value.__doc__ or "")
    ]
    assert undocumented == []
    result = doctest.testmod(audits, extraglobs=names)
    assert result.failed == 0
    assert result.attempted > 15
