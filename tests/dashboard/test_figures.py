"""Maps, with each pair at its place and foreign text escaped, and thumbnails."""

import pandas as pd

from clipmem_core.figures import embedding_figure


def test_foreign_labels_of_a_map_are_escaped_and_cut() -> None:
    label = '<img src=x> & "%{x}"\n' + "x" * 100
    points = pd.DataFrame({"map_x": [0.0, 2.0], "map_y": 1.0, "row": [7, 8], "label": label})
    figure = embedding_figure(
        points.assign(region="<b>, x", listed=[True, False]), colour_by="label"
    )
    assert [each.text for each in figure.layout.annotations] == ["&lt;b&gt;<br>x"]
    trace = figure.data[1]
    assert trace.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert len(trace.name) < 60
    assert "img" not in trace.hovertemplate
    assert (list(trace.x), list(trace.customdata)) == ([0.0], [7])
