import pytest

from clipmem_core.lab.encoders import REFERENCES, read_units, tower_layers
from tests.fixtures import Copy, copy, data, made
from tests.made_encoders import make_units

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
