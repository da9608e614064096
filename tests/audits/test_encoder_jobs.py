import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipmem_core.audits import encoder_jobs
from clipmem_core.audits.encoder_jobs import find_encoder_job, start_encoder_job, typed_command
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.commands import Paradigms, Units, parse


def test_it_waits_in_the_queue_and_then_runs_the_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Path, list[str]]] = []

    def start(folder: Path, command: Sequence[str]) -> None:
        started.append((folder, list(command)))

    monkeypatch.setattr(encoder_jobs, "start_job_in", start)
    start_encoder_job(Audit(data / "audits" / "cats"), "units", sample=1000)
    (folder, command) = started[0]
    assert folder == data / "jobs" / ".encoders" / "cats" / "units"
    assert command[:4] == [sys.executable, "-m", "clipmem_core.audits.queue", "units of cats"]
    assert command[4:] == [sys.executable, "-m", "clipmem_core", "units", "cats", "--sample", "1000"]


def test_the_commands_that_are_shown_can_be_typed(data: Path) -> None:
    audit = Audit(data / "audits" / "cats")
    for kind, sample, command in (
        ("units", 0, Units("cats")),
        ("units", 7, Units("cats", sample=7)),
        ("paradigms", 0, Paradigms("cats")),
    ):
        typed = typed_command(audit, kind, sample=sample)
        assert parse(shlex.split(typed.removeprefix("python -m clipmem_core "))) == command


def test_a_job_is_found_again_by_audit_and_kind(data: Path) -> None:
    audit = Audit(data / "audits" / "cats")
    folder = data / "jobs" / ".encoders" / "cats" / "units"
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
    job = find_encoder_job(audit, "units")
    assert job is not None
    assert not job.running
    assert find_encoder_job(audit, "paradigms") is None
