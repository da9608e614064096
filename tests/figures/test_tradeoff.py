"""The figure of a study of mitigations."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from clipmem_core.figures.studies import LARGE, SIZE, tradeoff_figure

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
    return {text for trace in figure.data for text in trace.text or () if text}


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


def test_names_are_shown_as_they_are() -> None:
    points = points_of({"<a href='x'>none</a>": (0.3, 0.4), "b<img src=x>": (0.1, 0.1)})
    figure = tradeoff_figure(points, titles=("<b>x</b>", "y"), front=[], none="none", chosen="b<img src=x>")
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<a " not in shown
    assert "<img" not in shown
    assert "<b>x" not in shown
