import numpy as np
import pytest

from clipmem_core.lab.encoders import REFERENCES, claim_1, paradigm_layers, read_units, tower_layers
from tests.fixtures import Copy, copy, data, made
from tests.made_encoders import make_units, paradigm_rows

__all__ = ["copy", "data", "made"]
MEAN = "unitmem_mean"


def test_a_layer_has_the_mean_and_range_of_its_members(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    layers = tower_layers(units, read_units(audit, REFERENCES))
    first = units[(units["tower"] == "image") & (units["layer"] == 1)]
    means = first.groupby("member")[MEAN].mean()
    assert layers.loc[0, ["tower", "layer"]].tolist() == ["image", 1]
    expected = [means.mean(), means.min(), means.max()]
    assert layers.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx(expected)
    sources = ("members", "before training", "seen", "unseen")
    assert layers["source"].value_counts().to_dict() == dict.fromkeys(sources, 3)


def test_paradigms_go_by_relative_depth_with_an_interval_over_seeds() -> None:
    result = paradigm_layers(paradigm_rows({"CLIP": 0.4}, layers=5))
    assert result["depth"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert result["mean"].tolist() == pytest.approx([0.4, 0.41, 0.42, 0.43, 0.44])
    # Seeds .001 apart: SD .001, and t.975 with two degrees of freedom is 4.3027.
    half = 4.3027 * 0.001 / np.sqrt(3)
    np.testing.assert_allclose(result["high"] - result["mean"], half, rtol=1e-4)
    alone = paradigm_layers(paradigm_rows({"CLIP": 0.4}, layers=1, seeds=2))
    assert alone["depth"].tolist() == [0.5]
    assert alone["low"].isna().all()


def test_claim_1_is_answered_by_the_seeds() -> None:
    others = {"supervised": 0.5, "self-supervised": 0.3}
    ends = {
        0.4: "here it lies between them.",
        0.6: "here it lies above both.",
        0.2: "here it lies below both.",
    }
    for mean, end in ends.items():
        assert claim_1(paradigm_rows({"CLIP": mean, **others}, spread=0.001)).endswith(end)
    table = paradigm_rows({"CLIP": 0.4, **others})
    odd = 0.3 * ((table["paradigm"] == "CLIP") & (table["seed"] == 0)).astype(float)
    assert "the seeds leave it open" in claim_1(table.assign(**{MEAN: table[MEAN] + odd}))
    assert "needs three seeds" in claim_1(table[table["paradigm"] != "supervised"])
