"""Small finished audits, made once, that many tests read and none may change."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import Audit, file_sha256
from tests.audits.small import ENSEMBLE, PAPER, Silent, config_of, here, made_once

# A busy machine makes no test wrong: an example may take as long as it takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@dataclass(frozen=True)
class Made:
    """A data folder with an audit of the drawn set in each protocol; the ensemble grew from one repeat to two."""

    data: Path

    @property
    def paper(self) -> Audit:
        return Audit(self.data / "audits" / "paper")

    @property
    def ensemble(self) -> Audit:
        return Audit(self.data / "audits" / "ensemble")

    @property
    def before_growth(self) -> dict[str, str]:
        """The hash of each file that the ensemble's first members had left."""
        return json.loads((self.data / "before_growth.json").read_text())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(made_once(tmp_path_factory, "made", train_both))


def train_both(data: Path) -> None:
    run_audit("scenes", config_of(PAPER), name="paper", screen=Silent(), executor=here)
    members = [*ENSEMBLE, "--members"]
    ensemble = run_audit("scenes", config_of([*members, "2"]), name="ensemble", screen=Silent(), executor=here)
    before = {
        str(path.relative_to(ensemble.folder)): file_sha256(path)
        for path in (ensemble.folder / "members").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    (data / "before_growth.json").write_text(json.dumps(before))
    run_audit("scenes", config_of([*members, "4"]), name="ensemble", screen=Silent(), executor=here)


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
