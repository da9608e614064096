"""Figures of an audit: losses, clipmem by group and encoder, the terms of a pair, and two audits compared."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core import columns as c
from clipmem_core.figures.layout import (
    DOTTED,
    ENCODER_COLOURS,
    LEGEND_ABOVE,
    error_bar,
    group_colour,
    laid_out,
    safe,
    short_name,
)

RIDGE_HEIGHT = 0.72
ID_LENGTH = 60
IN, OUT = "in", "out"
TERM_NAMES = {  # in the order in which they are added up
    c.POSITIVE: "positive",
    c.NEGATIVE_TEXT: "negative text",
    c.NEGATIVE_IMAGE: "negative image",
    c.ALIGNMENT: "alignment",
    c.SIMILARITY: "similarity",
}


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge for the distribution, a dot for the mean, a bar for its interval.

    Args:
        groups: group, n, mean, low, high; the first is drawn on top.
        bins: group, low, width, share: each group's distribution.
    """
    figure, places = go.Figure(), list(range(len(groups)))[::-1]
    for row, place in enumerate(places):
        rows = groups.iloc[[row]]
        group, colour = str(rows[c.GROUP].item()), group_colour(rows[c.GROUP].item())
        own = bins[bins[c.GROUP] == group]
        tops = place + RIDGE_HEIGHT * own["share"] / own["share"].max()
        right = own["low"] + own["width"]
        figure.add_scatter(
            x=np.stack([own["low"], own["low"], right, right], axis=1).ravel(),
            y=[height for top in tops for height in (place, top, top, place)],
            mode="lines",
            hoverinfo="skip",
            fill="toself",
            fillcolor=colour,
            opacity=0.45,
            line={"width": 0},
        )
        bounds = f"<br>{rows['low'].item():.3f} to {rows['high'].item():.3f}" if rows["low"].notna().all() else ""
        figure.add_scatter(
            x=rows["mean"],
            y=[place - 0.12],
            mode="markers",
            marker={"color": colour, "size": 12},
            error_x=error_bar(rows, colour) if bounds else None,
            hovertemplate=f"{safe(group)}: mean %{{x:.3f}}{bounds}<extra></extra>",
        )
    figure.add_vline(0, line=DOTTED)
    labels = [f"{safe(group)}<br>{n:,} pairs" for group, n in zip(groups[c.GROUP], groups["n"], strict=True)]
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)", zeroline=False)
    return laid_out(figure, 110 + 85 * len(groups), top=10, showlegend=False)


def encoder_figure(parts: dict[str, float]) -> go.Figure:
    """Draw each encoder's part of clipmem, in cosine units, as a bar."""
    names = [name for name in ENCODER_COLOURS if name in parts]
    bar = go.Bar(
        x=[parts[name] for name in names],
        y=[f"{name} encoder" for name in names],
        orientation="h",
        marker={"color": [ENCODER_COLOURS[name] for name in names]},
        text=[f"{parts[name]:.3f}" for name in names],
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure = go.Figure(bar)
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(title="part of clipmem (cosine units)")
    return laid_out(figure, 190, top=10, bargap=0.35)


def loss_figure(losses: pd.DataFrame) -> go.Figure:
    """Draw the loss of each member over its epochs, from the columns member, epoch and loss."""
    figure = go.Figure()
    for name, rows in losses.groupby("member", sort=False):
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["loss"],
            name=safe(name),
            mode="lines" if len(rows) > 1 else "markers",
            hovertemplate=f"{safe(name)}, epoch %{{x:.1f}}: loss %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="loss", zeroline=False)
    return laid_out(figure, 260, top=10, showlegend=True, legend=LEGEND_ABOVE)


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each term with and without the pair in training: a dot a member, a bar at the mean of each side.

    Args:
        members: member, side (`in` or `out`) and a column for each of `TERM_NAMES`, in cosine units.
        colour: of the pair's group.
        names: side → what the legend calls it.
    """
    figure, places = go.Figure(), list(range(len(TERM_NAMES)))
    for side, symbol, shift in ((IN, "circle", -0.17), (OUT, "circle-open", 0.17)):  # the axis runs downwards
        table, name = members[members["side"] == side], safe(names[side])
        if table.empty:
            continue
        heights = [place + shift for place in places]
        figure.add_scatter(
            x=[table[term].mean() for term in TERM_NAMES],
            y=heights,
            mode="markers",
            marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}},
            hovertemplate=f"{name}: mean %{{x:.3f}}<extra></extra>",
            showlegend=False,
        )
        figure.add_scatter(
            x=table[list(TERM_NAMES)].to_numpy().ravel(),
            y=heights * len(table),
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=[safe(member) for member in table["member"] for _ in TERM_NAMES],
            hovertemplate=f"%{{customdata}}: %{{x:.3f}}<extra>{name}</extra>",
        )
    figure.add_vline(0, line=DOTTED)
    figure.update_yaxes(tickvals=places, ticktext=list(TERM_NAMES.values()), zeroline=False, showgrid=True)
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", zeroline=False, fixedrange=True)
    return laid_out(figure, 330, top=10, legend=LEGEND_ABOVE)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw a dot a pair, coloured by its group in the first audit, and the line on which nothing changed.

    Args:
        points: pair_id, row_one, row_other, one, other and group_one, a row a pair; the scores in the column's unit.
        column: the score's name.
        names: of the two audits.

    Returns:
        A figure whose points carry row_one and the pair's id, escaped, as customdata.
    """
    figure = go.Figure()
    for group in sorted(set(points["group_one"]), key=lambda name: -[*c.GROUPS, name].index(name)):
        own = points[points["group_one"] == group]
        figure.add_scattergl(
            x=own["one"],
            y=own["other"],
            name=safe(group),
            mode="markers",
            marker={"color": group_colour(group), "size": 5 if len(own) > 1000 else 7, "opacity": 0.6},
            customdata=[
                [row, short_name(pair_id, ID_LENGTH)]
                for row, pair_id in zip(own["row_one"].tolist(), own[c.PAIR_ID], strict=True)
            ],
            hovertemplate="%{customdata[1]}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    ends = [points[["one", "other"]].min().min(), points[["one", "other"]].max().max()]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=DOTTED, hoverinfo="skip", showlegend=False)
    word = safe(column.replace("_", " "))
    figure.update_xaxes(title=f"{word} in {safe(names[0])}", zeroline=False)
    figure.update_yaxes(title=f"{word} in {safe(names[1])}", zeroline=False)
    click: dict[str, Any] = {"clickmode": "event+select", "dragmode": "pan", "uirevision": "kept"}
    return laid_out(figure, 480, right=0, legend=LEGEND_ABOVE | {"itemsizing": "constant"}, **click)
