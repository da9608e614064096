"""UnitMem of finished audits: content of its tables, and resuming."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.auditing.folder.store import MANIFEST, Audit
from clipmem_core.lab import unitmem
from clipmem_core.lab.encoders import REFERENCES, read_units
from clipmem_core.lab.unitmem import run_units, show_units
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent
from tests.shared import Made


@pytest.fixture
def audit(
    made: Made, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Audit:
    """A copy of a small audit in a data folder of the test's own."""
    for name in ("cache", "sets"):
        shutil.copytree(made.data / name, tmp_path / name, ignore=shutil.ignore_patterns("units"))
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    folder = made.data / "audits" / request.param
    return Audit(Path(shutil.copytree(folder, tmp_path / "audits" / request.param)))


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("audit", ["paper"], indirect=True)
def test_every_unit_is_measured_once_on_pairs_of_its_member_or_reference(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (audit.folder / MANIFEST).read_bytes()
    run_units(audit, Silent())
    units = read_units(audit)
    references = read_units(audit, REFERENCES)
    assert units is not None
    assert references is not None
    # tiny: two layers of 4 × 64 units in the image encoder, one in the text encoder
    layers = {("image", 1): 256, ("image", 2): 256, ("text", 1): 256}
    ids = audit.pairs["pair_id"].to_numpy()
    membership = audit.membership
    for name, table in (*units.groupby("member"), *references.groupby("reference")):
        assert table.groupby(["tower", "layer"]).size().to_dict() == layers
        found = table[table["row"] >= 0]
        of_pairs = membership[name if name in membership else "f-0"]
        if name == "unseen":
            of_pairs = membership["group"] == "held-out"
        assert of_pairs[found["row"]].all(), name
        np.testing.assert_array_equal(found["pair_id"], ids[found["row"]])
    assert units["unitmem_mean"].dropna().between(0, 1).all()
    assert (audit.folder / MANIFEST).read_bytes() == before
    monkeypatch.setattr(unitmem, "open_member", stop)
    run_units(audit, Silent())
    show_units(audit)
    assert capsys.readouterr().out.count("unitmem_mean") == 2


@pytest.mark.parametrize("audit", ["paper"], indirect=True)
def test_wrong_input_is_named(audit: Audit) -> None:
    (audit.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="audit 'paper' is not finished"):
        run_units(audit, Silent())
