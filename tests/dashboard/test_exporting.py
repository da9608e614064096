"""The view of exports: each is the command that is shown, followed while it runs, and offered at its end."""

import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audit.jobs import Task, export_task
from clipmem_core.audit.store import PAIRS, Audit, write_table
from clipmem_core.cli import parse
from clipmem_core.config import data_folder
from clipmem_core.dashboard.exporting import CHOICES
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import open_page, press, texts
from tests.fixtures import Copy
from tests.fixtures import leave_job as leave_job_in


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """An audit with three pairs removed and one recaptioned."""
    audit = copy()
    pairs = audit.pairs
    pairs["injected"] = None  # an export would have to take injected captions back
    write_table(audit.folder / PAIRS, pairs)
    ids, review = pairs["pair_id"].tolist(), open_review(audit)
    review.decide(ids[3:6], "remove")
    review.decide([ids[2]], "recaption", captions=["new one"])
    return audit


def open_export(**parameters: str) -> AppTest:
    return open_page("pages/decisions.py", audit="made", view="export", **parameters)


def leave_job(data: Path, **what: Any) -> None:
    leave_job_in(data / "jobs" / ".exports" / "made" / "made-html.html", **what)


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


def test_a_finished_export_is_offered_with_what_it_holds(audit: Audit) -> None:
    out = data_folder().absolute() / "exports" / "made" / "made-csv.csv"
    job = export_task(audit, "csv", out).start()
    while job.running:
        time.sleep(0.05)
    app = open_export(format="csv")
    assert [button.label for button in app.get("download_button")] == ["Download"]
    assert "97 pairs kept, 3 removed, 1 " in "\n".join(texts(app))
    assert str(out) in [code.value for code in app.code]


@pytest.mark.parametrize(("exit_code", "shown"), [(2, "out of space"), (130, "Cancelled"), (None, "failed")])
def test_an_export_that_did_not_finish_says_why(audit: Audit, data: Path, exit_code: int | None, shown: str) -> None:
    leave_job(data, said="out of space\n", exit_code=exit_code)
    app = open_export(format="html")
    assert shown in " ".join([*texts(app), *(each.value for kind in ("error", "info") for each in app.get(kind))])
    assert "Export" in [button.label for button in app.button]
