import pytest

from clipmem_core.dashboard import overview, page
from tests.fixtures import copy, data, made

__all__ = ["copy", "data", "made"]


@pytest.fixture(autouse=True)
def scrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pages to their ends; AppTest has no screen."""
    for module in (overview, page):
        monkeypatch.setattr(module, "is_on_screen", lambda key: True)
