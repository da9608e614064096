"""What the tests of the page Audits share: its parts, jobs and checks left in the data folder, what it starts."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Task
from clipmem_core.audits.preflight import Request, read_request
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.config import AuditConfig, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard import new_audit, running
from tests.fixtures import leave_job

PAGE = "pages/audits.py"

FOUND = {"rows": 230, "lookalikes": 3, "pairs": 220, "captions": 1100, "quarantined": 10}

FOUND |= {"groups": {"scored": 170, "external": 50}}


def button(app: AppTest, label: str) -> Any:
    return next(each for each in app.button if each.label == label)


def labels(app: AppTest) -> list[str]:
    return [each.label for each in app.button]


def table(app: AppTest, column: str) -> Any:
    """The table that has a column."""
    return next(each.value for each in app.dataframe if column in each.value.columns)


def unfinish(audit: Audit) -> Audit:
    (audit.folder / "manifest.json").unlink()
    for name, step in (("r0-f0", 50), ("r0-f1", 25)):
        folder = audit.folder / "members" / name
        folder.mkdir(parents=True)
        line = {"step": step, "steps": 100, "epoch": step / 10, "loss": 2.0, "log_probability": -1.0, "seconds": 10.0}
        (folder / "log.jsonl").write_text(json.dumps(line | {"samples_per_second": 900.0}) + "\n")
    for path in audit.folder.rglob("*"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    return audit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every process that the page starts or cancels, instead of doing it."""
    made: list[tuple[str, object]] = []

    def start(task: Task) -> None:
        words = list(task.arguments)
        if words[0] == "audit":
            made.append(("audit", (task.folder.name, words[1:])))
        elif words[0] == "fetch":
            made.append(("fetch", words[-1]))
        elif words[0] == "check":
            made.append(("check", read_request(Path(words[-1]))))
        else:
            made.append(("job", (task.folder.name, words)))

    monkeypatch.setattr(Task, "start", start)
    for module in (new_audit, running):
        monkeypatch.setattr(module, "cancel", lambda job: made.append(("cancel", job.name)))
    return made


@pytest.fixture
def leave_check(data: Path) -> Callable[..., Request]:
    """Leaves a check of the drawn set with what it has said."""

    def leave(*lines: dict[str, object] | str, exit_code: int | None = 0, request: Request | None = None) -> Request:
        config = as_dict(preset_config("tiny")) | {"epochs": 7}
        if request is None:
            source = SourceOptions(**config.pop("source"))
            request = Request("scenes", "mine", AuditConfig(**config, source=source))
        name = f".checks/{request.key}"
        said = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        leave_job(data / "jobs" / name, running=exit_code is None, exit_code=exit_code, said=said)
        stored = {"source": request.source, "name": request.name, "config": as_dict(request.config)}
        write_json(data / "jobs" / name / "request.json", stored)
        return request

    return leave


def found(*, exact: bool, reasons: list[dict[str, object]] | None = None) -> dict[str, object]:
    return {"stage": "found", "exact": exact, "reasons": reasons or [], **FOUND}
