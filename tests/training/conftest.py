from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training import toys


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    return toys.write_model(tmp_path)
