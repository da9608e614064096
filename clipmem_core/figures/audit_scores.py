"""Figures of an audit: clipmem by group and encoder, the terms of a pair, and two audits compared."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core import columns as c
from clipmem_core.figures import layout

IN, OUT = "in", "out"
TERM_NAMES = {  # in the order in which they are added up
    c.POSITIVE: "positive",
    c.NEGATIVE_TEXT: "negative text",
    c.NEGATIVE_IMAGE: "negative image",
    c.ALIGNMENT: "alignment",
    c.SIMILARITY: "similarity",
}


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge from the histogram (low, width, share), and the mean with its interval."""
    figure, heights = go.Figure(), list(range(len(groups)))[::-1]
    for row, height in enumerate(heights):
        rows = groups.iloc[[row]]
        group = str(rows[c.GROUP].item())
        colour, histogram = layout.group_colour(group), bins[bins[c.GROUP] == group]
        tops = height + 0.72 * histogram["share"] / histogram["share"].max()
        right = histogram["low"] + histogram["width"]
        figure.add_scatter(
            x=np.stack([histogram["low"], histogram["low"], right, right], axis=1).ravel(),
            y=[y for top in tops for y in (height, top, top, height)],
            mode="lines",
            hoverinfo="skip",
            fill="toself",
            fillcolor=colour,
            opacity=0.45,
            line={"width": 0},
        )
        figure.add_scatter(
            x=rows["mean"],
            y=[height - 0.12],
            mode="markers",
            marker={"color": colour, "size": 12},
            error_x=layout.error_bar(rows, colour),
            hovertemplate=f"{layout.safe(group)}: mean {layout.mean_texts(rows)[0]}<extra></extra>",
        )
    figure.add_vline(0, line=layout.DOTTED)
    labels = [f"{layout.safe(group)}<br>{n:,} pairs" for group, n in zip(groups[c.GROUP], groups["n"], strict=True)]
    figure.update_yaxes(tickvals=heights, ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)", zeroline=False)
    return layout.set_layout(figure, 110 + 85 * len(groups), top=10, showlegend=False)


def encoder_figure(parts: dict[str, float]) -> go.Figure:
    """Draw each encoder's part of clipmem, in cosine units, as a bar."""
    names = [name for name in layout.ENCODER_COLOURS if name in parts]
    figure = go.Figure()
    figure.add_bar(
        x=[parts[name] for name in names],
        y=[f"{name} encoder" for name in names],
        orientation="h",
        marker={"color": [layout.ENCODER_COLOURS[name] for name in names]},
        text=[f"{parts[name]:.3f}" for name in names],
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(title="part of clipmem (cosine units)")
    return layout.set_layout(figure, 190, top=10, bargap=0.35)


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each of `TERM_NAMES` with and without the pair in training: a dot per member, a bar at the mean."""
    figure, places = go.Figure(), list(range(len(TERM_NAMES)))
    for side, symbol, shift in ((IN, "circle", -0.17), (OUT, "circle-open", 0.17)):  # the axis runs downwards
        rows, name = members[members["side"] == side], layout.safe(names[side])
        if rows.empty:
            continue
        heights = [place + shift for place in places]
        figure.add_scatter(
            x=[rows[term].mean() for term in TERM_NAMES],
            y=heights,
            mode="markers",
            marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}},
            hovertemplate=f"{name}: mean %{{x:.3f}}<extra></extra>",
            showlegend=False,
        )
        figure.add_scatter(
            x=rows[list(TERM_NAMES)].to_numpy().ravel(),
            y=heights * len(rows),
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=[layout.safe(member) for member in rows["member"] for _ in TERM_NAMES],
            hovertemplate=f"%{{customdata}}: %{{x:.3f}}<extra>{name}</extra>",
        )
    figure.add_vline(0, line=layout.DOTTED)
    figure.update_yaxes(tickvals=places, ticktext=list(TERM_NAMES.values()), zeroline=False, showgrid=True)
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", zeroline=False, fixedrange=True)
    return layout.set_layout(figure, 330, top=10, legend=layout.LEGEND_ABOVE)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw a dot a pair of a `Comparison` (customdata: row_one, escaped pair_id), by its group in the first audit."""
    figure = go.Figure()
    for group in sorted(set(points["group_one"]), key=lambda name: -[*c.GROUPS, name].index(name)):
        rows = points[points["group_one"] == group]
        ids = [layout.short_name(pair_id, 60) for pair_id in rows[c.PAIR_ID]]
        figure.add_scattergl(
            x=rows["one"],
            y=rows["other"],
            name=layout.safe(group),
            mode="markers",
            marker={"color": layout.group_colour(group), "size": 5 if len(rows) > 1000 else 7, "opacity": 0.6},
            customdata=list(zip(rows["row_one"].tolist(), ids, strict=True)),
            hovertemplate="%{customdata[1]}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    ends = [points[["one", "other"]].min().min(), points[["one", "other"]].max().max()]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=layout.DOTTED, hoverinfo="skip", showlegend=False)
    score = layout.safe(column.replace("_", " "))
    figure.update_xaxes(title=f"{score} in {layout.safe(names[0])}", zeroline=False)
    figure.update_yaxes(title=f"{score} in {layout.safe(names[1])}", zeroline=False)
    figure.update_layout(clickmode="event+select", dragmode="pan", uirevision="constant")
    return layout.set_layout(figure, 480, right=0, legend=layout.LEGEND_ABOVE | {"itemsizing": "constant"})
