"""Each encoder's part of clipmem, pair by pair or as means → Plotly figures in the encoders' colours."""

import math

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT
from clipmem_core.figures.clouds import (
    LEGEND_ABOVE,
    add_points,
    classes,
    density_trace,
    marker_size,
    selectable,
    short_name,
)
from clipmem_core.figures.colours import ENCODER_COLOURS

LINE = {"color": "#808080", "width": 1, "dash": "dot"}
STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # of clipmem between two lines
LINES = 8  # at most
NAME_LENGTH = 20  # leaves a telephone room for the dots
APART = 0.16  # of the dots of one row


def contribution_figure(points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, on lines of equal clipmem.

    Args:
        points: clipmem_image, clipmem_text and the column that colours them, a row a pair, in cosine units.
        colour_by: `group`, `label` or `planted`.
        density: x, y (middles of equal cells) and n, over all pairs; empty draws none.
    """
    figure, size = go.Figure(), marker_size(len(points))
    if not density.empty:
        figure.add_trace(density_trace(density))
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    parts = classes(points, colour_by)
    add_points(figure, parts, x=CLIPMEM_IMAGE, y=CLIPMEM_TEXT, size=size, opacity=0.6, hover=hover)
    spread = pd.concat([points.rename(columns={CLIPMEM_IMAGE: "x", CLIPMEM_TEXT: "y"})[["x", "y"]], density])
    x, y = (_widened(spread[axis]) for axis in ("x", "y"))
    _add_equal_lines(figure, x, y)
    figure.update_layout(legend=LEGEND_ABOVE)
    figure.update_xaxes(title="clipmem image: the image encoder's part", range=x, zeroline=False, showgrid=False)
    figure.update_yaxes(title="clipmem text: the text encoder's part", range=y, zeroline=False, showgrid=False)
    return selectable(figure)


def _widened(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.05 * max(high - low, 0.1)
    return low - room, high + room


def levels(low: float, high: float) -> list[float]:
    """Return the round values between two ends that lines are drawn at.

    Example:
        >>> levels(-0.11, 0.42)
        [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]
    """
    step = next((step for step in STEPS if (high - low) / step <= LINES), STEPS[-1])
    return [round(place * step, 2) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _add_equal_lines(figure: go.Figure, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Draw the lines on which both contributions add up to the same clipmem, each with its value at its lower end."""
    for level in levels(x[0] + y[0], x[1] + y[1]):
        start, end = max(x[0], level - y[1]), min(x[1], level - y[0])
        figure.add_shape(type="line", x0=start, y0=level - start, x1=end, y1=level - end, line=LINE, layer="below")
        figure.add_annotation(
            **{"x": end, "y": level - end, "xanchor": "right", "yanchor": "bottom", "showarrow": False},
            text=f"clipmem {level:g}".replace("-", "−"),
            font={"size": 11, "color": "#808080"},
        )


def means_figure(means: pd.DataFrame, null: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw the mean of each encoder by name: a dot with its interval, and a line where the null lies.

    Args:
        means: name, encoder, n, mean, low, high, a row a name and encoder, in cosine units; the first is drawn on top.
        null: the same columns, of external pairs alone; empty draws no lines.
        title: of the axis.
    """
    figure, names = go.Figure(), list(dict.fromkeys(means["name"]))
    places = {name: len(names) - 1 - row for row, name in enumerate(names)}
    for sign, (encoder, colour) in zip((1, -1), ENCODER_COLOURS.items(), strict=True):
        own = means[(means["encoder"] == encoder) & means["mean"].notna()]
        figure.add_scatter(
            x=own["mean"],
            y=[places[name] + sign * APART for name in own["name"]],
            error_x=error_bar(own, colour),
            mode="markers",
            marker={"color": colour, "size": 9},
            name=f"{encoder} encoder",
            customdata=in_words(own),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
        for mean in null.loc[(null["encoder"] == encoder) & null["mean"].notna(), "mean"]:
            figure.add_vline(mean, line={"color": colour, "width": 1, "dash": "dot"})
    counts = means.groupby("name", sort=False)["n"].max()
    labels = [f"{short_name(name, NAME_LENGTH)}<br>{counts[name]:,} pairs" for name in names]
    figure.update_yaxes(tickvals=[places[name] for name in names], ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.6, len(names) - 0.4], fixedrange=True)
    figure.update_xaxes(title=title, zeroline=True, zerolinecolor="#808080", zerolinewidth=1)
    figure.update_layout(legend=LEGEND_ABOVE, height=110 + 44 * len(names), margin={"l": 0, "r": 10, "t": 30, "b": 0})
    return figure


def error_bar(rows: pd.DataFrame, colour: str) -> dict[str, object]:
    """Return Plotly's error bar from mean, low and high; a row without an interval has none.

    Args:
        rows: mean, low, high.
        colour: of the bar.
    """
    up, down = ((rows[end] - rows["mean"]).abs().fillna(0) for end in ("high", "low"))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "thickness": 2}


def in_words(rows: pd.DataFrame) -> list[str]:
    """Return what is said of a dot: its mean, and the interval where there is one.

    Args:
        rows: mean, low, high.
    """
    told = []
    for row in rows.to_dict("records"):
        interval = f" ({row['low']:.3f} to {row['high']:.3f})" if pd.notna(row["low"]) else ""
        told.append(f"{row['mean']:.3f}{interval}".replace("-", "−"))
    return told
