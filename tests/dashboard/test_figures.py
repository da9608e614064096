"""Figures, with each pair at its place and foreign text escaped, and thumbnails."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from clipmem_core.audit.store import Audit
from clipmem_core.dashboard.cards import SIDE, placeholder, start_thumbnails, thumbnail
from clipmem_core.figures.audit_scores import TERM_NAMES, comparison_figure, group_figure, term_figure
from clipmem_core.figures.clouds import contribution_figure, embedding_figure, score_map_figure
from clipmem_core.figures.layout import GROUP_COLOURS, group_colour
from clipmem_core.review.overview import load_overview

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
    columns = ("similarity_out", "clipmem", "map_x", "map_y", "misfit", "clipmem_image", "clipmem_text")
    frame = pd.DataFrame({name: rng.normal(size=n) for name in columns})
    frame["row"] = np.arange(n) + 100
    frame["group"] = ["scored", "external"] * (n // 2)
    frame["injected"] = [None, None, "miscaption", "vague"] * (n // 4)
    frame["label"] = [f"label {row % 20}" for row in range(n)]
    return frame


def test_groups_have_a_ridge_and_their_mean_with_its_interval(made: dict[str, Audit]) -> None:
    overview = load_overview(made["paper"])
    figure = group_figure(overview.groups, overview.bins)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in dots] == overview.groups["mean"].tolist()
    assert [trace.marker.color for trace in dots] == [GROUP_COLOURS[group] for group in overview.groups["group"]]
    assert dots[0].x[0] + dots[0].error_x.array[0] == pytest.approx(overview.groups["high"][0])
    for place, area in zip((3, 2, 1, 0), (trace for trace in figure.data if trace.fill == "toself"), strict=True):
        assert place == min(area.y) < max(area.y) < place + 0.8  # below the next group


def test_terms_have_a_dot_a_member_and_a_bar_at_the_mean_of_each_side() -> None:
    terms = {term: [place + 0.1 * row for row in range(3)] for place, term in enumerate(TERM_NAMES)}
    members = pd.DataFrame({"member": ["<m0>", "m1", "m2"], "side": ["in", "in", "out"], **terms})
    figure = term_figure(members, colour="#123456", names={"in": "trained <with> it", "out": "trained without it"})
    mean_in, dots_in, mean_out, dots_out = figure.data
    assert list(mean_in.x) == pytest.approx([place + 0.05 for place in range(5)])
    assert list(dots_in.x) == pytest.approx([place + shift for shift in (0, 0.1) for place in range(5)])
    assert list(mean_out.x) == list(dots_out.x) == pytest.approx([place + 0.2 for place in range(5)])
    assert (dots_in.name, dots_in.customdata[0]) == ("trained &lt;with&gt; it", "&lt;m0&gt;")


def test_a_comparison_has_a_dot_a_pair_that_carries_its_row() -> None:
    rows = np.arange(3)
    table = pd.DataFrame({"pair_id": ["a", "b", "<a href='x'>" + "y" * 100], "row_one": rows, "row_other": rows + 9})
    table = table.assign(one=rows * 0.5, other=rows * 0.5 - 1, group_one=["scored", "external", "<b>g</b>"])
    figure = comparison_figure(table, column="similarity_out", names=("<i>x</i>", "b"))
    dots = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert dots["external"].marker.color == group_colour("external")
    assert (dots["external"].x[0], dots["external"].y[0], dots["external"].customdata[0][0]) == (0.5, -0.5, 1)
    assert dots["&lt;b&gt;g&lt;/b&gt;"].customdata[0][1].startswith("&lt;a href='x'&gt;yyy")
    assert figure.layout.xaxis.title.text == "similarity out in &lt;i&gt;x&lt;/i&gt;"
    assert list(figure.data[-1].x) == list(figure.data[-1].y) == [-1.0, 1.0]  # the line on which nothing changed


@pytest.mark.parametrize("name", MAPS)
def test_classes_on_a_map_have_their_colours_and_all_their_pairs(name: str) -> None:
    (draw, x, y), frame = MAPS[name], points()
    figure = draw(frame, "group")
    assert figure.layout.dragmode == "lasso"
    assert [trace.name for trace in figure.data] == ["external", "scored"]
    for trace in figure.data:
        own = frame[frame["group"] == trace.name]
        assert trace.marker.color == group_colour(trace.name)
        assert (list(trace.x), list(trace.y)) == (own[x].tolist(), own[y].tolist())
        assert list(trace.customdata) == own["row"].tolist()
    assert [trace.name for trace in draw(frame, "injected").data] == ["no error injected", "miscaption", "vague"]
    assert [trace.name for trace in draw(points(400), "label").data][0] == "other"
    (hostile,) = draw(frame.assign(label='<img src=x> & "%{x}"\n' + "x" * 100), "label").data
    assert hostile.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert len(hostile.name) < 60
    assert "img" not in hostile.hovertemplate


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_pictures_become_small_jpegs_of_the_same_shape(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "navy").save(tmp_path / "a.png")
    Image.new("RGB", (20, 10), "navy").save(tmp_path / "small.png")
    large, small, late = (
        picture.result() for picture in start_thumbnails(tmp_path, ["a.png", "small.png", "late.png"])
    )
    assert (opened(large[0]).format, opened(large[0]).size, large[1]) == ("JPEG", (SIDE, SIDE // 2), "")
    assert opened(small[0]).size == (20, 10)
    assert late[1]
    assert opened(thumbnail(tmp_path, "a.png", side=64)[0]).size == (64, 32)
    Image.new("RGB", (9, 9)).save(tmp_path / "late.png")
    assert not thumbnail(tmp_path, "late.png")[1]  # a failure is not cached


@pytest.mark.parametrize(
    ("image", "reason"), [("broken.png", "not a picture"), ("../up.png", "leaves"), ("no.tar/x.png", "no.tar")]
)
def test_an_unreadable_picture_is_a_grey_square_with_the_reason(tmp_path: Path, image: str, reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "up.png")
    data, fault = thumbnail(root, image)
    assert data == placeholder()
    assert reason in fault
