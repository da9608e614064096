"""What several tests of audits start from."""

import pytest
import torch

from clipmem_core.training.model import build_model


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights that stand for pretrained ones."""
    path = tmp_path_factory.mktemp("start") / "tiny.pt"
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), path)
    return str(path)
