from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from clipmem_core.review.unit_ranks import claim_1, paradigm_layers, ranked_units, tower_layers

from clipmem_core.audits.store import Audit
from clipmem_core.audits.unitmem_tables import REFERENCES, read_units
from tests.made_encoders import make_units, paradigm_rows

Copy = Callable[..., Audit]
MEAN = "unitmem_mean"


def test_a_layer_is_the_mean_over_members_between_the_lowest_and_the_highest(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    layers = tower_layers(units, None, column=MEAN)
    assert layers[["tower", "layer"]].to_numpy().tolist() == [["image", 1], ["image", 2], ["text", 1]]
    first = units[(units["tower"] == "image") & (units["layer"] == 1)]
    members = [np.nanmean(own[MEAN]) for _, own in first.groupby("member")]
    assert layers.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx(
        [np.mean(members), min(members), max(members)]
    )


def test_references_stand_beside_the_members(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    references = read_units(audit, REFERENCES)
    assert references is not None
    layers = tower_layers(units, references, column=MEAN)
    assert layers["source"].value_counts().to_dict() == dict.fromkeys(
        ("members", "before training", "seen", "unseen"), 3
    )
    own = references[(references["reference"] == "unseen") & (references["tower"] == "text")]
    found = layers[(layers["source"] == "unseen") & (layers["tower"] == "text")]["mean"].item()
    assert found == pytest.approx(own[MEAN].mean())


def test_units_that_stand_out_most_come_first_and_silent_ones_never(copy: Copy) -> None:
    units = make_units(copy())
    ranked = ranked_units(units, column=MEAN)
    assert ranked[MEAN].is_monotonic_decreasing
    assert len(ranked) == units[MEAN].notna().sum() == len(units) - 8
    text = ranked_units(units, column=MEAN, member="r1-f0", tower="text", layer=1)
    assert set(map(tuple, text[["member", "tower", "layer"]].to_numpy())) == {("r1-f0", "text", 1)}
    assert ranked_units(units, column=MEAN, layer=9).empty


def test_a_pair_leads_as_many_units_of_a_member_as_it_sets_off_most(copy: Copy) -> None:
    units = make_units(copy())
    for unit in ranked_units(units, column=MEAN, tower="text").to_dict("records"):
        same = units[(units["member"] == unit["member"]) & (units["row"] == unit["row"])]
        assert unit["leads"] == len(same)


def test_each_pair_once_keeps_its_first_unit(copy: Copy) -> None:
    units = make_units(copy())
    ranked, once = (ranked_units(units, column=MEAN, once=once) for once in (False, True))
    assert once["row"].is_unique
    assert set(once["row"]) == set(ranked["row"])
    assert once[MEAN].tolist() == ranked.groupby("row", sort=False)[MEAN].max().tolist()


def test_paradigms_go_by_relative_depth_with_an_interval_over_seeds() -> None:
    found = paradigm_layers(paradigm_rows({"clip": 0.4}, layers=5), column=MEAN)
    assert found["depth"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found["mean"].tolist() == pytest.approx([0.4, 0.41, 0.42, 0.43, 0.44])
    # Seeds .001 apart: SD .001, and t.975 with two degrees of freedom is 4.3027.
    assert (found["high"] - found["mean"]).tolist() == pytest.approx([4.3027 * 0.001 / np.sqrt(3)] * 5, rel=1e-4)
    alone = paradigm_layers(paradigm_rows({"clip": 0.4}, layers=1, seeds=2), column=MEAN)
    assert alone["depth"].tolist() == [0.5]
    assert alone["low"].isna().all()


@pytest.mark.parametrize(
    ("means", "spread", "end"),
    [
        ({"clip": 0.4, "supervised": 0.5, "self-supervised": 0.3}, 0.001, "so it does here."),
        ({"clip": 0.4, "supervised": 0.3, "self-supervised": 0.5}, 0.001, "so it does here."),
        ({"clip": 0.6, "supervised": 0.3, "self-supervised": 0.5}, 0.001, "here it lies above both."),
        ({"clip": 0.2, "supervised": 0.3, "self-supervised": 0.5}, 0.001, "here it lies below both."),
    ],
)
def test_claim_1_is_answered_by_the_seeds(means: dict[str, float], spread: float, end: str) -> None:
    said = claim_1(paradigm_rows(means, spread=spread), column=MEAN)
    assert said.endswith(end)
    assert f"CLIP {means['clip'] + 0.015:.3f}" in said


def test_claim_1_is_left_open_where_seeds_disagree_or_are_too_few_or_a_paradigm_is_missing() -> None:
    means = {"clip": 0.4, "supervised": 0.5, "self-supervised": 0.3}
    table = paradigm_rows(means)
    swapped = table.assign(
        **{MEAN: table[MEAN] + 0.3 * ((table["paradigm"] == "clip") & (table["seed"] == 0)).astype(float)}
    )
    assert "the seeds leave it open, since supervised cannot be told from it" in claim_1(swapped, column=MEAN)
    assert claim_1(paradigm_rows(means, seeds=2), column=MEAN).endswith("seeds so far: 2, too few to say more.")
    only: pd.DataFrame = table[table["paradigm"] != "supervised"]
    assert "supervised is not there, or cannot be taught" in claim_1(only, column=MEAN)
