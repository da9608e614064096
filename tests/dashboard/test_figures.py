"""Maps, with each pair at its place and foreign text escaped, and thumbnails."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from clipmem_core.dashboard.cards import placeholder, thumbnail
from clipmem_core.figures import embedding_figure


def test_foreign_labels_of_a_map_are_escaped_and_cut() -> None:
    label = '<img src=x> & "%{x}"\n' + "x" * 100
    points = pd.DataFrame({"map_x": [0.0, 2.0], "map_y": 1.0, "row": [7, 8], "label": label})
    figure = embedding_figure(
        points.assign(region="<b>, x", listed=[True, False]), colour_by="label"
    )
    assert [each.text for each in figure.layout.annotations] == ["&lt;b&gt;<br>x"]
    unlisted, trace = figure.data
    assert (list(unlisted.x), unlisted.customdata) == ([2.0], None)
    assert trace.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert len(trace.name) < 60
    assert "img" not in trace.hovertemplate
    assert (list(trace.x), list(trace.customdata)) == ([0.0], [7])


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
