"""One image encoder under three paradigms: the same pictures, resumable, and clear where a paradigm is missing."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits import paradigms
from clipmem_core.audits.paradigms import paradigms_folder, plan_runs, read_paradigms, run_paradigms
from clipmem_core.audits.store import MANIFEST, Audit
from clipmem_core.config import InputError
from tests.audits.small import Silent
from tests.conftest import Made


@pytest.fixture
def copied(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """The made ensemble, whose views are crops, in a data folder of the test's own."""
    return copy(made, made.ensemble, tmp_path, monkeypatch)


def copy(made: Made, audit: Audit, data: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    for name in ("cache", "sets"):
        shutil.copytree(made.data / name, data / name)
    shutil.copytree(audit.folder, data / "audits" / audit.name)
    monkeypatch.setenv("CLIPMEM_DATA", str(data))
    return Audit(data / "audits" / audit.name)


def test_three_paradigms_see_as_many_samples_of_the_same_pictures(copied: Audit) -> None:
    assert read_paradigms(copied) is None
    screen = Silent()
    table = run_paradigms(copied, seeds=1, epochs=1, screen=screen)
    # three runs, two layers each
    assert table[["paradigm", "layer"]].to_numpy().tolist() == [
        [name, layer] for name in ("clip", "supervised", "self-supervised") for layer in (1, 2)
    ]
    assert table["samples_seen"].nunique() == 1
    assert (table["views_seen"] / table["samples_seen"]).tolist() == [1, 1, 1, 1, 2, 2]
    assert table["unitmem_mean"].between(0, 1).all()
    assert table["linear_probe"].between(0, 1).all()
    assert not table["reused"].any()
    assert any("3 of 3 runs to go" in line for line in screen.lines)
    pd.testing.assert_frame_equal(table, read_paradigms(copied))
    with pytest.raises(InputError, match="--seeds must be at least 1 and --epochs at least 0, not 0 and 0"):
        run_paradigms(copied, seeds=0, screen=Silent())
    (copied.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="audit 'ensemble' is not finished"):
        run_paradigms(copied, screen=Silent())


def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(copied: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = paradigms.linear_probe

    def killed(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(paradigms, "linear_probe", killed)
    with pytest.raises(KeyboardInterrupt):
        run_paradigms(copied, seeds=1, epochs=1, screen=Silent())
    monkeypatch.setattr(paradigms, "linear_probe", probe)
    runs = paradigms_folder(copied) / "runs"
    trained = (runs / "clip-0" / "checkpoint.pt").stat().st_mtime_ns
    run_paradigms(copied, seeds=1, epochs=1, screen=Silent())
    assert (runs / "clip-0" / "checkpoint.pt").stat().st_mtime_ns == trained
    monkeypatch.setattr(paradigms, "complete", killed)
    screen = Silent()
    run_paradigms(copied, seeds=1, epochs=1, screen=screen)
    assert screen.lines[-1] == "0 of 3 runs to go"
    with pytest.raises(InputError, match="holds runs of 1 epochs: ask for --epochs 1, or delete it"):
        run_paradigms(copied, seeds=1, epochs=2, screen=screen)


def test_whole_pictures_teach_nothing_by_themselves(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy(made, made.paper, tmp_path, monkeypatch)
    assert [planned.paradigm for planned in plan_runs(audit, 0, 0)] == ["clip", "supervised"]
