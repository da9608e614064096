"""Maps of pairs, in which a box or a lasso selects: scores, embeddings, and the encoders' contributions."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core import columns as c
from clipmem_core.figures import layout
from clipmem_core.review.overview import Corners
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.scores.registry import words

PERCENTILES = (2, 98)  # ends of the colour scale
MEMORIZED = "memorized<br>and wrong", "memorized<br>and right"
NOT_MEMORIZED = "not learned", "typical"


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem and name the corners, above the density (x, y, n) of all pairs."""
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.SIMILARITY_OUT, c.CLIPMEM), hover, density)
    if corners is not None:
        figure.add_vline(corners.fits, line=layout.DOTTED)
        for height in (corners.high, corners.low):
            if height is not None:
                figure.add_hline(height, line=layout.DOTTED)
        # Independent pairs are learned by g, which is subtracted: the memorized ones lie at the bottom.
        bottom = NOT_MEMORIZED if corners.low is None else MEMORIZED
        for names, y, yanchor in ((MEMORIZED, 1, "top"), (bottom, 0, "bottom")):
            for name, x, xanchor in zip(names, (0.005, 0.995), ("left", "right"), strict=True):
                figure.add_annotation(
                    text=f"<b>{name}</b>",
                    **{"x": x, "xref": "x domain", "xanchor": xanchor, "y": y, "yref": "y domain", "yanchor": yanchor},
                    font={"size": 13},
                    showarrow=False,
                    borderpad=4,
                )
    figure.update_xaxes(title="similarity out (models that never saw the pair)", zeroline=False, showgrid=False)
    return figure.update_yaxes(title="clipmem: memorization", zeroline=False, showgrid=False)


def contribution_figure(points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, above the density (x, y, n) of all pairs."""
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT), hover, density)
    figure.add_vline(0, line=layout.DOTTED)
    figure.add_hline(0, line=layout.DOTTED)
    figure.update_xaxes(title="clipmem image: the image encoder's part", zeroline=False, showgrid=False)
    return figure.update_yaxes(title="clipmem text: the text encoder's part", zeroline=False, showgrid=False)


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of embeddings coloured by a class or a score. Only neighbourhoods have a meaning: it has no axes."""
    by_class = colour_by in (c.GROUP, c.INJECTED, c.LABEL)
    scored = points[:0] if by_class else points[np.isfinite(points[colour_by])].sort_values(colour_by)
    unscored = points.drop(scored.index)
    figure = _cloud(unscored, colour_by, (MAP_X, MAP_Y), "%{fullData.name}<extra></extra>", scored[:0])
    if len(scored):  # the highest scores lie on top
        low, high = np.percentile(scored[colour_by], PERCENTILES)
        title = words(colour_by)
        figure.add_scattergl(
            x=scored[MAP_X],
            y=scored[MAP_Y],
            name=title,
            mode="markers",
            marker={
                "color": scored[colour_by],
                "cmin": low,
                "cmax": high,
                "colorscale": list(zip(np.linspace(0, 1, len(layout.SCALE)), layout.SCALE, strict=True)),
                "colorbar": {"title": {"text": title}, "thickness": 12, "outlinewidth": 0},
                "size": _marker_size(len(points)),
                "opacity": 0.8,
            },
            hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
            showlegend=False,
            **_selectable(scored),
        )
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False)


def _cloud(points: pd.DataFrame, colour_by: str, axes: tuple[str, str], hover: str, density: pd.DataFrame) -> go.Figure:
    """Draw points by class, above the density of all pairs in grey; a drag selects, and the zoom survives a rerun."""
    figure = go.Figure()
    if not density.empty:
        shades = [[0, "rgba(128,128,128,0)"], [1, "rgba(128,128,128,0.6)"]]
        cells = {"x": density["x"], "y": density["y"], "z": np.log1p(density["n"]), "zmin": 0}
        figure.add_heatmap(**cells, colorscale=shades, showscale=False, hoverinfo="skip")
    for name, rows, colour in _classes(points, colour_by):
        marker = {"color": colour, "size": _marker_size(len(points)), "opacity": 0.7}
        options = {"name": name, "mode": "markers", "marker": marker, "hovertemplate": hover}
        figure.add_scattergl(x=rows[axes[0]], y=rows[axes[1]], **options, **_selectable(rows))
    legend = layout.LEGEND_ABOVE | {"itemsizing": "constant"}
    return layout.set_layout(figure, 560, right=0, dragmode="lasso", legend=legend, uirevision="constant")


def _selectable(points: pd.DataFrame) -> dict[str, Any]:
    return {"customdata": points["row"], "unselected": {"marker": {"color": layout.OTHER, "opacity": 0.15}}}


def _classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    """Return the name, the points and the colour of each group, injected kind or label; unnamed points come first."""
    values = points[column]
    if column == c.GROUP:
        names = [group for group in reversed(c.GROUPS) if (values == group).any()]
        return [(group, points[values == group], layout.group_colour(group)) for group in names]
    if column not in (c.INJECTED, c.LABEL):  # pairs without the score
        return [(f"no {words(column)}", points, layout.OTHER)] if len(points) else []
    colours = layout.KIND_COLOURS if column == c.INJECTED else layout.LABEL_COLOURS
    colour_of = dict(zip(values.value_counts().index, colours, strict=False))
    unnamed = points[~values.isin(list(colour_of))]
    unnamed_label = "no error injected" if column == c.INJECTED else "other" if values.notna().any() else "no value"
    classes = [(layout.short_name(name), points[values == name], colour) for name, colour in colour_of.items()]
    return [(unnamed_label, unnamed, layout.OTHER), *classes] if len(unnamed) else classes


def _marker_size(points: int) -> int:
    return 8 if points < 500 else 6 if points < 3000 else 4
