"""Maps, with each pair at its place and foreign text escaped, and thumbnails."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from clipmem_core.dashboard.cards import placeholder, thumbnail
from clipmem_core.figures import (
    GROUP_COLOURS,
    contribution_figure,
    embedding_figure,
    score_map_figure,
)

NONE = pd.DataFrame()
MAPS: dict[str, tuple[Callable[..., go.Figure], str, str]] = {
    "scores": (
        lambda frame, by: score_map_figure(frame, colour_by=by, corners=None, density=NONE),
        "similarity_out",
        "clipmem",
    ),
    "contributions": (
        lambda frame, by: contribution_figure(frame, colour_by=by, density=NONE),
        "clipmem_image",
        "clipmem_text",
    ),
    "embeddings": (lambda frame, by: embedding_figure(frame, colour_by=by), "map_x", "map_y"),
}


def points(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = [name for _, x, y in MAPS.values() for name in (x, y)]
    frame = pd.DataFrame({name: rng.normal(size=n) for name in columns})
    frame["row"] = np.arange(n) + 100
    frame["group"] = ["scored", "external"] * (n // 2)
    frame["injected"] = [None, None, "miscaption", "vague"] * (n // 4)
    frame["label"] = [f"label {row % 20}" for row in range(n)]
    return frame


@pytest.mark.parametrize("name", MAPS)
def test_classes_on_a_map_have_their_colours_and_all_their_pairs(name: str) -> None:
    (draw, x, y) = MAPS[name]
    frame = points()
    figure = draw(frame, "group")
    assert figure.layout.dragmode == "lasso"
    assert [trace.name for trace in figure.data] == ["external", "scored"]
    for trace in figure.data:
        own = frame[frame["group"] == trace.name]
        assert trace.marker.color == GROUP_COLOURS[trace.name]
        assert (list(trace.x), list(trace.y)) == (own[x].tolist(), own[y].tolist())
        assert list(trace.customdata) == own["row"].tolist()
    assert [trace.name for trace in draw(frame, "injected").data] == [
        "no error injected",
        "miscaption",
        "vague",
    ]
    (hostile,) = draw(frame.assign(label='<img src=x> & "%{x}"\n' + "x" * 100), "label").data
    assert hostile.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert len(hostile.name) < 60
    assert "img" not in hostile.hovertemplate


@pytest.mark.parametrize(
    ("image", "reason"),
    [("broken.png", "not a picture"), ("../up.png", "leaves"), ("no.tar/x.png", "no.tar")],
)
def test_an_unreadable_picture_is_a_grey_square_with_the_reason(
    tmp_path: Path, image: str, reason: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "up.png")
    data, fault = thumbnail(root, image)
    assert data == placeholder()
    assert reason in fault
