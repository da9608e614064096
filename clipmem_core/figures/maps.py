"""Figures of an audit's maps, in which a box or a lasso selects pairs."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM, GROUP, LABEL, PLANTED, SIMILARITY_OUT
from clipmem_core.figures.clouds import LEGEND_ABOVE, add_points, classes, density_trace, marker_size, selectable
from clipmem_core.figures.colours import OTHER
from clipmem_core.review.overview import Corners
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.scores.table import words

SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high, each as far from both pages
PERCENTILES = (2, 98)  # beyond them a colour says no more
BY_HEART_WRONG, BY_HEART_RIGHT = "learned by heart<br>and wrong", "learned by heart<br>and right"
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
    figure, size = go.Figure(), marker_size(len(points))
    if not density.empty:
        figure.add_trace(density_trace(density))
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    parts = classes(points, colour_by)
    add_points(figure, parts, x=SIMILARITY_OUT, y=CLIPMEM, size=size, opacity=0.75, hover=hover)
    if corners is not None:
        _add_corners(figure, corners)
        figure.update_xaxes(range=_widened(points[SIMILARITY_OUT], density.get("x", ())))
    figure.update_layout(legend=LEGEND_ABOVE)
    figure.update_xaxes(title="similarity out (members that never saw the pair)")
    figure.update_yaxes(title="clipmem: learned by heart")
    figure.update_xaxes(zeroline=False, showgrid=False)
    figure.update_yaxes(zeroline=False, showgrid=False)
    return selectable(figure)


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of embeddings. Only neighbourhoods mean something, so it has no axes.

    Args:
        points: map_x, map_y and the column that colours them, a row a pair.
        colour_by: a score, which is drawn on a scale clipped at its percentiles, or `group`, `planted` or `label`.
    """
    figure, size = go.Figure(), marker_size(len(points))
    parts = classes(points, colour_by) if colour_by in (GROUP, PLANTED, LABEL) else _unscored(points, colour_by)
    hover = "%{fullData.name}<extra></extra>"
    add_points(figure, parts, x=MAP_X, y=MAP_Y, size=size, opacity=0.7, hover=hover)
    if colour_by not in (GROUP, PLANTED, LABEL):
        _add_scaled(figure, points[np.isfinite(points[colour_by])], colour_by, size)
        figure.update_layout(legend=LEGEND_ABOVE)  # beside the map is the scale
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return selectable(figure)


def _widened(points: pd.Series, cells: Iterable[float]) -> tuple[float, float]:
    """Return an axis over points and cells that leaves room for the names on its right, where most points lie."""
    spread = [points.min(), points.max(), *cells]
    low, high = min(spread), max(spread)
    span = max(high - low, 0.1)
    return low - 0.03 * span, high + 0.1 * span


def _unscored(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    without = points[~np.isfinite(points[column])]
    return [(f"no {words(column)}", without, OTHER)] if len(without) else []


def _add_scaled(figure: go.Figure, points: pd.DataFrame, column: str, size: int) -> None:
    """Draw points on the colour scale, the highest on top."""
    if points.empty:
        return
    ordered = points.sort_values(column)
    low, high = np.percentile(ordered[column], PERCENTILES)
    title = words(column)
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
