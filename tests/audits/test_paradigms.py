"""One image encoder under three paradigms: the same pictures, resumable, and clear where a paradigm is missing."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits import paradigms
from clipmem_core.audits.paradigms import class_numbers, paradigms_folder, plan_runs, read_paradigms, run_paradigms
from clipmem_core.audits.store import MANIFEST, PAIRS, Audit, write_table
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


def test_a_member_of_as_many_epochs_is_the_clip_run(copied: Audit) -> None:
    reused = {run.folder.name: run.reused for run in plan_runs(copied, 0, 0)}
    assert reused == {"clip-0": True, "supervised-0": False, "self-supervised-0": False}
    assert not any(planned.reused for planned in plan_runs(copied, 0, 3))
    # The audit has two repeats: a third seed takes the first member's pictures and trains anew.
    third = plan_runs(copied, 2, 0)
    assert [planned.run.name for planned in third] == ["r0-f0"] * 3
    assert not any(planned.reused for planned in third)
    pairs = copied.pairs
    pairs.loc[pairs.index[::2], "label"] = None
    write_table(copied.folder / PAIRS, pairs)
    for planned in plan_runs(copied, 0, 0):
        assert pairs["label"].iloc[planned.run.data.rows].notna().all()
        assert not planned.reused


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


def test_without_labels_the_other_two_run(copied: Audit) -> None:
    pairs = copied.pairs
    pairs["label"] = pd.Series([None] * len(pairs), dtype="string")
    write_table(copied.folder / PAIRS, pairs)
    screen = Silent()
    table = run_paradigms(copied, seeds=1, epochs=1, screen=screen)
    assert list(dict.fromkeys(table["paradigm"])) == ["clip", "self-supervised"]
    assert table["linear_probe"].isna().all()
    assert "note: no supervised runs, since the pairs have no labels, or of one class alone" in screen.lines


def test_whole_pictures_teach_nothing_by_themselves(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy(made, made.paper, tmp_path, monkeypatch)
    assert [planned.paradigm for planned in plan_runs(audit, 0, 0)] == ["clip", "supervised"]


def test_classes_are_numbered_whatever_their_type() -> None:
    assert class_numbers(pd.Series([None, None], dtype="object")).tolist() == [-1, -1]
    assert class_numbers(pd.Series(["b", "a", "b"], dtype="string")).tolist() == [1, 0, 1]
