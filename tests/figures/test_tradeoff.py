"""The figures of a study of mitigations, and where the names of dots have room."""

import itertools
import math

import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.figures.tradeoff import (
    FEW,
    LARGE,
    LETTER,
    LINE_HEIGHT,
    SIZE,
    Extent,
    against_figure,
    place_labels,
    tradeoff_figure,
)

TITLES = ("clipmem", "retrieval")


def points_of(places: dict[str, tuple[float, float]], half: float = 0.01) -> pd.DataFrame:
    rows = [
        {"arm": arm, "memorization": x, "memorization_low": x - half, "memorization_high": x + half, "n": 3}
        | {"utility": y, "utility_low": y - half, "utility_high": y + half, "told": [arm, "3 seeds"]}
        for arm, (x, y) in places.items()
    ]
    return pd.DataFrame(rows)


POINTS = points_of({"none": (0.3, 0.4), "mask": (0.2, 0.45), "noise": (0.29, 0.38), "stop": (0.1, 0.3)})
FRONT = ["stop", "mask"]


def drawn(**given: object) -> go.Figure:
    return tradeoff_figure(POINTS, titles=TITLES, front=FRONT, none="none", **given)


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.name}


def names(figure: go.Figure) -> set[str]:
    return {note.text for note in figure.layout.annotations if note.text}


def test_each_arm_is_a_dot_with_both_intervals() -> None:
    found = traces(drawn())
    best = found["Pareto-optimal"]
    assert list(zip(best.x, best.y, strict=True)) == [(0.2, 0.45), (0.1, 0.3)]
    assert best.error_x.array[0] == best.error_y.arrayminus[0] == pytest.approx(0.01)
    assert list(found["dominated"].x) == [0.29]
    assert found["none"].marker.symbol == "diamond"
    assert [data[0] for data in best.customdata] == [1, 3]
    assert best.customdata[0][1] == "mask<br>3 seeds"
    line = drawn().data[0]
    assert (list(line.x), list(line.y)) == ([0.1, 0.2], [0.3, 0.45])
    assert line.line.shape == "hv"


def test_an_arrow_leads_from_none_to_the_chosen_arm() -> None:
    figure = drawn(chosen="mask")
    (arrow,) = [note for note in figure.layout.annotations if note.showarrow]
    assert (arrow.ax, arrow.ay, arrow.x, arrow.y) == (0.3, 0.4, 0.2, 0.45)
    ring = next(trace for trace in figure.data if trace.marker.symbol == "circle-open")
    assert (list(ring.x), list(ring.y)) == ([0.2], [0.45])
    assert "<b>mask</b>" in names(figure)
    sizes = traces(figure)["Pareto-optimal"].marker.size
    assert sizes == (LARGE, SIZE)


@pytest.mark.parametrize("chosen", [None, "none", "unknown"])
def test_without_another_arm_there_is_no_arrow(chosen: str | None) -> None:
    figure = drawn(chosen=chosen)
    assert not [note for note in figure.layout.annotations if note.showarrow]
    assert "<b>none</b>" in names(figure)
    rings = [trace for trace in figure.data if trace.marker.symbol == "circle-open"]
    assert len(rings) == (chosen == "none")


def test_a_study_without_none_is_drawn_too() -> None:
    points = POINTS[POINTS["arm"] != "none"].reset_index(drop=True)
    figure = tradeoff_figure(points, titles=TITLES, front=FRONT, none="none", chosen="mask")
    assert "none" not in traces(figure)
    assert not [note for note in figure.layout.annotations if note.showarrow]


def test_of_many_arms_the_front_none_and_the_chosen_one_are_named_the_others_by_hovering() -> None:
    places = {f"arm-{number}": (number / 10, number / 7) for number in range(FEW)} | {"none": (0.5, 0.1)}
    figure = tradeoff_figure(points_of(places), titles=TITLES, front=["arm-0"], none="none", chosen="arm-3")
    assert names(figure) == {"<b>none</b>", "<b>arm-3</b>", "arm-0"}


def test_the_axes_say_what_is_better_and_hold_every_interval_and_the_paper() -> None:
    paper = pd.DataFrame({"memorization": [0.6], "utility": [0.9], "told": [["the paper"]]})
    figure = drawn(paper=paper)
    x, y = figure.layout.xaxis, figure.layout.yaxis
    assert x.title.text == "← less memorized · clipmem"
    assert y.title.text == "retrieval · more useful →"
    assert x.range[0] < 0.09
    assert x.range[1] > 0.6
    assert y.range[1] > 0.9
    curve = traces(figure)["the paper, rescaled"]
    assert curve.line.dash == "dash"
    assert curve.customdata[0][0] is None  # a point of the paper is no arm


def test_one_interval_far_wider_than_most_does_not_squeeze_the_others() -> None:
    points = POINTS.copy()
    points.loc[2, ["memorization_low", "memorization_high"]] = (-0.7, 1.3)
    x = tradeoff_figure(points, titles=TITLES, front=FRONT, none="none").layout.xaxis
    # Of a bar of 1 three medians of .01 are shown, beside the means: to .29 + .03 on the right, .1 − .01 on the left.
    assert x.range == pytest.approx((0.09 - 0.08 * 0.23, 0.32 + 0.08 * 0.23))
    points = points_of({"none": (0.3, 0.4)}, half=math.nan)
    figure = tradeoff_figure(points, titles=TITLES, front=["none"], none="none", chosen="none")
    assert figure.layout.xaxis.range[0] < 0.3 < figure.layout.xaxis.range[1]
    assert traces(figure)["none"].error_y.array[0] == 0


def test_names_are_shown_as_they_are() -> None:
    points = points_of({"<a href='x'>none</a>": (0.3, 0.4), "b<img src=x>": (0.1, 0.1)})
    figure = tradeoff_figure(points, titles=("<b>x</b>", "y"), front=[], none="none", chosen="b<img src=x>")
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<a " not in shown
    assert "<img" not in shown
    assert "<b>x" not in shown


def lines_of(lines: dict[str, str]) -> pd.DataFrame:
    """None at 0, then an arm at 1 and at 2 of each line."""
    tables = [
        points_of({"none": (0.3, 0.4), f"{line}1": (0.2, 0.5), f"{line}2": (0.25, 0.6)}).assign(
            line=name, place=[0.0, 1.0, 2.0]
        )
        for line, name in lines.items()
    ]
    return pd.concat(tables, ignore_index=True)


def paper_of(line: str, memorization: float = 0.25) -> pd.DataFrame:
    rows = {"line": line, "place": [0.0, 4.0], "memorization": memorization, "utility": [0.4, 0.45], "band": 0.02}
    return pd.DataFrame(rows).assign(told=[["the paper"]] * 2)


def test_against_a_setting_both_measures_stand_one_above_the_other() -> None:
    figure = against_figure(lines_of({"a": ""}), titles=("σ", *TITLES), ticks={0.0: "0", 1.0: "1", 2.0: "<all>"})
    above, below = (trace for trace in figure.data if trace.name == "this study")
    assert (above.yaxis, below.yaxis) == ("y", "y2")
    assert list(above.x) == list(below.x) == [0, 1, 2]
    assert (list(above.y), list(below.y)) == ([0.3, 0.2, 0.25], [0.4, 0.5, 0.6])
    assert below.error_y.array[1] == pytest.approx(0.01)
    assert list(figure.layout.xaxis2.ticktext) == ["0", "1", "&lt;all&gt;"]
    assert figure.layout.yaxis.title.text == "clipmem<br>less memorized ←"


def test_the_only_line_of_the_paper_has_its_deviation_and_a_name() -> None:
    figure = against_figure(
        lines_of({"a": ""}), titles=("σ", *TITLES), ticks={0.0: "0", 2.0: "2"}, chosen="a2", paper=paper_of("")
    )
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert list(band.y) == pytest.approx([0.42, 0.47, 0.43, 0.38])
    papers = [trace for trace in figure.data if trace.name == "the paper, rescaled"]
    assert [(trace.yaxis, trace.showlegend) for trace in papers] == [("y", False), ("y2", True)]
    rings = [trace for trace in figure.data if trace.marker.symbol == "circle-open"]
    assert [ring.y[0] for ring in rings] == [0.25, 0.6]


def test_several_lines_stand_a_little_apart_and_the_papers_have_their_colours() -> None:
    lines = lines_of({"a": "first", "b": "second"})
    paper = paper_of("second", memorization=math.nan)
    figure = against_figure(lines, titles=("n", *TITLES), ticks={0.0: "0", 2.0: "2"}, paper=paper)
    first, second = (trace for trace in figure.data if trace.name in ("first", "second") and trace.yaxis == "y2")
    assert first.line.color != second.line.color
    assert 0 < second.x[1] - first.x[1] < 0.1
    (own,) = [trace for trace in figure.data if trace.name == "the paper, rescaled"]
    assert own.line.color == second.line.color
    assert own.yaxis == "y2"
    assert not [trace for trace in figure.data if trace.fill == "toself"]


EXTENTS = (Extent(0, 1, span=400), Extent(0, 1, span=300))
PLACES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def box(name: str, x: float, y: float, anchor: dict) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a name in pixels."""
    start, up = 400 * x + anchor["xshift"], 300 * y + anchor["yshift"]
    left = start if anchor["xanchor"] == "left" else start - LETTER * len(name)
    bottom = up if anchor["yanchor"] == "bottom" else up - LINE_HEIGHT
    return left, left + LETTER * len(name), bottom, bottom + LINE_HEIGHT


@settings(max_examples=20)
@given(PLACES)
def test_no_name_covers_another_or_leaves_the_figure(places: list[tuple[float, float]]) -> None:
    dots = pd.DataFrame(places, columns=["x", "y"], index=[f"arm-{'x' * number}" for number in range(len(places))])
    found = place_labels(dots, list(dots.index), extents=EXTENTS)
    boxes = [box(name, *dots.loc[name], anchor) for name, anchor in found.items()]
    for left, right, bottom, top in boxes:
        assert left >= 0
        assert right <= 400
        assert bottom >= 0
        assert top <= 300
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]


def test_where_there_is_room_for_one_it_is_the_most_important() -> None:
    dots = pd.DataFrame({"x": [0.5] * 9, "y": [0.5] * 9}, index=[f"a-long-name-{number}" for number in range(9)])
    found = place_labels(dots, list(dots.index[::-1]), extents=EXTENTS)
    assert "a-long-name-8" in found
    assert len(found) <= 4
    assert "a-long-name-0" not in found
    assert "a-long-name-0" in place_labels(dots, list(dots.index[::-1]), always=["a-long-name-0"], extents=EXTENTS)


def test_a_dot_at_the_right_edge_is_named_to_its_left() -> None:
    dots = pd.DataFrame({"x": [1.0], "y": [1.0]}, index=["none"])
    anchor = place_labels(dots, ["none"], extents=EXTENTS)["none"]
    assert (anchor["xanchor"], anchor["yanchor"]) == ("right", "top")
    dots = pd.DataFrame({"x": [float("nan"), 0.5], "y": [0.5, 0.5]}, index=["gone", "here"])
    assert list(place_labels(dots, ["gone", "here", "unknown"], extents=EXTENTS)) == ["here"]
