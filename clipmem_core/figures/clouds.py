"""What figures of many points share: named and coloured classes, the density behind them, a lasso, plain text."""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import GROUP, GROUPS, ONE_SPLIT, PLANTED
from clipmem_core.figures.colours import OTHER, PLANTED_COLOUR, group_colour

# Told apart from each other, from the light and from the dark page.
LABEL_COLOURS = (
    *("#1479b8", "#d55e00", "#008f6b", "#9a5bc4", "#a87800", "#d6498a"),
    *("#0f8f9f", "#d93a3a", "#6f8a1f", "#6a6fd8", "#a0674b", "#c04fc0"),
)
KIND_COLOURS = (PLANTED_COLOUR, "#1479b8", "#a87800", "#008f6b")
NO_VALUE, OTHER_LABEL = "no value", "other"
NAME_LENGTH = 40
FAINT = "rgba(128,128,128,{})"
HEIGHT = 560
LEGEND_ABOVE = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}
LEGEND_OF_SEEDS = LEGEND_ABOVE | {"title": {"text": f"bars: 95 %, {ONE_SPLIT}", "side": "top"}}


def classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    """Return the name, the points and the colour of each group, planted kind or label; what is least told first."""
    values = points[column]
    if column == GROUP:
        names = [group for group in reversed(GROUPS) if (values == group).any()]
        return [(group, points[values == group], group_colour(group)) for group in names]
    counts = values.value_counts()
    colours = KIND_COLOURS if column == PLANTED else LABEL_COLOURS
    named = [(name, colour) for name, colour in zip(counts.index, colours, strict=False)]
    rest = points[~values.isin([name for name, _ in named])]
    rest_name = "not planted" if column == PLANTED else OTHER_LABEL if values.notna().any() else NO_VALUE
    drawn = [(short_name(name), points[values == name], colour) for name, colour in named]
    return [(rest_name, rest, OTHER), *drawn] if len(rest) else drawn


def add_points(
    figure: go.Figure,
    parts: Sequence[tuple[str, pd.DataFrame, str]],
    *,
    x: str,
    y: str,
    size: int,
    opacity: float,
    hover: str,
) -> None:
    """Draw each class of points as a cloud of its colour.

    Args:
        figure: drawn into.
        parts: as `classes`: name, points with the columns `x` and `y`, and colour.
        x: a column.
        y: a column.
        size: of a point, in pixels.
        opacity: of a point.
        hover: Plotly's template of what a point says.
    """
    for name, chosen, colour in parts:
        figure.add_scattergl(
            x=chosen[x],
            y=chosen[y],
            name=name,
            mode="markers",
            marker={"color": colour, "size": size, "opacity": opacity},
            hovertemplate=hover,
        )


def marker_size(points: int) -> int:
    """Return the diameter of a point in pixels: small where many would hide each other."""
    return 8 if points < 500 else 6 if points < 3000 else 4


def density_trace(density: pd.DataFrame) -> go.Heatmap:
    """Draw how many pairs there are, on a scale of logarithms, in a grey that is seen on both pages."""
    return go.Heatmap(
        x=density["x"],
        y=density["y"],
        z=np.log1p(density["n"]),
        zmin=0,
        colorscale=[[0, FAINT.format(0)], [1, FAINT.format(0.6)]],
        showscale=False,
        hoverinfo="skip",
    )


def selectable(figure: go.Figure) -> go.Figure:
    """Make a drag draw a lasso, and keep zoom and legend when the page runs again."""
    figure.update_layout(
        dragmode="lasso",
        height=HEIGHT,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        legend={"itemsizing": "constant"},
        uirevision="kept",
    )
    return figure


def short_name(name: object, limit: int = NAME_LENGTH) -> str:
    """Return a word that others wrote, cut, and as Plotly shows it as it is."""
    text = " ".join(str(name).split())
    return safe(f"{text[:limit]}…" if len(text) > limit else text)


def safe(text: object) -> str:
    """Return text as Plotly shows it as it is: it reads some HTML, and knows no &quot;."""
    return html.escape(str(text), quote=False)
