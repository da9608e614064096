import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits.store import Audit, write_json, write_manifest
from clipmem_core.config import InputError
from clipmem_core.review import map_jobs, maps
from clipmem_core.review.map_jobs import main, map_task
from clipmem_core.review.maps import map_file, map_path
from tests.review.embedded import embed

Copy = Callable[..., Audit]
NAME = "r0-f0.text"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with random embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


def test_a_map_is_drawn_by_a_process_of_its_own_that_is_found_again(audit: Audit, data: Path) -> None:
    task = map_task(audit, NAME)
    assert task.folder == data / "jobs" / ".maps" / map_path(audit, NAME).stem
    assert task.command == [sys.executable, "-m", "clipmem_core.review.map_jobs", "made", NAME]
    assert task.find() is None
    task.folder.mkdir(parents=True)
    write_json(task.folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
    job = task.find()
    assert job is not None
    assert not job.running
    assert map_jobs.seconds_running(job) >= 0


def test_a_map_that_cannot_be_has_no_job(audit: Audit) -> None:
    with pytest.raises(InputError, match="has no map"):
        map_task(audit, "../../x.image")


def test_the_process_says_what_it_does_and_leaves_the_map(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_two(vectors: np.ndarray, *, say: object) -> np.ndarray:
        return vectors[:, :2]

    monkeypatch.setattr(maps, "lay_out", first_two)
    assert main("made", NAME) == 0
    assert map_file(audit, NAME) is not None
    assert capsys.readouterr().out == "reading the embeddings\n"


@pytest.mark.parametrize(("name", "line"), [("x.image", "has no map"), (NAME, "text.faiss is missing")])
def test_a_mistake_is_one_line_and_exit_code_2(
    audit: Audit, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    (audit.member("r0-f0") / "text.faiss").unlink()
    assert main("made", name) == 2
    printed = capsys.readouterr().out
    assert line in printed
    assert printed.count("\n") == 1
