"""What UnitMem is read against: the untrained model, and as many seen and unseen pairs; measured once."""

import numpy as np
import pytest

from clipmem_core.audits import references
from clipmem_core.audits.measuring import measure_member
from clipmem_core.audits.references import measure_references, run_references, say_references
from clipmem_core.audits.store import Audit, write_table
from clipmem_core.audits.units import read_references, references_file
from clipmem_core.training.model import build_model
from tests.audits.small import Silent
from tests.audits.test_units import copied

__all__ = ["copied"]


def test_each_reference_is_measured_on_its_own_pairs(copied: Audit) -> None:
    assert read_references(copied) is None
    table = run_references(copied, screen=Silent())
    # tiny: two layers of 4 × 64 units in the image encoder, one in the text encoder
    assert table.groupby("reference", sort=False).size().to_dict() == {
        name: 3 * 256 for name in ("before training", "seen", "unseen")
    }
    membership = copied.membership
    trained, external = membership["f-0"].to_numpy(), (membership["group"] == "external").to_numpy()
    for reference, allowed in (("before training", trained), ("seen", trained), ("unseen", external)):
        rows = table.loc[(table["reference"] == reference) & (table["row"] >= 0), "row"].to_numpy()
        assert allowed[rows].all(), reference
    known = read_references(copied)
    assert known is not None
    assert set(known["member"]) == {"f-0"}


def test_before_training_is_the_model_of_the_members_seed(copied: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose weights were put back to its start has the UnitMem of that reference."""
    found = measure_references(copied, "g-0", screen=Silent())
    start = found[found["reference"] == "before training"].drop(columns="reference").reset_index(drop=True)
    seed = copied.config["seeds"]["g-0"]
    monkeypatch.setattr(
        "clipmem_core.audits.measuring.trained_model", lambda run: build_model("tiny", loss="clip", seed=seed)
    )
    untrained = measure_member(copied, "g-0", screen=Silent())
    np.testing.assert_allclose(untrained["unitmem_mean"], start["unitmem_mean"])
    assert untrained["row"].tolist() == start["row"].tolist()


def test_seen_and_unseen_are_equally_many(copied: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, np.ndarray] = {}
    measure = references.measure_model

    def counted(run: object, model: object, towers: list[str], rows: np.ndarray, **how: object) -> object:
        asked[str(how["label"])] = rows
        return measure(run, model, towers, rows, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(references, "measure_model", counted)
    measure_references(copied, "f-0", screen=Silent())
    external = int((copied.membership["group"] == "external").sum())
    sizes = {label: len(rows) for label, rows in asked.items()}
    assert sizes == {
        "f-0 before training": int(copied.membership["f-0"].sum()),
        "f-0 seen": external,
        "f-0 unseen": external,
    }
    measure_references(copied, "f-0", sample=9, screen=Silent())
    assert {len(rows) for rows in asked.values()} == {9}


def test_references_are_measured_once_for_each_sample(copied: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    run_references(copied, members=["g-0"], sample=9, screen=Silent())
    assert references_file(copied, "g-0", sample=9).is_file()
    assert read_references(copied) is None

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(references, "measure_references", refuse)
    screen = Silent()
    say_references(run_references(copied, members=["g-0"], sample=9, screen=screen), screen)
    assert "unitmem_mean" in screen.lines[0]
    assert len(screen.lines) == 10


def test_without_external_pairs_there_is_the_untrained_model_alone(copied: Audit) -> None:
    membership = copied.membership
    membership["group"] = membership["group"].replace("external", "shared")
    write_table(copied.folder / "membership.parquet", membership)
    found = measure_references(copied, "f-0", sample=9, screen=Silent())
    assert set(found["reference"]) == {"before training"}
