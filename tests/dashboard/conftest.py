import pytest

from clipmem_core.auditing.folder.jobs import JobRequest
from clipmem_core.dashboard import page
from tests.fixtures import copy, data, made

__all__ = ["copy", "data", "made"]
Started = list[tuple[str, list[str]]]


@pytest.fixture(autouse=True)
def scrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pages to their ends; AppTest has no screen."""
    monkeypatch.setattr(page, "is_on_screen", lambda key: True)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Folder and arguments of every job that a page starts, instead of starting it."""
    jobs: Started = []
    monkeypatch.setattr(
        JobRequest, "start", lambda task: jobs.append((task.folder.name, list(task.arguments)))
    )
    return jobs
