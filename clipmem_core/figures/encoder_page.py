"""The figures of the page Encoders: each encoder's part of clipmem, UnitMem by layer, and the three paradigms.

UnitMem lies in [0, 1]; its axes show only the part that there is, so that small differences can be seen.
"""

import math

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.audits import unitmem_tables as t
from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT
from clipmem_core.figures.clouds import (
    LEGEND_ABOVE,
    LEGEND_OF_SEEDS,
    add_points,
    classes,
    density_trace,
    marker_size,
    selectable,
    short_name,
)
from clipmem_core.figures.colours import ENCODER_COLOURS, OTHER
from clipmem_core.review.contributions import DEPTH, MEMBERS, PARADIGM_NAMES, SOURCE

LINE = {"color": "#808080", "width": 1, "dash": "dot"}
STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # of clipmem between two lines
LINES = 8  # at most
NAME_LENGTH = 20  # leaves space for the dots on a telephone
APART = 0.16  # of the dots of one row
HEIGHT = 360
PARADIGM_COLOURS = {t.CLIP: "#c2487a", t.SUPERVISED: "#1479b8", t.SELF_SUPERVISED: "#008f6b"}
# Mean UnitMem of layers 1 and 12, digitised from a figure of "Captured by Captions" (ICLR 2025).
PAPER = {t.CLIP: (0.272, 0.411), t.SELF_SUPERVISED: (0.339, 0.376), t.SUPERVISED: (0.265, 0.477)}
SOURCE_NAMES = {
    MEMBERS: "trained members",
    t.BEFORE: "before training",
    t.SEEN: "pairs it trained on, as many",
    t.UNSEEN: "pairs it never saw",
}
DASHES = {MEMBERS: "solid", t.BEFORE: "dash", t.SEEN: "dot", t.UNSEEN: "dot"}


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


def tower_figure(layers: pd.DataFrame, *, tower: str, span: tuple[float, float]) -> go.Figure:
    """Draw UnitMem of one encoder by layer: its members, and in grey what UnitMem is without memorization.

    Args:
        layers: tower, source, layer, mean, low, high.
        tower: `image` or `text`.
        span: ends of the axis, the same for both encoders.
    """
    figure, own = go.Figure(), layers[layers["tower"] == tower]
    for source, name in SOURCE_NAMES.items():
        rows = own[own[SOURCE] == source]
        if len(rows):
            colour = ENCODER_COLOURS[tower] if source in (MEMBERS, t.SEEN) else OTHER
            _add_line(figure, rows["layer"], rows, name=name, colour=colour, dash=DASHES[source])
    ticks = sorted(set(own["layer"]))
    figure.update_xaxes(title=f"layer of the {tower} encoder", tickvals=ticks, zeroline=False)
    return _finished(figure, span)


def paradigm_figure(means: pd.DataFrame, *, paper: bool) -> go.Figure:
    """Draw UnitMem by relative depth of an image encoder under each paradigm, and the paper's where it is asked for.

    Args:
        means: paradigm, depth (0 the first layer, 1 the last), mean, low, high.
        paper: draw the paper's first and last layers, joined by straight lines.
    """
    figure = go.Figure()
    for paradigm, colour in PARADIGM_COLOURS.items():
        rows, name = means[means["paradigm"] == paradigm], PARADIGM_NAMES[paradigm]
        if len(rows):
            _add_line(figure, rows[DEPTH], rows, name=name, colour=colour, dash="solid")
        if paper:
            ends = pd.DataFrame({"mean": PAPER[paradigm]}).assign(low=float("nan"), high=float("nan"))
            depths = pd.Series([0.0, 1.0])
            _add_line(figure, depths, ends, name=f"{name}, paper (digitised)", colour=colour, dash="dash")
    figure.update_xaxes(title="relative depth: 0 first layer, 1 last layer", zeroline=False)
    values = [*means["low"], *means["high"], *means["mean"], *(end for ends in PAPER.values() for end in ends if paper)]
    return _finished(figure, axis_span(pd.Series(values, dtype=float))).update_layout(legend=LEGEND_OF_SEEDS)


def axis_span(values: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis that leaves some room around values, within [0, 1]."""
    return max(0.0, float(values.min()) - 0.03), min(1.0, float(values.max()) + 0.03)


def _add_line(figure: go.Figure, places: pd.Series, rows: pd.DataFrame, *, name: str, colour: str, dash: str) -> None:
    figure.add_scatter(
        x=places,
        y=rows["mean"],
        error_y=error_bar(rows, colour) if rows["low"].notna().any() else None,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7, "symbol": "circle" if dash == "solid" else "circle-open"},
        customdata=in_words(rows),
        hovertemplate="UnitMem %{customdata}<extra>%{fullData.name}</extra>",
    )


def _finished(figure: go.Figure, span: tuple[float, float]) -> go.Figure:
    figure.update_yaxes(title="mean UnitMem", range=span, zeroline=False)
    figure.update_layout(legend=LEGEND_ABOVE, height=HEIGHT, margin={"l": 0, "r": 10, "t": 30, "b": 0})
    return figure
