"""Maps of pairs, in which a box or a lasso selects: scores, embeddings, and the encoders' contributions."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM, CLIPMEM_IMAGE, CLIPMEM_TEXT, GROUP, GROUPS, LABEL, PLANTED, SIMILARITY_OUT
from clipmem_core.figures.layout import (
    DOTTED,
    KIND_COLOURS,
    LABEL_COLOURS,
    LEGEND_ABOVE,
    OTHER,
    SCALE,
    group_colour,
    laid_out,
    short_name,
)
from clipmem_core.review.overview import Corners
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.scores.registry import words

FAINT = "rgba(128,128,128,{})"
PERCENTILES = (2, 98)  # beyond them a colour says no more
BY_HEART = "memorized<br>and wrong", "memorized<br>and right"
NOT_BY_HEART = "not learned", "typical"
STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # of clipmem between two lines
LINES = 8  # at most
NAMED = 0.2  # share of the width that a line's name takes
NEAR = (0.2, 0.035)  # shares of a map within which two lines of words would meet
ROW = "row"  # of the pair, in the points
Part = tuple[str, pd.DataFrame, str]  # name, points and colour of a class


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem, with the corners named.

    Args:
        points: row, similarity_out, clipmem and the column that colours them, a row a pair.
        colour_by: `group` or `planted`.
        corners: where the corners begin; None draws none.
        density: x, y (middles of equal cells) and n, over all pairs; empty draws none.
    """
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    parts = _classes(points, colour_by)
    figure = _cloud(parts, len(points), SIMILARITY_OUT, CLIPMEM, hover=hover, opacity=0.75, density=density)
    if corners is not None:
        _add_corners(figure, corners)
        # The names on the right, where most points lie, need space.
        figure.update_xaxes(range=_range(points[SIMILARITY_OUT], density.get("x", ()), below=0.03, above=0.1))
    figure.update_layout(legend=LEGEND_ABOVE)
    figure.update_xaxes(title="similarity out (members that never saw the pair)", zeroline=False, showgrid=False)
    figure.update_yaxes(title="clipmem: memorization", zeroline=False, showgrid=False)
    return figure


def contribution_figure(points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, on lines of equal clipmem.

    Args:
        points: row, clipmem_image, clipmem_text and the column that colours them, a row a pair, in cosine units.
        colour_by: `group`, `label` or `planted`.
        density: x, y (middles of equal cells) and n, over all pairs; empty draws none.
    """
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    parts = _classes(points, colour_by)
    figure = _cloud(parts, len(points), CLIPMEM_IMAGE, CLIPMEM_TEXT, hover=hover, opacity=0.6, density=density)
    x, y = (
        _range(points[column], density.get(axis, ()), below=0.05, above=0.05)
        for column, axis in ((CLIPMEM_IMAGE, "x"), (CLIPMEM_TEXT, "y"))
    )
    for level in levels(x[0] + y[0], x[1] + y[1]):
        start, end = max(x[0], level - y[1]), min(x[1], level - y[0])
        figure.add_shape(type="line", x0=start, y0=level - start, x1=end, y1=level - end, line=DOTTED, layer="below")
        if end - x[0] > NAMED * (x[1] - x[0]):  # else its name would stand over the numbers of the axis
            figure.add_annotation(
                **{"x": end, "y": level - end, "xanchor": "right", "yanchor": "bottom", "showarrow": False},
                text=f"clipmem {level:g}".replace("-", "−"),
                font={"size": 11, "color": OTHER},
            )
    figure.update_layout(legend=LEGEND_ABOVE)
    figure.update_xaxes(title="clipmem image: the image encoder's part", range=x, zeroline=False, showgrid=False)
    figure.update_yaxes(title="clipmem text: the text encoder's part", range=y, zeroline=False, showgrid=False)
    return figure


def embedding_figure(points: pd.DataFrame, *, colour_by: str, named: pd.DataFrame | None = None) -> go.Figure:
    """Draw a map of embeddings. Only neighbourhoods mean something, so it has no axes.

    Args:
        points: row, map_x, map_y and the column that colours them, a row a pair.
        colour_by: a score, which is drawn on a scale clipped at its percentiles, or `group`, `planted` or `label`.
        named: map_x, top, words and pairs of its regions, which are written there; None for none.
    """
    by_class = colour_by in (GROUP, PLANTED, LABEL)
    known = points[:0] if by_class else points[np.isfinite(points[colour_by])].sort_values(colour_by)
    rest = points.drop(known.index)
    parts = _classes(rest, colour_by) if by_class else [(f"no {words(colour_by)}", rest, OTHER)] if len(rest) else []
    figure = _cloud(parts, len(points), MAP_X, MAP_Y, hover="%{fullData.name}<extra></extra>", opacity=0.7)
    if not by_class:
        figure.update_layout(legend=LEGEND_ABOVE)  # beside the map is the scale
    if len(known):  # the highest lies on top
        low, high = np.percentile(known[colour_by], PERCENTILES)
        title = words(colour_by)
        scale = {"color": known[colour_by], "cmin": low, "cmax": high, "size": _marker_size(len(points))}
        scale |= {"colorscale": [[place / (len(SCALE) - 1), colour] for place, colour in enumerate(SCALE)]}
        scale |= {"opacity": 0.8, "colorbar": {"title": {"text": title}, "thickness": 12, "outlinewidth": 0}}
        figure.add_scattergl(
            x=known[MAP_X],
            y=known[MAP_Y],
            name=title,
            mode="markers",
            marker=scale,
            hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
            showlegend=False,
            **_chosen(known),
        )
    if named is not None:
        _add_words(figure, named, points)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def levels(low: float, high: float) -> list[float]:
    """Return the round values between two ends that lines are drawn at.

    Example:
        >>> levels(-0.11, 0.42)
        [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]
    """
    step = next((step for step in STEPS if (high - low) / step <= LINES), STEPS[-1])
    return [round(place * step, 2) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _cloud(
    parts: Sequence[Part],
    count: int,
    x: str,
    y: str,
    *,
    hover: str,
    opacity: float,
    density: pd.DataFrame | None = None,
) -> go.Figure:
    """Return a figure of each class of points, below them in grey how many pairs there are, in which a drag selects.

    Zoom and legend stay when the page runs again.

    Args:
        parts: as of `_classes`.
        count: how many points there are; many are drawn small, or they would hide each other.
        x: a column of the points.
        y: a column of the points.
        hover: Plotly's template of what a point says.
        opacity: of a point.
        density: x, y and n, on a scale of logarithms; None or empty draws none.
    """
    figure = go.Figure()
    if density is not None and not density.empty:
        shades = [[0, FAINT.format(0)], [1, FAINT.format(0.6)]]
        shown = {"zmin": 0, "colorscale": shades, "showscale": False, "hoverinfo": "skip"}
        figure.add_heatmap(x=density["x"], y=density["y"], z=np.log1p(density["n"]), **shown)
    for name, chosen, colour in parts:
        marker = {"color": colour, "size": _marker_size(count), "opacity": opacity}
        shown = {"name": name, "mode": "markers", "marker": marker, "hovertemplate": hover}
        figure.add_scattergl(x=chosen[x], y=chosen[y], **shown, **_chosen(chosen))
    legend = {"itemsizing": "constant"}
    return laid_out(figure, 560, right=0, dragmode="lasso", legend=legend, uirevision="kept")


def _chosen(points: pd.DataFrame) -> dict[str, Any]:
    """Return what tells the pairs of points, and lets those grey that a click or a shape leaves out."""
    return {"customdata": points[ROW], "unselected": {"marker": {"color": OTHER, "opacity": 0.15}}}


def _add_words(figure: go.Figure, named: pd.DataFrame, points: pd.DataFrame) -> None:
    """Write the words of each region above it, where they hide few points; of two that would meet, the larger's."""
    wide, tall = (NEAR[at] * np.ptp(points[column]) for at, column in enumerate((MAP_X, MAP_Y)))
    written: list[tuple[float, float]] = []
    for region in named[named["words"] != ""].sort_values("pairs", ascending=False).to_dict("records"):
        x, y = region[MAP_X], region["top"]
        if any(abs(x - other[0]) < wide and abs(y - other[1]) < tall for other in written):
            continue
        written.append((x, y))
        text = ", ".join(short_name(word) for word in region["words"].split(", "))
        place = {"x": x, "y": y, "yanchor": "bottom", "showarrow": False, "captureevents": False}
        figure.add_annotation(text=f"<b>{text}</b>", font={"size": 11}, **place)


def _classes(points: pd.DataFrame, column: str) -> list[Part]:
    """Return the name, the points and the colour of each group, planted kind or label; what is least told first."""
    values = points[column]
    if column == GROUP:
        names = [group for group in reversed(GROUPS) if (values == group).any()]
        return [(group, points[values == group], group_colour(group)) for group in names]
    colours = KIND_COLOURS if column == PLANTED else LABEL_COLOURS
    named = dict(zip(values.value_counts().index, colours, strict=False))
    rest = points[~values.isin(list(named))]
    rest_name = "not planted" if column == PLANTED else "other" if values.notna().any() else "no value"
    drawn = [(short_name(name), points[values == name], colour) for name, colour in named.items()]
    return [(rest_name, rest, OTHER), *drawn] if len(rest) else drawn


def _marker_size(points: int) -> int:
    return 8 if points < 500 else 6 if points < 3000 else 4


def _range(points: pd.Series, cells: Iterable[float], *, below: float, above: float) -> tuple[float, float]:
    """Return an axis over points and cells, with shares of it free at its ends."""
    spread = [points.min(), points.max(), *cells]
    low, high = float(min(spread)), float(max(spread))
    span = max(high - low, 0.1)
    return low - below * span, high + above * span


def _add_corners(figure: go.Figure, corners: Corners) -> None:
    """Draw the lines that cut the corners off, and name what lies in them."""
    figure.add_vline(corners.fits, line=DOTTED)
    named = [(BY_HEART, 1, "y domain", "top"), (NOT_BY_HEART, 0, "y domain", "bottom")]
    if corners.low is not None:  # independent pairs are learned by the other side: theirs lie below 0
        named[1:] = [(NOT_BY_HEART, 0, "y", "middle"), (BY_HEART, 0, "y domain", "bottom")]
    for height in (corners.high, corners.low):
        if height is not None:
            figure.add_hline(height, line=DOTTED)
    for texts, y, yref, yanchor in named:
        for text, x, xanchor in zip(texts, (0.005, 0.995), ("left", "right"), strict=True):
            figure.add_annotation(
                text=f"<b>{text}</b>",
                **{"x": x, "xref": "x domain", "xanchor": xanchor, "y": y, "yref": yref, "yanchor": yanchor},
                font={"size": 13},
                showarrow=False,
                borderpad=4,
            )
