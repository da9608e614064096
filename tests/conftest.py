"""Small finished audits, made once, that many tests read and none may change."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import Audit, file_sha256
from tests.audits.small import ENSEMBLE, PAPER, Silent, config_of

# A busy machine makes no test wrong: an example may take as long as it takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@dataclass(frozen=True)
class Made:
    """A data folder with an audit of the drawn set in each protocol; the ensemble grew from one repeat to two."""

    data: Path
    paper: Audit
    ensemble: Audit
    before_growth: dict[str, str]  # hash of each file that the ensemble's first members had left


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    data = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        paper = run_audit("scenes", config_of(PAPER), name="paper", screen=Silent())
        ensemble = run_audit("scenes", config_of([*ENSEMBLE, "--members", "2"]), name="ensemble", screen=Silent())
        before = {
            str(path.relative_to(ensemble.folder)): file_sha256(path)
            for path in (ensemble.folder / "members").rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        run_audit("scenes", config_of([*ENSEMBLE, "--members", "4"]), name="ensemble", screen=Silent())
    return Made(data, paper, ensemble, before)


@pytest.fixture(params=["paper", "ensemble"])
def audit(made: Made, request: pytest.FixtureRequest) -> Audit:
    """The audit of either protocol."""
    return getattr(made, request.param)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder of the test's own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CLIPMEM_DATA", str(folder))
    return folder
