"""Tables of an audit → Plotly figures. One function a figure; the colours are those of `colours`."""

import html

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import GROUP
from clipmem_core.figures.colours import ENCODER_COLOURS, group_colour

HEIGHT_OF_RIDGE = 0.72


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge for the distribution, a dot for the mean, a bar for its interval if there is one.

    Args:
        groups: group, n, mean, low, high; the first is drawn on top.
        bins: group, low, width, share: each group's distribution.
    """
    figure = go.Figure()
    places = {group: len(groups) - 1 - row for row, group in enumerate(groups[GROUP])}
    for group, place in places.items():
        _add_ridge(figure, bins[bins[GROUP] == group], name=str(group), place=place)
    for group, mean, low, high in zip(groups[GROUP], groups["mean"], groups["low"], groups["high"], strict=True):
        _add_mean(figure, str(group), (mean, low, high), place=places[group])
    figure.add_vline(0, line={"color": "#808080", "width": 1, "dash": "dot"})
    labels = [f"{html.escape(str(group))}<br>{n:,} pairs" for group, n in zip(groups[GROUP], groups["n"], strict=True)]
    figure.update_yaxes(tickvals=list(places.values()), ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)", zeroline=False)
    figure.update_layout(showlegend=False, height=110 + 85 * len(groups), margin={"l": 0, "r": 10, "t": 10, "b": 0})
    return figure


def _add_ridge(figure: go.Figure, bins: pd.DataFrame, *, name: str, place: int) -> None:
    """Draw one distribution as an area of full height, its steps closed at both ends."""
    if bins.empty:
        return
    high = bins["low"] + bins["width"]
    tall = place + HEIGHT_OF_RIDGE * bins["share"] / bins["share"].max()
    x, y = [], []
    for left, right, top in zip(bins["low"], high, tall, strict=True):
        x += [left, left, right, right]
        y += [place, top, top, place]
    colour = group_colour(name)
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"width": 0}, fill="toself", fillcolor=colour, opacity=0.45, hoverinfo="skip"
    )


def _add_mean(figure: go.Figure, group: str, numbers: tuple[float, float, float], *, place: int) -> None:
    mean, low, high = numbers
    colour = group_colour(group)
    bar, bounds = None, ""
    if pd.notna(low) and pd.notna(high):
        bar = {"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low]}
        bar |= {"thickness": 3, "color": colour, "width": 6}
        bounds = f"<br>{low:.3f} to {high:.3f}"
    figure.add_scatter(
        x=[mean],
        y=[place - 0.12],
        mode="markers",
        marker={"color": colour, "size": 12},
        error_x=bar,
        hovertemplate=f"{html.escape(group)}: mean {mean:.3f}{bounds}<extra></extra>",
    )


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
    figure.update_layout(height=190, margin={"l": 0, "r": 10, "t": 10, "b": 0}, bargap=0.35)
    return figure
