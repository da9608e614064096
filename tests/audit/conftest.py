"""What several tests of audits start from."""

from pathlib import Path

import pytest
import torch

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.training.model import build_model
from tests.audit.small import Silent, config_of, made_once


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights that stand for pretrained ones."""

    def write(folder: Path) -> None:
        torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), folder / "tiny.pt")

    return str(made_once(tmp_path_factory, "start", write) / "tiny.pt")


@pytest.fixture(scope="session")
def two_rounds(start: str, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of heads on locked towers, in two rounds."""
    from tests.audit.test_locked import MANY_WRONG, flags

    def make(data: Path) -> None:
        run_audit("scenes", config_of(flags(start, *MANY_WRONG)), name="a", screen=Silent())

    return Audit(made_once(tmp_path_factory, "two-rounds", make) / "audits" / "a")
