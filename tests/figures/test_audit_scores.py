"""Figures of an audit: losses, clipmem by group and encoder, one pair's terms, and a comparison."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.audits.store import Audit
from clipmem_core.figures.audit_scores import (
    TERM_NAMES,
    comparison_figure,
    encoder_figure,
    group_figure,
    loss_figure,
    member_style,
    term_figure,
)
from clipmem_core.figures.layout import ENCODER_COLOURS, GROUP_COLOURS, OTHER, group_colour
from clipmem_core.review.overview import load_overview


def test_groups_have_a_ridge_and_their_mean_with_its_interval(made: dict[str, Audit]) -> None:
    overview = load_overview(made["paper"])
    figure = group_figure(overview.groups, overview.bins)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in dots] == overview.groups["mean"].tolist()
    assert [trace.marker.color for trace in dots] == [GROUP_COLOURS[group] for group in overview.groups["group"]]
    assert dots[0].x[0] + dots[0].error_x.array[0] == pytest.approx(overview.groups["high"][0])
    assert list(figure.layout.yaxis.tickvals) == [3, 2, 1, 0]
    for place, area in zip((3, 2, 1, 0), (trace for trace in figure.data if trace.fill == "toself"), strict=True):
        assert place == min(area.y) < max(area.y) < place + 0.8  # below the next group


def test_a_group_without_an_interval_has_no_bar_and_a_hostile_name_is_text() -> None:
    groups = pd.DataFrame({"group": ["<a href=x>g</a>"], "n": [3], "mean": [0.1], "low": [None], "high": [None]})
    bins = pd.DataFrame({"group": groups["group"], "low": [0.0], "width": [0.2], "share": [1.0]})
    figure = group_figure(groups, bins)
    assert figure.data[1].error_x.array is None
    assert "<a" not in figure.to_json().replace("\\u003c", "<")
    bar = encoder_figure({"text": 0.1, "image": 0.3}).data[0]
    assert list(bar.x) == [0.3, 0.1]
    assert list(bar.marker.color) == [ENCODER_COLOURS["image"], ENCODER_COLOURS["text"]]


def test_losses_are_one_line_a_member_by_fold_and_repeat() -> None:
    rows = [(name, epoch, 4.0 - epoch) for name in ("r0-f0", "<a href=x>") for epoch in (1.0, 2.0, 3.0)]
    losses = pd.DataFrame(rows, columns=["member", "epoch", "loss"])
    first, hostile = loss_figure(losses).data
    assert (list(first.x), list(first.y), first.mode) == ([1, 2, 3], [3, 2, 1], "lines")
    assert "<" not in hostile.name
    assert loss_figure(losses.head(1)).data[0].mode == "markers"
    assert not loss_figure(losses[:0]).data
    assert member_style("f-0")[0] == member_style("f-2")[0] == GROUP_COLOURS["candidate"]
    assert member_style("r0-f1")[0] == member_style("r1-f1")[0] != member_style("r0-f0")[0]
    assert len({member_style(f"r{repeat}-f0") for repeat in range(4)}) == 4
    assert member_style("odd")[0] == OTHER


def test_terms_have_a_dot_a_member_and_a_bar_at_the_mean_of_each_side() -> None:
    terms = {term: [place + 0.1 * row for row in range(3)] for place, term in enumerate(TERM_NAMES)}
    members = pd.DataFrame({"member": ["<m0>", "m1", "m2"], "side": ["in", "in", "out"], **terms})
    names = {"in": "trained <with> it", "out": "trained without it"}
    figure = term_figure(members, colour="#123456", names=names)
    dots = [trace for trace in figure.data if trace.customdata is not None]
    full, rings = ([trace for trace in dots if trace.marker.symbol == kind] for kind in ("circle", "circle-open"))
    assert [list(trace.x) for trace in full] == [pytest.approx([place, place + 0.1]) for place in range(5)]
    assert [list(trace.x) for trace in rings] == [pytest.approx([place + 0.2]) for place in range(5)]
    assert all((trace.y[0] < round(trace.y[0])) == (trace in full) for trace in dots)  # the axis runs downwards
    bars = [trace.x[0] for trace in figure.data if trace.marker.symbol == "line-ns"]
    assert sorted(bars) == pytest.approx(sorted([0.05, 1.05, 2.05, 3.05, 4.05, 0.2, 1.2, 2.2, 3.2, 4.2]))
    assert [trace.name for trace in dots if trace.showlegend] == ["trained &lt;with&gt; it", "trained without it"]
    assert full[0].customdata[0] == "&lt;m0&gt;"
    assert len(term_figure(members[2:], colour="#123456", names=names).data) == 2 * len(TERM_NAMES)


def compared(*groups: str, ids: list[str] | None = None) -> pd.DataFrame:
    rows = np.arange(len(groups))
    names = ids or [f"{row}.png" for row in rows]
    scores = {"one": rows * 0.5, "other": rows * 0.5 - 1.0}
    return pd.DataFrame({"pair_id": names, "row_one": rows, "row_other": rows + 100, **scores, "group_one": groups})


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["scored", "external", "new kind"]), max_size=12))
def test_every_compared_pair_is_one_dot_of_its_group_that_knows_its_rows(groups: list[str]) -> None:
    figure = comparison_figure(compared(*groups), column="misfit", names=("a", "b"))
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    found = {
        int(data[0]): (x, y, int(data[1]), data[2])
        for trace in dots
        for x, y, data in zip(trace.x, trace.y, trace.customdata, strict=True)
    }
    assert found == {row: (row * 0.5, row * 0.5 - 1.0, row + 100, f"{row}.png") for row in range(len(groups))}
    assert {trace.name: trace.marker.color for trace in dots} == {group: group_colour(group) for group in groups}
    assert len(figure.data) == len(dots) + bool(groups)
    if groups:  # the line on which nothing changed spans both scores
        assert list(figure.data[-1].x) == list(figure.data[-1].y) == [-1.0, max(0.0, len(groups) / 2 - 0.5)]


def test_a_comparison_names_score_and_audits_and_escapes_what_others_wrote() -> None:
    table = compared("<b>g</b>", ids=["<a href='x'>" + "y" * 100])
    figure = comparison_figure(table, column="similarity_out", names=("<i>x</i>", "b"))
    assert figure.layout.xaxis.title.text == "similarity out in &lt;i&gt;x&lt;/i&gt;"
    assert figure.layout.yaxis.title.text == "similarity out in b"
    assert figure.data[0].name == "&lt;b&gt;g&lt;/b&gt;"
    text = figure.data[0].customdata[0][2]
    assert text.startswith("&lt;a href='x'&gt;yyy")
    assert text.endswith("…")
