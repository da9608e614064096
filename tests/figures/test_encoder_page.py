import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.audits.unitmem_tables import PARADIGMS
from clipmem_core.figures.colours import DARK_PAGE, ENCODER_COLOURS, LIGHT_PAGE, OTHER, group_colour
from clipmem_core.figures.encoder_page import (
    PARADIGM_COLOURS,
    STEPS,
    axis_span,
    contribution_figure,
    in_words,
    levels,
    means_figure,
    paradigm_figure,
    tower_figure,
)
from clipmem_core.review.contributions import paradigm_layers
from tests.figures.test_groups import contrast
from tests.made_encoders import paradigm_rows

NO_DENSITY = pd.DataFrame()


def points() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"clipmem_image": rng.normal(size=30) * 0.1, "clipmem_text": rng.normal(size=30) * 0.4})
    return frame.assign(group=["candidate", "external", "shared"] * 10, label='<b>"a"</b>', planted=None)


def means() -> pd.DataFrame:
    rows = [
        ("candidate", "image", 500, 0.02, 0.01, 0.03),
        ("candidate", "text", 500, 0.3, 0.28, 0.33),
        ("external", "image", 50, -0.001, np.nan, np.nan),
        ("external", "text", 0, np.nan, np.nan, np.nan),
    ]
    return pd.DataFrame(rows, columns=["name", "encoder", "n", "mean", "low", "high"])


def test_image_is_to_the_right_and_text_is_up_in_the_colours_of_the_groups() -> None:
    frame = points()
    figure = contribution_figure(frame, colour_by="group", density=NO_DENSITY)
    candidates = next(trace for trace in figure.data if trace.name == "candidate")
    own = frame[frame["group"] == "candidate"]
    assert list(candidates.x) == own["clipmem_image"].tolist()
    assert list(candidates.y) == own["clipmem_text"].tolist()
    assert candidates.marker.color == group_colour("candidate")
    assert figure.layout.dragmode == "lasso"


def test_both_parts_add_up_to_the_same_clipmem_along_a_line() -> None:
    figure = contribution_figure(points(), colour_by="group", density=NO_DENSITY)
    named = [float(note.text.split()[1].replace("−", "-")) for note in figure.layout.annotations]
    assert len(named) == len(figure.layout.shapes) >= 3
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for line, clipmem in zip(figure.layout.shapes, named, strict=True):
        assert (line.x0 + line.y0, line.x1 + line.y1) == pytest.approx((clipmem, clipmem))
        assert left - 1e-9 <= line.x0 <= line.x1 <= right + 1e-9
        assert low - 1e-9 <= line.y1 <= line.y0 <= high + 1e-9


@given(st.floats(-7, 7), st.floats(0.05, 9))
def test_lines_are_few_and_at_round_values(low: float, span: float) -> None:
    found = levels(low, low + span)
    assert len(found) <= 9
    assert all(low - 1e-6 <= value <= low + span + 1e-6 for value in found)
    steps = {round(b - a, 6) for a, b in zip(found, found[1:], strict=False)}
    assert steps <= set(STEPS)
    assert len(steps) <= 1


def test_the_axes_reach_pairs_that_were_not_drawn() -> None:
    density = pd.DataFrame({"x": [-2.0, 3.0], "y": [0.0, 4.0], "n": [1, 9]})
    figure = contribution_figure(points(), colour_by="planted", density=density)
    assert figure.data[0].type == "heatmap"
    assert figure.layout.xaxis.range[0] < -2
    assert figure.layout.xaxis.range[1] > 3
    assert figure.layout.yaxis.range[1] > 4


def test_what_others_wrote_is_text() -> None:
    (trace,) = contribution_figure(points(), colour_by="label", density=NO_DENSITY).data
    assert trace.name == '&lt;b&gt;"a"&lt;/b&gt;'
    hostile = means().assign(name="<i>" + "x" * 99)
    label = means_figure(hostile, means()[:0], title="t").layout.yaxis.ticktext[0]
    assert label.startswith("&lt;i&gt;xxx")
    assert len(label) < 60


def test_a_dot_lies_at_the_mean_with_its_interval() -> None:
    figure = means_figure(means(), means()[:0], title="t")
    image, text = figure.data
    assert (list(image.x), list(text.x)) == ([0.02, -0.001], [0.3])
    assert image.marker.color == ENCODER_COLOURS["image"]
    assert (text.error_x.array[0], text.error_x.arrayminus[0]) == pytest.approx((0.03, 0.02))
    assert image.error_x.array[1] == 0
    assert list(text.customdata) == ["0.300 (0.280 to 0.330)"]
    assert figure.layout.yaxis.ticktext == ("candidate<br>500 pairs", "external<br>50 pairs")


def test_the_null_is_a_line_of_each_encoder() -> None:
    null = means()[means()["name"] == "external"]
    lines = means_figure(means(), null, title="t").layout.shapes
    assert [(line.x0, line.line.color) for line in lines] == [(-0.001, ENCODER_COLOURS["image"])]


def test_a_mean_is_said_with_its_interval_where_there_is_one() -> None:
    assert in_words(means()[:3]) == ["0.020 (0.010 to 0.030)", "0.300 (0.280 to 0.330)", "−0.001"]


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
