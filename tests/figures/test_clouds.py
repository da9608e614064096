"""Maps of pairs: scores, embeddings and contributions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.figures.clouds import STEPS, contribution_figure, embedding_figure, levels, score_map_figure
from clipmem_core.figures.layout import OTHER, PLANTED_COLOUR, group_colour
from clipmem_core.review.overview import Corners

NONE = pd.DataFrame()
DENSITY = pd.DataFrame({"x": [-20.0, 30.0], "y": [0.0, 40.0], "n": [1, 99]})


def points(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = ("similarity_out", "clipmem", "map_x", "map_y", "misfit", "clipmem_image", "clipmem_text")
    frame = pd.DataFrame({name: rng.normal(size=n) for name in columns})
    frame["row"] = np.arange(n) + 100
    frame["group"] = ["scored", "external"] * (n // 2)
    frame["planted"] = [None, None, "miscaption", "vague"] * (n // 4)
    frame["label"] = [f"label {row % 20}" for row in range(n)]
    return frame


@pytest.mark.parametrize(
    ("draw", "x", "y"),
    [
        (
            lambda frame, by: score_map_figure(frame, colour_by=by, corners=None, density=NONE),
            "similarity_out",
            "clipmem",
        ),
        (lambda frame, by: contribution_figure(frame, colour_by=by, density=NONE), "clipmem_image", "clipmem_text"),
        (lambda frame, by: embedding_figure(frame, colour_by=by), "map_x", "map_y"),
    ],
    ids=["scores", "contributions", "embeddings"],
)
def test_classes_have_their_colours_and_all_their_pairs_and_a_drag_selects(draw, x: str, y: str) -> None:  # noqa: ANN001
    frame = points()
    figure = draw(frame, "group")
    assert figure.layout.dragmode == "lasso"
    assert [trace.name for trace in figure.data] == ["external", "scored"]
    for trace in figure.data:
        own = frame[frame["group"] == trace.name]
        assert trace.marker.color == group_colour(trace.name)
        assert (list(trace.x), list(trace.y)) == (own[x].tolist(), own[y].tolist())
        assert list(trace.customdata) == own["row"].tolist()
        assert trace.unselected.marker.color == OTHER
    planted = draw(frame, "planted").data  # above the others
    assert [trace.name for trace in planted] == ["not planted", "miscaption", "vague"]
    assert [trace.marker.color for trace in planted][:2] == [OTHER, PLANTED_COLOUR]
    (hostile,) = draw(frame.assign(label='<img src=x> & "%{x}"\n' + "x" * 100), "label").data
    assert hostile.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert hostile.name.endswith("x…")
    assert len(hostile.name) < 60
    assert "img" not in hostile.hovertemplate


@pytest.mark.parametrize("low", [None, -0.15])
def test_corners_are_cut_off_and_named(low: float | None) -> None:
    corners = Corners(fits=0.2, high=0.1, low=low)
    figure = score_map_figure(points(), colour_by="group", corners=corners, density=NONE)
    named = [(text.text[3:-4], text.xanchor, text.y, text.yref) for text in figure.layout.annotations]
    wrong, right = "memorized<br>and wrong", "memorized<br>and right"
    assert named[:2] == [(wrong, "left", 1, "y domain"), (right, "right", 1, "y domain")]
    assert [name for name, *_ in named[2:4]] == ["not learned", "typical"]
    # Independent pairs have the upper corners once more below.
    assert named[4:] == ([] if low is None else [(wrong, "left", 0, "y domain"), (right, "right", 0, "y domain")])
    assert [line.y0 for line in figure.layout.shapes] == [0, 0.1, *([] if low is None else [low])]
    assert figure.layout.shapes[0].x0 == 0.2


def test_the_density_lies_below_the_points_and_the_axes_reach_pairs_that_were_not_drawn() -> None:
    corners = Corners(fits=0.2, high=0.1, low=None)
    scores = score_map_figure(points(), colour_by="group", corners=corners, density=DENSITY)
    contributions = contribution_figure(points(), colour_by="planted", density=DENSITY)
    for figure in (scores, contributions):
        assert figure.data[0].type == "heatmap"
        assert list(figure.data[0].z) == pytest.approx(np.log([2, 100]))
        assert figure.layout.xaxis.range[0] < -20
        assert figure.layout.xaxis.range[1] > 30
    assert contributions.layout.yaxis.range[1] > 40


def test_the_twelve_most_frequent_labels_have_colours_and_the_rest_is_other() -> None:
    frame = points(400)
    frame.loc[:40, "label"] = "label 0"
    figure = embedding_figure(frame, colour_by="label")
    assert [trace.name for trace in figure.data][:2] == ["other", "label 0"]
    assert len(figure.data) == 13
    assert sum(len(trace.x) for trace in figure.data) == 400
    (cloud,) = embedding_figure(points().assign(label=None), colour_by="label").data
    assert (cloud.name, cloud.marker.color) == ("no value", OTHER)
    frame = points(200)
    frame.loc[7, "misfit"] = 1000.0
    frame.loc[:4, "misfit"] = np.nan
    without, scaled = embedding_figure(frame, colour_by="misfit").data
    assert (without.name, len(without.x), without.marker.color) == ("no misfit", 5, OTHER)
    assert scaled.marker.cmax == pytest.approx(np.nanpercentile(frame["misfit"], 98))
    assert scaled.marker.color[-1] == 1000
    assert (scaled.x[-1], scaled.y[-1]) == (frame.loc[7, "map_x"], frame.loc[7, "map_y"])
    (cloud,) = embedding_figure(points().assign(misfit=np.nan), colour_by="misfit").data
    assert cloud.name == "no misfit"


def test_words_stand_above_their_regions_and_of_two_that_would_meet_the_larger_has_its_own() -> None:
    frame = points()
    frame[["map_x", "map_y"]] = np.linspace(0, 10, 40)[:, None] * [[1, 1]]
    rows = [(1.0, 1.0, "frog, <b>", 10), (1.5, 1.1, "toad", 5), (9.0, 9.0, "crow", 2), (1.0, 9.0, "", 9)]
    named = pd.DataFrame(rows, columns=["map_x", "top", "words", "pairs"])
    figure = embedding_figure(frame, colour_by="misfit", named=named)
    assert [note.text for note in figure.layout.annotations] == ["<b>frog, &lt;b&gt;</b>", "<b>crow</b>"]
    assert [(note.x, note.y, note.yanchor) for note in figure.layout.annotations][1] == (9.0, 9.0, "bottom")


def test_both_parts_add_up_to_the_same_clipmem_along_a_line() -> None:
    figure = contribution_figure(points(), colour_by="group", density=NONE)
    named = [float(note.text.split()[1].replace("−", "-")) for note in figure.layout.annotations]
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    sums = [line.x0 + line.y0 for line in figure.layout.shapes]
    for line, clipmem in zip(figure.layout.shapes, sums, strict=True):
        assert line.x1 + line.y1 == pytest.approx(clipmem)
        assert left - 1e-9 <= line.x0 <= line.x1 <= right + 1e-9
        assert low - 1e-9 <= line.y1 <= line.y0 <= high + 1e-9
    far = [(line.x1 - left) / (right - left) > 0.2 for line in figure.layout.shapes]
    assert named == pytest.approx([clipmem for clipmem, has_room in zip(sums, far, strict=True) if has_room])
    assert 2 <= len(named) < len(sums)


@settings(max_examples=25)
@given(st.floats(-7, 7), st.floats(0.05, 9))
def test_lines_are_few_and_at_round_values(low: float, span: float) -> None:
    found = levels(low, low + span)
    assert len(found) <= 9
    assert all(low - 1e-6 <= value <= low + span + 1e-6 for value in found)
    steps = {round(b - a, 6) for a, b in zip(found, found[1:], strict=False)}
    assert steps <= set(STEPS)
    assert len(steps) <= 1
