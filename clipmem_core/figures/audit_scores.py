"""Figures of an audit: losses, clipmem by group and encoder, the terms of a pair, and scores beside another audit."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import (
    ALIGNMENT,
    GROUP,
    GROUPS,
    NEGATIVE_IMAGE,
    NEGATIVE_TEXT,
    PAIR_ID,
    POSITIVE,
    SIMILARITY,
)
from clipmem_core.figures.layout import (
    DOTTED,
    ENCODER_COLOURS,
    FOLD_COLOURS,
    LEGEND_ABOVE,
    OTHER,
    SIDE_COLOURS,
    group_colour,
    laid_out,
    safe,
    short_name,
)

HEIGHT_OF_RIDGE = 0.72
DASHES = ("solid", "dash", "dot", "dashdot")
ID_LENGTH = 60
IN, OUT = "in", "out"
TERM_NAMES = {  # as the figure and the tables name them, and in the order they are added up
    POSITIVE: "positive",
    NEGATIVE_TEXT: "negative text",
    NEGATIVE_IMAGE: "negative image",
    ALIGNMENT: "alignment",
    SIMILARITY: "similarity",
}
OFFSETS = {IN: 0.17, OUT: -0.17}  # above and below a term's line


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge for the distribution, a dot for the mean, a bar for its interval if there is one.

    Args:
        groups: group, n, mean, low, high; the first is drawn on top.
        bins: group, low, width, share: each group's distribution.
    """
    figure = go.Figure()
    places = {group: len(groups) - 1 - row for row, group in enumerate(groups[GROUP])}
    for group, place in places.items():
        _add_ridge(figure, bins[bins[GROUP] == group], group_colour(group), place=place)
    for group, mean, low, high in zip(groups[GROUP], groups["mean"], groups["low"], groups["high"], strict=True):
        colour, bar, bounds = group_colour(group), None, ""
        if pd.notna(low) and pd.notna(high):
            bar = {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low]}
            bar |= {"thickness": 3, "color": colour, "width": 6}
            bounds = f"<br>{low:.3f} to {high:.3f}"
        figure.add_scatter(
            x=[mean],
            y=[places[group] - 0.12],
            mode="markers",
            marker={"color": colour, "size": 12},
            error_x=bar,
            hovertemplate=f"{safe(group)}: mean {mean:.3f}{bounds}<extra></extra>",
        )
    figure.add_vline(0, line=DOTTED)
    labels = [f"{safe(group)}<br>{n:,} pairs" for group, n in zip(groups[GROUP], groups["n"], strict=True)]
    figure.update_yaxes(tickvals=list(places.values()), ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)", zeroline=False)
    return laid_out(figure, 110 + 85 * len(groups), top=10, showlegend=False)


def _add_ridge(figure: go.Figure, bins: pd.DataFrame, colour: str, *, place: int) -> None:
    """Draw one distribution as an area of full height, its steps closed at both ends."""
    if bins.empty:
        return
    right, tall = bins["low"] + bins["width"], place + HEIGHT_OF_RIDGE * bins["share"] / bins["share"].max()
    x = np.stack([bins["low"], bins["low"], right, right], axis=1).ravel().tolist()
    y = [height for top in tall for height in (place, top, top, place)]
    area = {"fill": "toself", "fillcolor": colour, "opacity": 0.45, "line": {"width": 0}}
    figure.add_scatter(x=x, y=y, mode="lines", hoverinfo="skip", **area)


def encoder_figure(parts: dict[str, float]) -> go.Figure:
    """Draw each encoder's part of clipmem as a bar.

    Args:
        parts: `image` and `text` → its mean contribution, in cosine units.
    """
    names = [name for name in ENCODER_COLOURS if name in parts]
    figure = go.Figure(
        go.Bar(
            x=[parts[name] for name in names],
            y=[f"{name} encoder" for name in names],
            orientation="h",
            marker={"color": [ENCODER_COLOURS[name] for name in names]},
            text=[f"{parts[name]:.3f}" for name in names],
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(title="part of clipmem (cosine units)")
    return laid_out(figure, 190, top=10, bargap=0.35)


def member_style(name: str) -> tuple[str, str]:
    """Return the colour and the dash of a member's line: colour by side or fold, dash by seed or repeat.

    Example:
        >>> member_style("r1-f0") == (FOLD_COLOURS[0], "dash"), member_style("g-0") == (SIDE_COLOURS["g"], "solid")
        (True, True)
    """
    if side := re.fullmatch(r"([fg])-(\d+)", name):
        return SIDE_COLOURS[side[1]], DASHES[int(side[2]) % len(DASHES)]
    if fold := re.fullmatch(r"r(\d+)-f(\d+)", name):
        return FOLD_COLOURS[int(fold[2]) % len(FOLD_COLOURS)], DASHES[int(fold[1]) % len(DASHES)]
    return OTHER, DASHES[0]


def loss_figure(losses: pd.DataFrame) -> go.Figure:
    """Draw the loss of each member over its epochs.

    Args:
        losses: member, epoch, loss; a member's rows in the order of its epochs.
    """
    figure = go.Figure()
    for name, rows in losses.groupby("member", sort=False):
        colour, dash = member_style(str(name))
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["loss"],
            name=safe(name),
            mode="lines" if len(rows) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"color": colour, "size": 7},
            hovertemplate=f"{safe(name)}, epoch %{{x:.1f}}: loss %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="loss", zeroline=False)
    return laid_out(figure, 260, top=10, showlegend=True, legend=LEGEND_ABOVE | {"y": 1.02})


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each term with and without the pair in training: a dot a member, a bar at the mean of each side.

    Args:
        members: member, side (`in` or `out`) and a column for each of `TERM_NAMES`, in cosine units.
        colour: of the pair's group.
        names: side → what the legend calls it.
    """
    figure = go.Figure()
    for side, symbol in ((IN, "circle"), (OUT, "circle-open")):
        table, name = members[members["side"] == side], safe(names[side])
        for place, (term, called) in enumerate(TERM_NAMES.items() if len(table) else ()):
            height = place - OFFSETS[side]  # the axis runs downwards
            shared = {"legendgroup": side, "showlegend": False, "mode": "markers"}
            figure.add_scatter(
                x=[table[term].mean()],
                y=[height],
                marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}},
                hovertemplate=f"{name}: mean {called} %{{x:.3f}}<extra></extra>",
                **shared,
            )
            figure.add_scatter(
                x=table[term],
                y=[height] * len(table),
                name=name,
                marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
                customdata=[safe(member) for member in table["member"]],
                hovertemplate=f"%{{customdata}}: {called} %{{x:.3f}}<extra>{name}</extra>",
                **shared | {"showlegend": place == 0},
            )
    figure.add_vline(0, line=DOTTED)
    places = list(range(len(TERM_NAMES)))
    figure.update_yaxes(tickvals=places, ticktext=list(TERM_NAMES.values()), zeroline=False, showgrid=True)
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", zeroline=False, fixedrange=True)
    return laid_out(figure, 330, top=10, legend=LEGEND_ABOVE | {"y": 1.02})


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw a dot for each pair, coloured by its group in the first audit, and the line on which nothing changed.

    Args:
        points: pair_id, row_one, row_other, one, other and group_one, a row a pair; the scores in the column's unit.
        column: the score's name.
        names: of the two audits.

    Returns:
        A figure whose points carry row_one, row_other and the pair's id, escaped, as customdata.
    """
    figure, present = go.Figure(), list(dict.fromkeys(points["group_one"]))
    ours = [group for group in reversed(GROUPS) if group in present]  # the first group lies on top
    for group in (*ours, *(group for group in present if group not in GROUPS)):
        own = points[points["group_one"] == group]
        shown = [short_name(pair_id, ID_LENGTH) for pair_id in own[PAIR_ID]]
        figure.add_scattergl(
            x=own["one"],
            y=own["other"],
            name=safe(group),
            mode="markers",
            marker={"color": group_colour(group), "size": 5 if len(own) > 1000 else 7, "opacity": 0.6},
            customdata=list(zip(own["row_one"].tolist(), own["row_other"].tolist(), shown, strict=True)),
            hovertemplate="%{customdata[2]}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    if len(points):
        ends = [float(np.nanmin(points[["one", "other"]])), float(np.nanmax(points[["one", "other"]]))]
        figure.add_scatter(x=ends, y=ends, mode="lines", line=DOTTED, hoverinfo="skip", showlegend=False)
    word = safe(column.replace("_", " "))
    figure.update_xaxes(title=f"{word} in {safe(names[0])}", zeroline=False)
    figure.update_yaxes(title=f"{word} in {safe(names[1])}", zeroline=False)
    click: dict[str, Any] = {"clickmode": "event+select", "dragmode": "pan", "uirevision": "kept"}
    return laid_out(figure, 480, right=0, legend=LEGEND_ABOVE | {"itemsizing": "constant"}, **click)
