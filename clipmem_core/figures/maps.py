"""Points of an audit's maps → Plotly figures in which a box or a lasso selects pairs."""

import html
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM, GROUP, GROUPS, LABEL, PLANTED, SIMILARITY_OUT
from clipmem_core.figures.colours import OTHER, PLANTED_COLOUR, group_colour
from clipmem_core.review.score_map import Corners
from clipmem_core.review.selection import MAP_X, MAP_Y

# Told apart from each other, from the light and from the dark page.
LABEL_COLOURS = (
    *("#1479b8", "#d55e00", "#008f6b", "#9a5bc4", "#a87800", "#d6498a"),
    *("#0f8f9f", "#d93a3a", "#6f8a1f", "#6a6fd8", "#a0674b", "#c04fc0"),
)
KIND_COLOURS = (PLANTED_COLOUR, "#1479b8", "#a87800", "#008f6b")
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high, each as far from both pages
PERCENTILES = (2, 98)  # beyond them a colour says no more
NO_VALUE, OTHER_LABEL = "no value", "other"
NAME_LENGTH = 40
FAINT = "rgba(128,128,128,{})"
HEIGHT = 560
LEGEND_ABOVE = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}
BY_HEART_WRONG, BY_HEART_RIGHT = "learned by heart and wrong", "learned by heart and right"
NEVER_LEARNED, GENERIC = "never learned", "generic"


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem, with the corners named.

    Args:
        points: similarity_out, clipmem and the column that colours them, a row a pair.
        colour_by: `group` or `planted`.
        corners: where the corners begin; None draws none.
        density: x, y (middles of equal cells) and n, over all pairs; empty draws none.
    """
    figure, size = go.Figure(), _marker_size(len(points))
    if not density.empty:
        figure.add_trace(_density_trace(density))
    for name, chosen, colour in _classes(points, colour_by):
        figure.add_scattergl(
            x=chosen[SIMILARITY_OUT],
            y=chosen[CLIPMEM],
            name=name,
            mode="markers",
            marker={"color": colour, "size": size, "opacity": 0.6},
            hovertemplate="similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>",
        )
    if corners is not None:
        _add_corners(figure, corners)
        figure.update_xaxes(range=_widened(points[SIMILARITY_OUT], density.get("x", ())))
    figure.update_layout(legend=LEGEND_ABOVE)
    figure.update_xaxes(title="similarity out: how well the caption fits, to members that never saw the pair")
    figure.update_yaxes(title="clipmem: learned by heart")
    figure.update_xaxes(zeroline=False, showgrid=False)
    figure.update_yaxes(zeroline=False, showgrid=False)
    return _selectable(figure)


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of embeddings. Only neighbourhoods mean something, so it has no axes.

    Args:
        points: map_x, map_y and the column that colours them, a row a pair.
        colour_by: a score, which is drawn on a scale clipped at its percentiles, or `group`, `planted` or `label`.
    """
    figure, size = go.Figure(), _marker_size(len(points))
    classes = _classes(points, colour_by) if colour_by in (GROUP, PLANTED, LABEL) else _unscored(points, colour_by)
    for name, chosen, colour in classes:
        figure.add_scattergl(
            x=chosen[MAP_X],
            y=chosen[MAP_Y],
            name=name,
            mode="markers",
            marker={"color": colour, "size": size, "opacity": 0.7},
            hovertemplate="%{fullData.name}<extra></extra>",
        )
    if colour_by not in (GROUP, PLANTED, LABEL):
        _add_scaled(figure, points[np.isfinite(points[colour_by])], colour_by, size)
        figure.update_layout(legend=LEGEND_ABOVE)  # beside the map is the scale
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return _selectable(figure)


def _widened(points: pd.Series, cells: Iterable[float]) -> tuple[float, float]:
    """Return an axis over points and cells that leaves room for the names on its right, where most points lie."""
    spread = [points.min(), points.max(), *cells]
    low, high = min(spread), max(spread)
    span = max(high - low, 0.1)
    return low - 0.03 * span, high + 0.1 * span


def _marker_size(points: int) -> int:
    """Return the diameter of a point in pixels: small where many would hide each other."""
    return 8 if points < 500 else 6 if points < 3000 else 4


def _selectable(figure: go.Figure) -> go.Figure:
    """Make a drag draw a lasso, and keep zoom and legend when the page runs again."""
    figure.update_layout(
        dragmode="lasso",
        height=HEIGHT,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        legend={"itemsizing": "constant"},
        uirevision="kept",
    )
    return figure


def _classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
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
    drawn = [(_plain(name), points[values == name], colour) for name, colour in named]
    return [(rest_name, rest, OTHER), *drawn] if len(rest) else drawn


def _unscored(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    without = points[~np.isfinite(points[column])]
    return [(f"no {column.replace('_', ' ')}", without, OTHER)] if len(without) else []


def _plain(name: object) -> str:
    """Return a word that others wrote, cut, and escaped as Plotly understands it: it knows no &quot;."""
    text = " ".join(str(name).split())
    text = f"{text[:NAME_LENGTH]}…" if len(text) > NAME_LENGTH else text
    return html.escape(text, quote=False)


def _add_scaled(figure: go.Figure, points: pd.DataFrame, column: str, size: int) -> None:
    """Draw points on the colour scale, the highest on top."""
    if points.empty:
        return
    ordered = points.sort_values(column)
    low, high = np.percentile(ordered[column], PERCENTILES)
    title = column.replace("_", " ")
    figure.add_scattergl(
        x=ordered[MAP_X],
        y=ordered[MAP_Y],
        name=title,
        mode="markers",
        marker={
            "color": ordered[column],
            "colorscale": _steps(SCALE),
            "cmin": low,
            "cmax": high,
            "size": size,
            "opacity": 0.8,
            "colorbar": {"title": {"text": title}, "thickness": 12, "outlinewidth": 0},
        },
        hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
        showlegend=False,
    )


def _steps(colours: Sequence[str]) -> list[list[float | str]]:
    return [[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)]


def _density_trace(density: pd.DataFrame) -> go.Heatmap:
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


def _add_corners(figure: go.Figure, corners: Corners) -> None:
    """Draw the lines that cut the corners off, and name what lies in them."""
    line = {"color": "#808080", "width": 1, "dash": "dot"}
    figure.add_vline(corners.fits, line=line)
    figure.add_hline(corners.high, line=line)
    _name(figure, BY_HEART_WRONG, BY_HEART_RIGHT, y=1, yref="y domain", yanchor="top")
    if corners.low is None:
        _name(figure, NEVER_LEARNED, GENERIC, y=0, yref="y domain", yanchor="bottom")
        return
    figure.add_hline(corners.low, line=line)
    _name(figure, NEVER_LEARNED, GENERIC, y=0, yref="y", yanchor="middle")
    _name(figure, BY_HEART_WRONG, BY_HEART_RIGHT, y=0, yref="y domain", yanchor="bottom")


def _name(figure: go.Figure, left: str, right: str, *, y: float, yref: str, yanchor: str) -> None:
    for text, x, xanchor in ((left, 0.005, "left"), (right, 0.995, "right")):
        figure.add_annotation(
            text=f"<b>{text}</b>",
            **{"x": x, "xref": "x domain", "xanchor": xanchor, "y": y, "yref": yref, "yanchor": yanchor},
            font={"size": 13},
            showarrow=False,
            borderpad=4,
        )
