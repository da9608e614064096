import pytest

from clipmem_core.dashboard import page
from tests.fixtures import copy, data, made

__all__ = ["copy", "data", "made"]


@pytest.fixture(autouse=True)
def scrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pages to their ends; AppTest has no screen."""
    monkeypatch.setattr(page, "is_on_screen", lambda key: True)
