"""UnitMem over a finished audit: what is in its tables, when they are made again, and what is said when they cannot."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits import unitmem
from clipmem_core.audits.store import MANIFEST, Audit
from clipmem_core.audits.unitmem import (
    REFERENCES,
    UNITS,
    measure_references,
    read_units,
    run_units,
    say_units,
    table_file,
)
from clipmem_core.config import InputError
from clipmem_core.training.activations import Layers
from clipmem_core.training.model import Model
from tests.audits.small import Silent
from tests.conftest import Made


@pytest.fixture
def copied(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """The made audit of the paper's protocol in a data folder of the test's own."""
    for name in ("cache", "sets"):
        shutil.copytree(made.data / name, tmp_path / name, ignore=shutil.ignore_patterns("units"))
    shutil.copytree(made.paper.folder, tmp_path / "audits" / "paper")
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return Audit(tmp_path / "audits" / "paper")


def test_every_unit_of_every_member_has_a_row_and_belongs_to_a_pair_that_its_member_was_trained_on(
    copied: Audit,
) -> None:
    before = (copied.folder / MANIFEST).read_bytes()
    assert read_units(copied) is None
    run_units(copied, screen=Silent())
    units = read_units(copied)
    assert units is not None
    # tiny: two layers of 4 × 64 units in the image encoder, one in the text encoder
    assert units.groupby(["member", "tower", "layer"]).size().to_dict() == {
        (member, tower, layer): 256
        for member in ("f-0", "g-0")
        for tower, layer in (("image", 1), ("image", 2), ("text", 1))
    }
    fired = units.dropna(subset=["unitmem_mean"])
    assert fired["unitmem_mean"].between(0, 1).all()
    assert fired["unitmem_median"].between(0, 1).all()
    assert (fired["max"] >= fired["second"]).all()
    assert (fired["second"] >= fired["rest_median"] - 1e-9).all()
    assert (copied.folder / MANIFEST).read_bytes() == before
    assert not list(copied.folder.rglob("units.parquet"))
    ids, membership = copied.pairs["pair_id"], copied.membership
    for name, own in units.groupby("member"):
        rows = own["row"].to_numpy()
        assert membership[name].to_numpy()[rows].all()
        np.testing.assert_array_equal(own["pair_id"], ids.to_numpy()[rows])


def test_a_member_is_measured_once(copied: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Silent()
    run_units(copied, members=["g-0"], sample=20, screen=screen)
    known = read_units(copied, sample=20)
    assert known is not None
    assert set(known["member"]) == {"g-0"}
    assert read_units(copied) is None
    asked: list[str] = []
    measure = unitmem.measure_member

    def counted(audit: Audit, name: str, **how: object) -> pd.DataFrame:
        asked.append(name)
        return measure(audit, name, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(unitmem, "measure_member", counted)
    run_units(copied, sample=20, screen=screen)
    assert asked == ["f-0"]
    assert "member g-0: its units are measured already" in screen.lines


def test_tables_that_are_broken_are_named_and_measured_again(copied: Audit) -> None:
    run_units(copied, members=["f-0"], sample=20, screen=Silent())
    paths = [table_file(copied, "f-0", table, sample=20) for table in (UNITS, REFERENCES)]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, whole, strict=True):
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for path in paths:
        with pytest.raises(InputError, match=f"{path.name} is broken: `python -m clipmem_core units paper` makes"):
            read_units(copied, path.name.replace("-20", ""), sample=20)
    screen = Silent()
    run_units(copied, members=["f-0"], sample=20, screen=screen)
    for line, path in zip([line for line in screen.lines if "broken" in line], paths, strict=True):
        assert str(path) in line
    assert [path.read_bytes() for path in paths] == whole


def test_an_encoder_without_units_is_named_and_the_other_measured(
    copied: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, layers = {"image"}, unitmem.unit_layers

    def some(model: Model, tower: str) -> Layers:
        if tower in refused:
            raise InputError(f"UnitMem of the {tower} encoder needs a transformer")
        return layers(model, tower)

    monkeypatch.setattr(unitmem, "unit_layers", some)
    screen = Silent()
    run_units(copied, members=["f-0"], sample=10, screen=screen)
    units = read_units(copied, sample=10)
    assert units is not None
    assert set(units["tower"]) == {"text"}
    assert "note: UnitMem of the image encoder needs a transformer" in screen.lines
    refused.add("text")
    with pytest.raises(InputError, match="UnitMem of the image encoder .*; UnitMem of the text encoder"):
        run_units(copied, members=["g-0"], sample=10, screen=screen)


def test_wrong_input_is_named(copied: Audit) -> None:
    with pytest.raises(InputError, match="member 'h-9' is none of audit 'paper': it has f-0, g-0"):
        run_units(copied, members=["h-9"], screen=Silent())
    with pytest.raises(InputError, match="--sample must be 0 .* or at least 2, not 1"):
        run_units(copied, sample=1, screen=Silent())
    (copied.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="audit 'paper' is not finished"):
        run_units(copied, screen=Silent())
    assert read_units(copied) is None


def test_each_reference_is_measured_on_its_own_pairs(copied: Audit) -> None:
    table = measure_references(copied, "f-0", screen=Silent())
    # tiny: two layers of 4 × 64 units in the image encoder, one in the text encoder
    assert table.groupby("reference", sort=False).size().to_dict() == {
        name: 3 * 256 for name in ("before training", "seen", "unseen")
    }
    membership = copied.membership
    trained, external = membership["f-0"].to_numpy(), (membership["group"] == "external").to_numpy()
    for reference, allowed in (("before training", trained), ("seen", trained), ("unseen", external)):
        rows = table.loc[(table["reference"] == reference) & (table["row"] >= 0), "row"].to_numpy()
        assert allowed[rows].all(), reference


def test_references_of_the_first_member_are_measured_once_for_each_sample_and_said(
    copied: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_units(copied, members=["g-0"], sample=9, screen=Silent())
    assert table_file(copied, "g-0", REFERENCES, sample=9).is_file()
    assert read_units(copied, REFERENCES) is None

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(unitmem, "measure_references", refuse)
    screen = Silent()
    run_units(copied, members=["g-0"], sample=9, screen=screen)
    say_units(copied, sample=9, screen=screen)
    assert sum("unitmem_mean" in line for line in screen.lines) == 2
