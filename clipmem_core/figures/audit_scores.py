"""Figures of an audit: clipmem by group and encoder, the terms of a pair, two audits compared, and
maps of pairs.

In a map, a box or a lasso selects: scores, embeddings, and the encoders' contributions.
"""

from collections.abc import Mapping
from typing import Any

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


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge from the histogram (low, width, share), and the mean with its
    interval."""
    figure = go.Figure()
    heights = list(range(len(groups)))[::-1]
    for row, height in enumerate(heights):
        rows = groups.iloc[[row]]
        group = str(rows[c.GROUP].item())
        colour = layout.group_colour(group)
        histogram = bins[bins[c.GROUP] == group]
        tops = height + 0.72 * histogram["share"] / histogram["share"].max()
        right = histogram["low"] + histogram["width"]
        figure.add_scatter(
            x=np.stack([histogram["low"], histogram["low"], right, right], axis=1).ravel(),
            y=[y for top in tops for y in (height, top, top, height)],
            mode="lines",
            hoverinfo="skip",
            fill="toself",
            fillcolor=colour,
            opacity=0.45,
            line={"width": 0},
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
    figure.update_yaxes(tickvals=heights, ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.35, len(groups) - 0.1], fixedrange=True)
    figure.update_xaxes(title="clipmem (cosine units)", zeroline=False)
    return layout.set_layout(figure, 110 + 85 * len(groups), top=10, showlegend=False)


def encoder_figure(parts: dict[str, float]) -> go.Figure:
    """Draw each encoder's part of clipmem, in cosine units, as a bar."""
    names = [name for name in layout.ENCODER_COLOURS if name in parts]
    figure = go.Figure()
    figure.add_bar(
        x=[parts[name] for name in names],
        y=[f"{name} encoder" for name in names],
        orientation="h",
        marker={"color": [layout.ENCODER_COLOURS[name] for name in names]},
        text=[f"{parts[name]:.3f}" for name in names],
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(title="part of clipmem (cosine units)")
    return layout.set_layout(figure, 190, top=10, bargap=0.35)


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each of `TERM_NAMES` with and without the pair in training: a dot per member, a bar at
    the mean."""
    figure = go.Figure()
    places = list(range(len(TERM_NAMES)))
    for side, symbol, shift in (
        (IN, "circle", -0.17),
        (OUT, "circle-open", 0.17),
    ):  # the axis runs downwards
        rows = members[members["side"] == side]
        name = layout.safe(names[side])
        if rows.empty:
            continue
        heights = [place + shift for place in places]
        figure.add_scatter(
            x=[rows[term].mean() for term in TERM_NAMES],
            y=heights,
            mode="markers",
            marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}},
            hovertemplate=f"{name}: mean %{{x:.3f}}<extra></extra>",
            showlegend=False,
        )
        figure.add_scatter(
            x=rows[list(TERM_NAMES)].to_numpy().ravel(),
            y=heights * len(rows),
            mode="markers",
            name=name,
            marker={
                "symbol": symbol,
                "size": 10,
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            customdata=[layout.safe(member) for member in rows["member"] for _ in TERM_NAMES],
            hovertemplate=f"%{{customdata}}: %{{x:.3f}}<extra>{name}</extra>",
        )
    figure.add_vline(0, line=layout.DOTTED)
    figure.update_yaxes(
        tickvals=places, ticktext=list(TERM_NAMES.values()), zeroline=False, showgrid=True
    )
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", zeroline=False, fixedrange=True)
    return layout.set_layout(figure, 330, top=10, legend=layout.LEGEND_ABOVE)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw a dot a pair of a `Comparison` (customdata: row_one, escaped pair_id), by its group in
    the first audit."""
    figure = go.Figure()
    for group in sorted(set(points["group_one"]), key=lambda name: -[*c.GROUPS, name].index(name)):
        rows = points[points["group_one"] == group]
        ids = [layout.short_name(pair_id, 60) for pair_id in rows[c.PAIR_ID]]
        figure.add_scattergl(
            x=rows["one"],
            y=rows["other"],
            name=layout.safe(group),
            mode="markers",
            marker={
                "color": layout.group_colour(group),
                "size": 5 if len(rows) > 1000 else 7,
                "opacity": 0.6,
            },
            customdata=list(zip(rows["row_one"].tolist(), ids, strict=True)),
            hovertemplate="%{customdata[1]}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    ends = [points[["one", "other"]].min().min(), points[["one", "other"]].max().max()]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=layout.DOTTED, hoverinfo="skip", showlegend=False
    )
    score = layout.safe(column.replace("_", " "))
    figure.update_xaxes(title=f"{score} in {layout.safe(names[0])}", zeroline=False)
    figure.update_yaxes(title=f"{score} in {layout.safe(names[1])}", zeroline=False)
    figure.update_layout(clickmode="event+select", dragmode="pan", uirevision="constant")
    return layout.set_layout(
        figure, 480, right=0, legend=layout.LEGEND_ABOVE | {"itemsizing": "constant"}
    )


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem and name the corners, above the density (x, y, n) of all
    pairs."""
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.SIMILARITY_OUT, c.CLIPMEM), hover, density)
    if corners is not None:
        figure.add_vline(corners.fits, line=layout.DOTTED)
        for height in (corners.high, corners.low):
            if height is not None:
                figure.add_hline(height, line=layout.DOTTED)
        # Independent pairs are learned by g, which is subtracted: the memorized ones lie at the
        # bottom.
        bottom = NOT_MEMORIZED if corners.low is None else MEMORIZED
        for names, y, yanchor in ((MEMORIZED, 1, "top"), (bottom, 0, "bottom")):
            for name, x, xanchor in zip(names, (0.005, 0.995), ("left", "right"), strict=True):
                figure.add_annotation(
                    text=f"<b>{name}</b>",
                    **{
                        "x": x,
                        "xref": "x domain",
                        "xanchor": xanchor,
                        "y": y,
                        "yref": "y domain",
                        "yanchor": yanchor,
                    },
                    font={"size": 13},
                    showarrow=False,
                    borderpad=4,
                )
    figure.update_xaxes(
        title="similarity out (models that never saw the pair)", zeroline=False, showgrid=False
    )
    return figure.update_yaxes(title="clipmem: memorization", zeroline=False, showgrid=False)


def contribution_figure(
    points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame
) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, above the density (x, y, n)
    of all pairs."""
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT), hover, density)
    figure.add_vline(0, line=layout.DOTTED)
    figure.add_hline(0, line=layout.DOTTED)
    figure.update_xaxes(
        title="clipmem image: the image encoder's part", zeroline=False, showgrid=False
    )
    return figure.update_yaxes(
        title="clipmem text: the text encoder's part", zeroline=False, showgrid=False
    )


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of embeddings coloured by a class or a score. Only neighbourhoods have a meaning:
    it has no axes."""
    by_class = colour_by in (c.GROUP, c.INJECTED, c.LABEL)
    scored = (
        points[:0] if by_class else points[np.isfinite(points[colour_by])].sort_values(colour_by)
    )
    unscored = points.drop(scored.index)
    figure = _cloud(
        unscored, colour_by, (MAP_X, MAP_Y), "%{fullData.name}<extra></extra>", scored[:0]
    )
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
                "colorscale": list(
                    zip(np.linspace(0, 1, len(layout.SCALE)), layout.SCALE, strict=True)
                ),
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


def _cloud(
    points: pd.DataFrame, colour_by: str, axes: tuple[str, str], hover: str, density: pd.DataFrame
) -> go.Figure:
    """Draw points by class, above the density of all pairs in grey; a drag selects, and the zoom
    survives a rerun."""
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
    return layout.set_layout(
        figure, 560, right=0, dragmode="lasso", legend=legend, uirevision="constant"
    )


def _selectable(points: pd.DataFrame) -> dict[str, Any]:
    return {
        "customdata": points["row"],
        "unselected": {"marker": {"color": layout.OTHER, "opacity": 0.15}},
    }


def _classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    """Return the name, the points and the colour of each group, injected kind or label; unnamed
    points come first."""
    values = points[column]
    if column == c.GROUP:
        names = [group for group in reversed(c.GROUPS) if (values == group).any()]
        return [(group, points[values == group], layout.group_colour(group)) for group in names]
    if column not in (c.INJECTED, c.LABEL):  # pairs without the score
        return [(f"no {words(column)}", points, layout.OTHER)] if len(points) else []
    colours = layout.KIND_COLOURS if column == c.INJECTED else layout.LABEL_COLOURS
    colour_of = dict(zip(values.value_counts().index, colours, strict=False))
    unnamed = points[~values.isin(list(colour_of))]
    unnamed_label = (
        "no error injected"
        if column == c.INJECTED
        else "other"
        if values.notna().any()
        else "no value"
    )
    classes = [
        (layout.short_name(name), points[values == name], colour)
        for name, colour in colour_of.items()
    ]
    return [(unnamed_label, unnamed, layout.OTHER), *classes] if len(unnamed) else classes


def _marker_size(points: int) -> int:
    return 8 if points < 500 else 6 if points < 3000 else 4
