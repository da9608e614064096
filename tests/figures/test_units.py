import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.paradigms import PARADIGMS
from clipmem_core.figures.colours import DARK_PAGE, ENCODER_COLOURS, LIGHT_PAGE, OTHER
from clipmem_core.figures.units import PARADIGM_COLOURS, axis_span, paradigm_figure, tower_figure
from clipmem_core.review.unit_ranks import paradigm_layers
from tests.figures.test_groups import contrast
from tests.made_encoders import paradigm_rows


def layers() -> pd.DataFrame:
    rows = [("image", "members", layer, 0.6, 0.5, 0.65) for layer in (1, 2)]
    rows += [("text", "members", 1, 0.7, 0.7, 0.7)]
    rows += [("image", name, layer, 0.55, np.nan, np.nan) for name in ("before training", "unseen") for layer in (1, 2)]
    return pd.DataFrame(rows, columns=["tower", "source", "layer", "mean", "low", "high"])


def test_members_have_the_colour_of_their_encoder_and_references_are_grey() -> None:
    figure = tower_figure(layers(), tower="image", span=(0.4, 0.8))
    assert [(trace.name, trace.line.color) for trace in figure.data] == [
        ("trained members", ENCODER_COLOURS["image"]),
        ("before training", OTHER),
        ("pairs it never saw", OTHER),
    ]
    assert figure.data[0].error_y.arrayminus[0] == pytest.approx(0.1)
    assert figure.data[1].error_y.array is None
    assert figure.layout.yaxis.range == (0.4, 0.8)
    assert list(figure.layout.xaxis.tickvals) == [1, 2]
    assert [trace.name for trace in tower_figure(layers(), tower="text", span=(0, 1)).data] == ["trained members"]


def test_the_papers_curves_run_from_its_first_to_its_last_layer() -> None:
    means = paradigm_layers(paradigm_rows(dict.fromkeys(PARADIGMS, 0.5)), column="unitmem_mean")
    figure = paradigm_figure(means, paper=True)
    paper = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if "paper" in trace.name}
    assert paper == {
        "CLIP, paper (digitised)": ([0, 1], [0.272, 0.411]),
        "self-supervised, paper (digitised)": ([0, 1], [0.339, 0.376]),
        "supervised, paper (digitised)": ([0, 1], [0.265, 0.477]),
    }
    assert {trace.line.dash for trace in figure.data if trace.name in paper} == {"dash"}
    assert len(paradigm_figure(means, paper=False).data) == 3
    low, high = figure.layout.yaxis.range
    assert low < 0.265
    assert high > 0.53


def test_a_paradigm_that_was_not_run_is_not_drawn() -> None:
    means = paradigm_layers(paradigm_rows({"clip": 0.5}), column="unitmem_mean")
    assert [trace.name for trace in paradigm_figure(means, paper=False).data] == ["CLIP"]


@pytest.mark.parametrize("colour", PARADIGM_COLOURS.values())
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_paradigm_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


def test_an_axis_stays_within_the_range_of_unitmem() -> None:
    assert axis_span(pd.Series([0.01, 0.99])) == (0.0, 1.0)
    assert axis_span(pd.Series([0.5, np.nan, 0.6])) == pytest.approx((0.47, 0.63))
