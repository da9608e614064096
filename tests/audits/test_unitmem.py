"""UnitMem and the three paradigms over finished audits: what their tables hold, that they are made once and resume."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits import paradigms, unitmem
from clipmem_core.audits.paradigms import paradigms_folder, plan_runs, read_paradigms, run_paradigms
from clipmem_core.audits.store import MANIFEST, Audit
from clipmem_core.audits.unitmem import REFERENCES, read_units, run_units, say_units, table_file
from clipmem_core.config import InputError
from tests.audits.small import Silent
from tests.conftest import Made


def copy(made: Made, audit: Audit, data: Path, patch: pytest.MonkeyPatch) -> Audit:
    """Copy an audit into a data folder of the test's own."""
    for name in ("cache", "sets"):
        shutil.copytree(made.data / name, data / name, ignore=shutil.ignore_patterns("units"))
    patch.setenv("CLIPMEM_DATA", str(data))
    return Audit(Path(shutil.copytree(audit.folder, data / "audits" / audit.name)))


@pytest.fixture
def paper(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    return copy(made, made.paper, tmp_path, monkeypatch)


@pytest.fixture
def ensemble(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    return copy(made, made.ensemble, tmp_path, monkeypatch)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_every_unit_belongs_to_a_pair_that_its_member_or_reference_is_measured_on(paper: Audit) -> None:
    before = (paper.folder / MANIFEST).read_bytes()
    assert read_units(paper) is None
    run_units(paper, screen=Silent())
    units, references = read_units(paper), read_units(paper, REFERENCES)
    assert units is not None
    assert references is not None
    # tiny: two layers of 4 × 64 units in the image encoder, one in the text encoder
    layers = {("image", 1): 256, ("image", 2): 256, ("text", 1): 256}
    for _, table in (*units.groupby("member"), *references.groupby("reference")):
        assert table.groupby(["tower", "layer"]).size().to_dict() == layers
    assert units["unitmem_mean"].dropna().between(0, 1).all()
    assert (paper.folder / MANIFEST).read_bytes() == before
    ids, membership = paper.pairs["pair_id"].to_numpy(), paper.membership
    for name, own in units.groupby("member"):
        assert membership[name].to_numpy()[own["row"]].all()
        np.testing.assert_array_equal(own["pair_id"], ids[own["row"]])
    external = (membership["group"] == "external").to_numpy()
    for reference, own in references[references["row"] >= 0].groupby("reference"):
        allowed = external if reference == "unseen" else membership["f-0"].to_numpy()
        assert allowed[own["row"]].all(), reference


def test_a_member_is_measured_once_for_each_sample(paper: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    run_units(paper, members=["g-0"], sample=9, screen=Silent())
    assert table_file(paper, "g-0", REFERENCES, sample=9).is_file()
    assert read_units(paper) is None
    monkeypatch.setattr(unitmem, "measure_member", stop)
    screen = Silent()
    run_units(paper, members=["g-0"], sample=9, screen=screen)
    say_units(paper, sample=9, screen=screen)
    assert sum("unitmem_mean" in line for line in screen.lines) == 2
    with pytest.raises(KeyboardInterrupt):
        run_units(paper, sample=9, screen=Silent())  # f-0 too


def test_wrong_input_is_named(paper: Audit) -> None:
    with pytest.raises(InputError, match="has no member 'h-9'"):
        run_units(paper, members=["h-9"], screen=Silent())
    with pytest.raises(InputError, match="--sample"):
        run_units(paper, sample=1, screen=Silent())
    with pytest.raises(InputError, match="--seeds"):
        run_paradigms(paper, seeds=0, screen=Silent())
    (paper.folder / MANIFEST).unlink()
    for run in (run_units, run_paradigms):
        with pytest.raises(InputError, match="audit 'paper' is not finished"):
            run(paper, screen=Silent())


def test_three_paradigms_see_as_many_samples_and_a_killed_run_resumes(
    ensemble: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paradigms, "linear_probe", stop)
        with pytest.raises(KeyboardInterrupt):
            run_paradigms(ensemble, seeds=1, epochs=1, screen=Silent())
    checkpoint = paradigms_folder(ensemble) / "runs" / "clip-0" / "checkpoint.pt"
    trained = checkpoint.stat().st_mtime_ns
    assert read_paradigms(ensemble) is None
    table = run_paradigms(ensemble, seeds=1, epochs=1, screen=Silent())
    assert checkpoint.stat().st_mtime_ns == trained
    # three runs, two layers each
    assert table[["paradigm", "layer"]].to_numpy().tolist() == [
        [name, layer] for name in ("clip", "supervised", "self-supervised") for layer in (1, 2)
    ]
    assert table["samples_seen"].nunique() == 1
    assert (table["views_seen"] / table["samples_seen"]).tolist() == [1, 1, 1, 1, 2, 2]
    assert table[["unitmem_mean", "linear_probe"]].apply(lambda own: own.between(0, 1).all()).all()
    monkeypatch.setattr(paradigms, "complete", stop)
    run_paradigms(ensemble, seeds=1, epochs=1, screen=Silent())
    with pytest.raises(InputError, match="other --epochs"):
        run_paradigms(ensemble, seeds=1, epochs=2, screen=Silent())


def test_without_crops_there_is_no_self_supervision(paper: Audit) -> None:
    assert [planned.paradigm for planned in plan_runs(paper, 0, 0)] == ["clip", "supervised"]
