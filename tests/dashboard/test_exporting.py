import os
import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Job, Task, export_task
from clipmem_core.audits.store import PAIRS, Audit, write_table
from clipmem_core.commands import parse
from clipmem_core.config import data_folder
from clipmem_core.dashboard.exporting import CHOICES
from clipmem_core.review.decisions import Review, open_review
from tests.dashboard.test_pages import open_page, press, texts
from tests.fixtures import Copy
from tests.fixtures import leave_job as leave_job_in


@pytest.fixture
def audit(copy: Copy) -> Audit:
    audit = copy()
    pairs = audit.pairs
    pairs["planted"] = None  # an export would have to take planted captions back
    write_table(audit.folder / PAIRS, pairs)
    return audit


@pytest.fixture
def review(audit: Audit) -> Review:
    """Three pairs removed, one recaptioned."""
    ids, review = audit.pairs["pair_id"].tolist(), open_review(audit)
    review.decide(ids[3:6], "remove")
    review.decide([ids[2]], "recaption", captions=["new one"])
    return review


def open_export(**parameters: str) -> AppTest:
    return open_page("pages/decisions.py", audit="made", view="export", **parameters)


def finish(audit: Audit, format: str, suffix: str = "") -> Job:
    """Run the job that the page starts to its end."""
    out = data_folder().absolute() / "exports" / audit.name / f"{audit.name}-{format}{suffix}"
    job = export_task(audit, format, out).start()
    while job.running:
        time.sleep(0.05)
    assert job.exit_code == 0, job.last_line
    return job


@pytest.mark.parametrize("name", CHOICES)
def test_every_export_is_a_job_with_the_command_that_is_shown(
    audit: Audit, data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    started: list[Task] = []
    monkeypatch.setattr(Task, "start", lambda task: started.append(task))
    app = press(open_export(format=name), "Export")
    (task,), (format, suffix) = started, CHOICES[name]
    assert app.code[-1].value == task.typed
    command = parse(task.arguments)
    assert (command.name, command.format, command.overwrite) == ("made", format, True)
    assert Path(command.out) == data / "exports" / "made" / f"made-{format}{suffix}"


def test_a_finished_export_is_offered_with_what_it_holds(audit: Audit, review: Review) -> None:
    assert not open_export(format="csv").get("download_button")
    finish(audit, "csv", ".csv")
    app = open_export(format="csv")
    assert [button.label for button in app.get("download_button")] == ["Download"]
    said = "\n".join(texts(app))
    assert "97 pairs kept, 3 removed, 1 " in said
    assert "quarantined input rows" in said


def test_a_folder_is_offered_by_its_path(audit: Audit, review: Review) -> None:
    path = Path(finish(audit, "imagefolder").arguments[-2])
    assert (path / "metadata.jsonl").is_file()
    app = open_export(format="imagefolder")
    assert not app.get("download_button")
    assert str(path) in [code.value for code in app.code]


@pytest.mark.parametrize(
    ("exit_code", "shown"),
    [(2, "out of space"), (130, "Cancelled"), (None, "failed"), (0, "")],
)
def test_how_the_process_ended_is_told(audit: Audit, data: Path, exit_code: int | None, shown: str) -> None:
    leave_job(data, said="out of space\n", exit_code=exit_code)
    app = open_export(format="html")
    said = " ".join([*texts(app), *(each.value for kind in ("error", "info") for each in app.get(kind))])
    assert shown in said
    assert bool(app.error) == (exit_code in (2, None))
    assert "Export" in [button.label for button in app.button]


def test_a_process_at_work_shows_how_far_it_is_and_that_it_is_cancelling(
    audit: Audit, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_job(data, said="25 of 100 pictures\n", running=True)
    monkeypatch.setattr(os, "killpg", lambda group, signal: None)
    app = open_export(format="html")
    bar = app.get("progress")[-1].proto
    assert (bar.value, bar.text) == (25, "25 of 100 pictures")
    assert "Export" not in [button.label for button in app.button]
    assert "Cancelling" in press(app, "Cancel").info[0].value


def leave_job(data: Path, **what: Any) -> None:
    leave_job_in(data / "jobs" / ".exports" / "made" / "made-html.html", **what)
