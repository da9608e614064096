"""What the tests of the page Mitigations share: its parts, jobs left in the data folder, what it starts."""

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Task
from clipmem_core.audits.store import Audit
from clipmem_core.dashboard import running, studies
from clipmem_core.studies.store import StudyFolder
from tests.dashboard.mitigations.made_mitigations import make_mitigations
from tests.fixtures import leave_job as leave_job_in

PAGE = "pages/mitigations.py"


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    app = next(button for button in app.button if button.label == label).click().run()
    assert not app.exception, app.exception[0].message
    return app


def leave_study_job(data: Path, name: str, *, output: str = "", **how: Any) -> None:
    leave_job_in(data / "jobs" / ".studies" / name, said=output, **how)


@pytest.fixture
def lab(data: Path, made: dict[str, Audit]) -> StudyFolder:
    """A finished study of five arms over three seeds."""
    return make_mitigations(data, made["paper"])


@pytest.fixture
def went_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the page does to jobs, instead of doing it."""
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(studies, "resume_study", lambda study: done.append(("resume", study.name)))
    monkeypatch.setattr(running, "cancel", lambda job: done.append(("cancel", job.name)))
    monkeypatch.setattr(Task, "start", lambda task: done.append(("again", task.folder.name)))
    return done
