"""Maps of pairs: scores, embeddings and contributions."""

import numpy as np
import pandas as pd
import pytest

from clipmem_core.figures.clouds import contribution_figure, embedding_figure, score_map_figure
from clipmem_core.figures.layout import OTHER, PLANTED_COLOUR, group_colour
from clipmem_core.review.overview import Corners

NONE = pd.DataFrame()


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
