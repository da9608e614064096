import json

import numpy as np
import pandas as pd
import pytest
from clipmem_core.figures.maps import SCALE, embedding_figure, score_map_figure

from clipmem_core.figures.clouds import KIND_COLOURS, LABEL_COLOURS
from clipmem_core.figures.colours import DARK_PAGE, LIGHT_PAGE, OTHER, PLANTED_COLOUR, group_colour
from clipmem_core.review.score_map import Corners
from tests.figures.test_groups import contrast

NO_DENSITY = pd.DataFrame()


def points(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {name: rng.normal(size=n) for name in ("similarity_out", "clipmem", "map_x", "map_y", "misfit")}
    )
    frame["group"] = ["scored", "external"] * (n // 2)
    frame["planted"] = [None, None, "miscaption", "vague"] * (n // 4)
    frame["label"] = [f"label {row % 20}" for row in range(n)]
    return frame


def names(figure: object) -> list[str]:
    return [trace["name"] for trace in json.loads(figure.to_json())["data"] if "name" in trace]


@pytest.mark.parametrize("colour", [*LABEL_COLOURS, *KIND_COLOURS, *SCALE])
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_colour_of_a_point_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


def test_no_two_labels_share_a_colour() -> None:
    assert len({*LABEL_COLOURS, OTHER}) == 13


def test_groups_have_their_colours_and_all_their_pairs() -> None:
    frame = points()
    figure = score_map_figure(frame, colour_by="group", corners=None, density=NO_DENSITY)
    assert {trace.name: trace.marker.color for trace in figure.data} == {
        group: group_colour(group) for group in ("external", "scored")
    }
    scored = next(trace for trace in figure.data if trace.name == "scored")
    assert list(scored.x) == frame.query("group == 'scored'")["similarity_out"].tolist()
    assert list(scored.y) == frame.query("group == 'scored'")["clipmem"].tolist()


def test_planted_pairs_stand_out_from_the_others_below_them() -> None:
    figure = score_map_figure(points(), colour_by="planted", corners=None, density=NO_DENSITY)
    assert [trace.name for trace in figure.data] == ["not planted", "miscaption", "vague"]
    assert [trace.marker.color for trace in figure.data][:2] == [OTHER, PLANTED_COLOUR]


def test_four_corners_are_named() -> None:
    figure = score_map_figure(
        points(), colour_by="group", corners=Corners(fits=0.2, high=0.1, low=None), density=NO_DENSITY
    )
    placed = {
        text.text.removeprefix("<b>").removesuffix("</b>"): (text.xanchor, text.y) for text in figure.layout.annotations
    }
    assert placed == {
        "learned by heart<br>and wrong": ("left", 1),
        "learned by heart<br>and right": ("right", 1),
        "never learned": ("left", 0),
        "generic": ("right", 0),
    }
    assert [(line.x0, line.y0) for line in figure.layout.shapes] == [(0.2, 0), (0, 0.1)]


def test_independent_pairs_have_the_upper_corners_once_more_below() -> None:
    figure = score_map_figure(
        points(), colour_by="group", corners=Corners(fits=0.2, high=0.1, low=-0.15), density=NO_DENSITY
    )
    texts = [text.text for text in figure.layout.annotations]
    assert len(texts) == 6
    assert texts.count("<b>learned by heart<br>and wrong</b>") == 2
    assert [line.y0 for line in figure.layout.shapes] == [0, 0.1, -0.15]


def test_the_density_lies_below_the_points() -> None:
    density = pd.DataFrame({"x": [0.0, 0.1], "y": [0.0, 0.0], "n": [1, 99]})
    figure = score_map_figure(points(), colour_by="group", corners=None, density=density)
    assert figure.data[0].type == "heatmap"
    assert list(figure.data[0].z) == pytest.approx(np.log([2, 100]))


def test_the_axis_reaches_the_pairs_that_were_not_drawn() -> None:
    density = pd.DataFrame({"x": [-20.0, 30.0], "y": [0.0, 0.0], "n": [1, 1]})
    corners = Corners(fits=0.2, high=0.1, low=None)
    low, high = score_map_figure(points(), colour_by="group", corners=corners, density=density).layout.xaxis.range
    assert low < -20
    assert high > 30


def test_the_twelve_most_frequent_labels_have_colours_and_the_rest_is_other() -> None:
    frame = points(400)
    frame.loc[:40, "label"] = "label 0"
    figure = embedding_figure(frame, colour_by="label")
    assert names(figure)[:2] == ["other", "label 0"]
    assert len(figure.data) == 13
    assert sum(len(trace.x) for trace in figure.data) == 400


def test_pairs_without_labels_are_one_grey_cloud() -> None:
    figure = embedding_figure(points().assign(label=None), colour_by="label")
    assert names(figure) == ["no value"]
    assert figure.data[0].marker.color == OTHER


def test_a_score_is_clipped_at_its_percentiles_and_the_highest_lies_on_top() -> None:
    frame = points(200)
    frame.loc[7, "misfit"] = 1000.0
    frame.loc[:4, "misfit"] = np.nan
    without, scaled = embedding_figure(frame, colour_by="misfit").data
    assert (without.name, len(without.x), without.marker.color) == ("no misfit", 5, OTHER)
    assert scaled.marker.cmax == pytest.approx(np.nanpercentile(frame["misfit"], 98))
    assert scaled.marker.cmax < 1000
    assert scaled.marker.color[-1] == 1000
    assert (scaled.x[-1], scaled.y[-1]) == (frame.loc[7, "map_x"], frame.loc[7, "map_y"])


def test_a_score_that_no_pair_has_is_a_grey_cloud() -> None:
    assert names(embedding_figure(points().assign(misfit=np.nan), colour_by="misfit")) == ["no misfit"]


@pytest.mark.parametrize("colour_by", ["label", "planted"])
def test_what_others_wrote_is_text_and_short(colour_by: str) -> None:
    frame = points(40)
    frame[colour_by] = '<img src=x> & "%{x}"\n' + "x" * 100
    figure = embedding_figure(frame, colour_by=colour_by)
    (name,) = names(figure)
    assert name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert name.endswith("x…")
    assert len(name) < 60
    assert {trace.hovertemplate for trace in figure.data} == {"%{fullData.name}<extra></extra>"}


def test_a_drag_draws_a_lasso() -> None:
    assert embedding_figure(points(), colour_by="group").layout.dragmode == "lasso"
    assert score_map_figure(points(), colour_by="group", corners=None, density=NO_DENSITY).layout.dragmode == "lasso"
