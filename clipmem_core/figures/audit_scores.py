"""Figures of an audit: clipmem by group and encoder, the terms of a pair, two audits compared, and
maps of pairs.

In a map, a box or a lasso selects: scores, embeddings, and the encoders' contributions.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core import columns as c
from clipmem_core.figures import layout
from clipmem_core.review.overview import Corners
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.scores.registry import words

IN = "in"
OUT = "out"
TERM_NAMES = {  # in the order in which they are added up
    c.POSITIVE: "positive",
    c.NEGATIVE_TEXT: "negative text",
    c.NEGATIVE_IMAGE: "negative image",
    c.ALIGNMENT: "alignment",
    c.SIMILARITY: "similarity",
}
PERCENTILES = (2, 98)  # ends of the colour scale
MEMORIZED = "memorized<br>and wrong", "memorized<br>and right"
NOT_MEMORIZED = "not learned", "typical"
_NO_DENSITY = pd.DataFrame()
_UNSELECTED = {"marker": {"color": layout.OTHER, "opacity": 0.15}}
_CLASS_COLOURS = {c.INJECTED: layout.KIND_COLOURS, c.LABEL: layout.LABEL_COLOURS}


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge from the histogram (low, width, share), and the mean with its
    interval."""
    figure = go.Figure()
    heights = range(len(groups))[::-1]
    for height, (name, rows) in zip(heights, groups.groupby(c.GROUP, sort=False), strict=True):
        group = str(name)
        colour = layout.group_colour(group)
        histogram = bins[bins[c.GROUP] == group]
        figure.add_bar(
            x=histogram["low"],
            width=histogram["width"],
            offset=0,
            base=height,
            y=0.72 * histogram["share"] / histogram["share"].max(),
            marker={"color": colour, "line": {"width": 0}},
            opacity=0.45,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=rows["mean"],
            y=[height - 0.12],
            mode="markers",
            marker={"color": colour, "size": 12},
            error_x=layout.error_bar(rows, colour),
            hovertemplate=f"{layout.safe(group)}: mean {layout.mean_texts(rows)[0]}<extra></extra>",
        )
    figure.add_vline(0, line=layout.DOTTED)
    labels = [
        f"{layout.safe(group)}<br>{n:,} pairs"
        for group, n in zip(groups[c.GROUP], groups["n"], strict=True)
    ]
    figure.update_yaxes(tickvals=list(heights), ticktext=labels, showgrid=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)")
    height = 110 + 85 * len(groups)
    return layout.set_layout(figure, height, top=10, showlegend=False, barmode="overlay")


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each of `TERM_NAMES` with and without the pair in training: a dot per member."""
    figure = go.Figure()
    places = np.arange(len(TERM_NAMES))
    terms = list(TERM_NAMES)
    # The axis runs downwards.
    for side, symbol, shift in ((IN, "circle", -0.17), (OUT, "circle-open", 0.17)):
        rows = members[members["side"] == side]
        name = layout.safe(names[side])
        outline = {"width": 2, "color": colour}
        figure.add_scatter(
            x=rows[terms].to_numpy().ravel(),
            y=np.tile(places + shift, len(rows)),
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": outline},
            customdata=rows["member"].map(layout.safe).repeat(len(terms)),
            hovertemplate=f"%{{customdata}}: %{{x:.3f}}<extra>{name}</extra>",
        )
    figure.add_vline(0, line=layout.DOTTED)
    figure.update_yaxes(tickvals=places, ticktext=list(TERM_NAMES.values()))
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", fixedrange=True)
    return layout.set_layout(figure, 330, top=10, legend=layout.LEGEND_ABOVE)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw the pairs of a `Comparison` by group in the first audit; customdata is `row_one`."""
    points = points.rename(columns={"group_one": c.GROUP, "row_one": "row"})
    points["text"] = [layout.short_name(pair_id, 60) for pair_id in points[c.PAIR_ID]]
    hover = "%{text}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, c.GROUP, ("one", "other"), hover)
    values = points[["one", "other"]].to_numpy()
    ends = [values.min(), values.max()]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=layout.DOTTED, hoverinfo="skip", showlegend=False
    )
    figure.update_xaxes(title=f"{words(column)} in {layout.safe(names[0])}", showgrid=True)
    figure.update_yaxes(title=f"{words(column)} in {layout.safe(names[1])}", showgrid=True)
    return figure.update_layout(height=480, clickmode="event+select", dragmode="pan")


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem and name the corners, above the density (x, y, n) of all
    pairs."""
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.SIMILARITY_OUT, c.CLIPMEM), hover, density)
    if corners is not None:
        figure.add_vline(corners.fits, line=layout.DOTTED)
        figure.add_hline(corners.high, line=layout.DOTTED)
        bottom = NOT_MEMORIZED
        if corners.low is not None:
            # Independent pairs are learned by g, which is subtracted.
            figure.add_hline(corners.low, line=layout.DOTTED)
            bottom = MEMORIZED
        for y, names in enumerate((bottom, MEMORIZED)):
            for x, name in enumerate(names):
                figure.add_annotation(
                    text=f"<b>{name}</b>",
                    x=x,
                    y=y,
                    xref="paper",
                    yref="paper",
                    font={"size": 13},
                    showarrow=False,
                    borderpad=4,
                )
    figure.update_xaxes(title="similarity out (models that never saw the pair)")
    return figure.update_yaxes(title="clipmem: memorization")


def contribution_figure(
    points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame
) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, above the density (x, y, n)
    of all pairs."""
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT), hover, density)
    figure.add_vline(0, line=layout.DOTTED)
    figure.add_hline(0, line=layout.DOTTED)
    figure.update_xaxes(title="clipmem image: the image encoder's part")
    return figure.update_yaxes(title="clipmem text: the text encoder's part")


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of embeddings coloured by a class or a score. Only neighbourhoods have a meaning:
    it has no axes."""
    scored = points[:0]
    if colour_by not in (c.GROUP, c.INJECTED, c.LABEL):
        scored = points[np.isfinite(points[colour_by])].sort_values(colour_by)
    unscored = points.drop(scored.index)
    figure = _cloud(unscored, colour_by, (MAP_X, MAP_Y), "%{fullData.name}<extra></extra>")
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
                "colorscale": layout.SCALE,
                "colorbar": {"title": {"text": title}, "thickness": 12, "outlinewidth": 0},
                "size": _marker_size(len(points)),
                "opacity": 0.8,
            },
            hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
            showlegend=False,
            customdata=scored["row"],
            unselected=_UNSELECTED,
        )
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False)


def _cloud(
    points: pd.DataFrame,
    colour_by: str,
    axes: tuple[str, str],
    hover: str,
    density: pd.DataFrame = _NO_DENSITY,
) -> go.Figure:
    """Draw points by class, above the density of all pairs in grey; a drag selects, and the zoom
    survives a rerun."""
    figure = go.Figure()
    if not density.empty:
        figure.add_heatmap(
            x=density["x"],
            y=density["y"],
            z=np.log1p(density["n"]),
            zmin=0,
            colorscale=["rgba(128,128,128,0)", "rgba(128,128,128,0.6)"],
            showscale=False,
            hoverinfo="skip",
        )
    for name, rows, colour in _classes(points, colour_by):
        figure.add_scattergl(
            x=rows[axes[0]],
            y=rows[axes[1]],
            name=name,
            mode="markers",
            marker={"color": colour, "size": _marker_size(len(points)), "opacity": 0.7},
            text=rows.get("text"),
            hovertemplate=hover,
            customdata=rows["row"],
            unselected=_UNSELECTED,
        )
    legend = layout.LEGEND_ABOVE | {"itemsizing": "constant"}
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return layout.set_layout(
        figure, 560, right=0, dragmode="lasso", legend=legend, uirevision="constant"
    )


def _classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    """Return the name, the points and the colour of each group, injected kind or label; the other
    points come first."""
    values = points[column]
    if column == c.GROUP:
        colour_of = {group: layout.group_colour(group) for group in reversed(c.GROUPS)}
    else:  # a score has no classes
        colour_of = dict(
            zip(values.value_counts().index, _CLASS_COLOURS.get(column, ()), strict=False)
        )
    others = "other" if colour_of else f"no {words(column)}"
    if column == c.INJECTED:
        others = "no error injected"
    classes = [(others, points[~values.isin(list(colour_of))], layout.OTHER)]
    for name, colour in colour_of.items():
        classes.append((layout.short_name(name), points[values == name], colour))
    return [each for each in classes if len(each[1])]


def _marker_size(points: int) -> int:
    return 8 if points < 500 else 6 if points < 3000 else 4
