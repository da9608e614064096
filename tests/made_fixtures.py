"""Fixtures of tests that read finished audits: a made one of each protocol, and copies that a test may break."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.audits.store import Audit
from tests.made_audit import make_audit

Copy = Callable[..., Audit]  # of the fixture `copy`


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that is the test's own."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    """A finished audit of each protocol, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    return {protocol: make_audit(folder, protocol, protocol=protocol) for protocol in ("ensemble", "paper")}


@pytest.fixture
def copy(made: dict[str, Audit], data: Path) -> Copy:
    """Copy a made audit into the test's data folder under a name; the pictures stay where they are."""

    def copied(protocol: str = "ensemble", *, name: str = "made") -> Audit:
        return Audit(Path(shutil.copytree(made[protocol].folder, data / "audits" / name)))

    return copied
