"""Plotly figures: clipmem by group, maps of pairs, encoders, mitigations and detectors."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.review.overview import Corners
from clipmem_core.scores.registry import words
from clipmem_core.scores.seeds import interval_text
from clipmem_core.utils.columns import (
    ALIGNMENT,
    CANDIDATE,
    CLIPMEM,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    DECISION,
    GROUP,
    GROUPS,
    HELD_OUT,
    INDEPENDENT,
    INJECTED,
    LABEL,
    MAP_X,
    MAP_Y,
    NEGATIVE_IMAGE,
    NEGATIVE_TEXT,
    P_WRONG,
    PAIR_ID,
    POSITIVE,
    REGION,
    SCORED,
    SHARED,
    SIMILARITY,
    SIMILARITY_OUT,
    group_words,
)

GROUP_COLOURS = {
    CANDIDATE: "#d55e00",
    INDEPENDENT: "#1479b8",
    SCORED: "#9a5bc4",
    SHARED: "#808080",
    HELD_OUT: "#008f6b",
}
ENCODER_COLOURS = {"image": "#a87800", "text": "#c2487a"}
OTHER = "#808080"
BAR_COLOUR = "#36a17a"
_FAINT = "rgba(128, 128, 128, 0.25)"
LABEL_COLOURS = [
    "#1479b8",
    "#d55e00",
    "#008f6b",
    "#9a5bc4",
    "#a87800",
    "#d6498a",
    "#0f8f9f",
    "#d93a3a",
    "#6f8a1f",
    "#6a6fd8",
    "#a0674b",
    "#c04fc0",
]
DECISION_COLOURS = {"keep": "#2e9d5f", "remove": "#d0463a", "change caption": "#1f7fd2"}
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high
CHOSEN_COLOUR = "#6a6fd8"
FRONT_COLOUR = "#0f8f9f"
DOTTED = {"color": OTHER, "width": 1, "dash": "dot"}
LEGEND_ABOVE: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}


def set_layout(
    figure: go.Figure, height: int, *, top: int = 30, right: int = 10, **options: Any
) -> go.Figure:
    """Set the height, the margins and other layout options of a figure, and return it."""
    margin = {"l": 0, "r": right, "t": top, "b": 0}
    figure.update_layout(height=height, margin=margin, **options)
    return figure.update_layout(xaxis_zeroline=False, yaxis_zeroline=False)


def error_bar(rows: pd.DataFrame, colour: str) -> dict[str, object]:
    """Return Plotly's error bar from the columns mean, low and high; NaN draws no bar."""
    up, down = ((rows[end] - rows["mean"]).abs().fillna(0) for end in ("high", "low"))
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "color": colour,
        "thickness": 2,
    }


def mean_texts(rows: pd.DataFrame) -> list[str]:
    """Return each row's mean and interval as text, from the columns mean, low and high."""
    return [
        interval_text(mean, low, high, ".3f")
        for mean, low, high in rows[["mean", "low", "high"]].to_numpy()
    ]


def short_name(name: object, limit: int = 40) -> str:
    """Return foreign text in one line, shortened and escaped for Plotly."""
    text = " ".join(str(name).split())
    return safe(f"{text[:limit]}…" if len(text) > limit else text)


def safe(text: object) -> str:
    """Escape text for Plotly, which reads some HTML but not &quot;."""
    return html.escape(str(text), quote=False)


IN = "in"
OUT = "out"
TERM_NAMES = {  # in the order in which they are added up
    POSITIVE: "positive",
    NEGATIVE_TEXT: "negative text",
    NEGATIVE_IMAGE: "negative image",
    ALIGNMENT: "alignment",
    SIMILARITY: "similarity",
}
NAME_LENGTH = 20  # leaves space for the dots on a telephone
PERCENTILES = (2, 98)  # ends of the colour scale
MEMORIZED = "memorized<br>and wrong", "memorized<br>and right"
NOT_MEMORIZED = "not learned", "typical"
_NO_DENSITY = pd.DataFrame()
_UNSELECTED = {"marker": {"color": OTHER, "opacity": 0.15}}
_OTHERS = {INJECTED: "no error injected", DECISION: "undecided"}
LISTED = "listed"  # of a point on a map: the pair fits the conditions of the page
_UNLISTED = "does not fit"
CLASSES = (DECISION, GROUP, LABEL, INJECTED)  # colours of a map that are no scores


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge from the histogram (low, width, share), and the mean with its
    interval."""
    figure = go.Figure()
    heights = range(len(groups))[::-1]
    for height, (name, rows) in zip(heights, groups.groupby(GROUP, sort=False), strict=True):
        group = str(name)
        colour = GROUP_COLOURS[group]
        histogram = bins[bins[GROUP] == group]
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
            error_x=error_bar(rows, colour),
            hovertemplate=f"{group_words(group)}: mean {mean_texts(rows)[0]}<extra></extra>",
        )
    figure.add_vline(0, line=DOTTED)
    labels = [
        f"{group_words(group)}<br>n = {n:,}"
        for group, n in zip(groups[GROUP], groups["n"], strict=True)
    ]
    figure.update_yaxes(
        tickvals=list(heights),
        ticktext=labels,
        showgrid=False,
        range=[-0.35, len(groups) - 0.1],
        fixedrange=True,
    )
    return set_layout(
        figure,
        110 + 85 * len(groups),
        top=10,
        xaxis_title="clipmem (cosine units)",
        showlegend=False,
        barmode="overlay",
    )


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each of `TERM_NAMES` with and without the pair in training: a dot per member."""
    figure = go.Figure()
    places = np.arange(len(TERM_NAMES))
    terms = list(TERM_NAMES)
    # The axis runs downwards.
    for side, symbol, shift in ((IN, "circle", -0.17), (OUT, "circle-open", 0.17)):
        rows = members[members["side"] == side]
        name = safe(names[side])
        outline = {"width": 2, "color": colour}
        figure.add_scatter(
            x=rows[terms].to_numpy().ravel(),
            y=np.tile(places + shift, len(rows)),
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": outline},
            customdata=rows["member"].map(safe).repeat(len(terms)),
            hovertemplate=f"%{{customdata}}: %{{x:.3f}}<extra>{name}</extra>",
        )
    figure.add_vline(0, line=DOTTED)
    figure.update_yaxes(
        tickvals=places,
        ticktext=list(TERM_NAMES.values()),
        range=[len(places) - 0.5, -0.5],
        fixedrange=True,
    )
    figure.update_xaxes(title="cosine units", fixedrange=True)
    return set_layout(figure, 330, top=10, legend=LEGEND_ABOVE)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw the pairs of a `Comparison` by group in the first audit; customdata is `row_one`."""
    points = points.rename(columns={"group_one": GROUP, "row_one": "row"})
    points["text"] = [short_name(pair_id, 60) for pair_id in points[PAIR_ID]]
    hover = "%{text}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, GROUP, ("one", "other"), hover)
    values = points[["one", "other"]].to_numpy()
    low, high = values.min(), values.max()
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=DOTTED)
    x, y = ({"title": f"{words(column)} in {safe(name)}", "showgrid": True} for name in names)
    return figure.update_layout(
        xaxis=x, yaxis=y, height=480, clickmode="event+select", dragmode="pan"
    )


def score_map_figure(
    points: pd.DataFrame, *, colour_by: str, corners: Corners | None, density: pd.DataFrame
) -> go.Figure:
    """Draw similarity_out against clipmem and name the corners, above the density (x, y, n) of all
    pairs."""
    hover = "similarity out %{x:.2f}<br>clipmem %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (SIMILARITY_OUT, CLIPMEM), hover, density)
    if corners is not None:
        figure.add_vline(corners.fits, line=DOTTED)
        figure.add_hline(corners.high, line=DOTTED)
        bottom = NOT_MEMORIZED
        if corners.low is not None:
            # Independent pairs are learned by g, which is subtracted.
            figure.add_hline(corners.low, line=DOTTED)
            bottom = MEMORIZED
        style = {"xref": "paper", "yref": "paper", "font": {"size": 13}, "borderpad": 4}
        for place, name in enumerate((*bottom, *MEMORIZED)):
            x, y = place % 2, place // 2
            figure.add_annotation(text=f"<b>{name}</b>", x=x, y=y, showarrow=False, **style)
    return figure.update_layout(
        xaxis_title="similarity out (models that never saw the pair)",
        yaxis_title="clipmem: memorization",
    )


def contribution_figure(
    points: pd.DataFrame, *, colour_by: str, density: pd.DataFrame
) -> go.Figure:
    """Draw the text encoder's contribution against the image encoder's, above the density (x, y, n)
    of all pairs."""
    hover = "image %{x:.2f}<br>text %{y:.2f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, colour_by, (CLIPMEM_IMAGE, CLIPMEM_TEXT), hover, density)
    figure.add_vline(0, line=DOTTED)
    figure.add_hline(0, line=DOTTED)
    return figure.update_layout(
        xaxis_title="clipmem image: the image encoder's part",
        yaxis_title="clipmem text: the text encoder's part",
    )


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of pictures or captions coloured by a class or a score, with the names of its
    regions; pairs that are not `listed` are grey. Only neighbourhoods have a meaning: it has no
    axes."""
    listed = points[points[LISTED]]
    scored = listed[:0]
    if colour_by not in CLASSES:
        scored = listed[np.isfinite(listed[colour_by])].sort_values(colour_by)
    unscored = points.drop(scored.index)
    figure = _cloud(unscored, colour_by, (MAP_X, MAP_Y), "%{fullData.name}<extra></extra>")
    figure.update_traces(customdata=None, selector={"name": _UNLISTED})  # not under the pointer
    if len(scored):  # the highest scores lie on top
        low, high = np.percentile(scored[colour_by], PERCENTILES)
        if colour_by == P_WRONG:
            low, high = 0, 1
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
                "colorscale": SCALE,
                "colorbar": {
                    "orientation": "h",
                    "y": 0,
                    "yanchor": "top",
                    "len": 0.6,
                    "thickness": 8,
                    "outlinewidth": 0,
                },
                "size": _marker_size(len(points)),
                "opacity": 0.8,
            },
            hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
            showlegend=False,
            customdata=scored["row"],
            unselected=_UNSELECTED,
        )
    for name, (x, y) in points.groupby(REGION)[[MAP_X, MAP_Y]].median().iterrows():
        text = short_name(name).replace(", ", "<br>")
        figure.add_annotation(text=text, x=x, y=y, showarrow=False, captureevents=False)
    return figure.update_layout(xaxis_visible=False, yaxis_visible=False, height=None)


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
    legend = LEGEND_ABOVE | {"itemsizing": "constant"}
    figure.update_layout(xaxis_showgrid=False, yaxis_showgrid=False, uirevision="constant")
    return set_layout(figure, 560, right=0, dragmode="lasso", legend=legend)


def _classes(points: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame, str]]:
    """Return the name, the points and the colour of each group, injected kind, label or decision;
    the other points come first, before them those that are not listed."""
    classes = []
    if LISTED in points:
        classes.append((_UNLISTED, points[~points[LISTED]], _FAINT))
        points = points[points[LISTED]]
    values = points[column]
    if column == GROUP:
        colour_of = {group: GROUP_COLOURS[group] for group in reversed(GROUPS)}
    elif column == DECISION:
        colour_of = DECISION_COLOURS
    else:  # a score has no classes
        colours = LABEL_COLOURS if column in (INJECTED, LABEL) else ()
        colour_of = dict(zip(values.value_counts().index, colours, strict=False))
    others = _OTHERS.get(column, "other" if colour_of else f"no {words(column)}")
    classes.append((others, points[~values.isin(list(colour_of))], OTHER))
    for name, colour in colour_of.items():
        label = group_words(name) if column == GROUP else short_name(name)
        classes.append((label, points[values == name], colour))
    return [each for each in classes if len(each[1])]


def _marker_size(points: int) -> int:
    return 8 if points < 500 else 6 if points < 3000 else 4


def means_figure(means: pd.DataFrame, null: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw the mean of each encoder by name with its interval, and lines at the means of held-out
    pairs."""
    figure = go.Figure()
    counts = means.groupby("name", sort=False)["n"].max()
    places = {name: place for place, name in enumerate(counts.index)}
    for shift, (encoder, colour) in zip((-0.16, 0.16), ENCODER_COLOURS.items(), strict=True):
        rows = means[(means["encoder"] == encoder) & means["mean"].notna()]
        figure.add_scatter(
            x=rows["mean"],
            y=[places[name] + shift for name in rows["name"]],
            error_x=error_bar(rows, colour),
            mode="markers",
            marker={"color": colour, "size": 9},
            name=f"{encoder} encoder",
            customdata=mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
        for mean in null.loc[null["encoder"] == encoder, "mean"].dropna():
            figure.add_vline(mean, line=DOTTED | {"color": colour})
    figure.add_vline(0, line={"color": OTHER, "width": 1})
    labels = [
        f"{short_name(group_words(str(name)), NAME_LENGTH)}<br>n = {n:,}"
        for name, n in counts.items()
    ]
    figure.update_yaxes(
        tickvals=list(places.values()),
        ticktext=labels,
        showgrid=False,
        range=[len(counts) - 0.4, -0.6],
        fixedrange=True,
    )
    height = 110 + 44 * len(counts)
    return set_layout(figure, height, xaxis_title=title, showlegend=True, legend=LEGEND_ABOVE)


Line = tuple[str, pd.DataFrame, str, str]  # name, rows (mean, low, high), colour and dash


def line_figure(lines: Iterable[Line], x: str, titles: tuple[str, str]) -> go.Figure:
    """Draw lines of means with their intervals."""
    figure = go.Figure()
    for name, rows, colour, dash in lines:
        rows = rows.sort_values(x)
        figure.add_scatter(
            x=rows[x],
            y=rows["mean"],
            error_y=error_bar(rows, colour),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            customdata=mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    return set_layout(
        figure, 370, xaxis_title=titles[0], yaxis_title=titles[1], legend=LEGEND_ABOVE
    )


# Columns of `tradeoff_figure`; an error is half of an interval
MEMORIZATION = "memorization"
UTILITY = "utility"
MEMORIZATION_ERROR = "memorization_error"
UTILITY_ERROR = "utility_error"
KIND = "kind"
TEXT = "text"
# Kinds of settings
BASELINE = "baseline"
PARETO_OPTIMAL = "Pareto-optimal"
PROVISIONAL = "provisional"
DOMINATED = "dominated"
_KINDS = {  # colour and symbol
    DOMINATED: (OTHER, "circle"),
    PARETO_OPTIMAL: (FRONT_COLOUR, "circle"),
    PROVISIONAL: (OTHER, "circle-open"),
    BASELINE: (OTHER, "diamond"),
}
_LABEL_POSITIONS = ("top center", "bottom center", "top right", "bottom right")


def tradeoff_figure(
    points: pd.DataFrame, *, titles: tuple[str, str], chosen: str | None, start: float
) -> go.Figure:
    """Draw settings (the index), each with its number, its intervals and lines of text on hover,
    and a line from the baseline to the chosen one. The axis of memorization includes `start`."""
    points = points.assign(number=range(1, len(points) + 1))
    # Labels of consecutive points, which are close in memorization, do not overlap.
    points["position"] = np.resize(_LABEL_POSITIONS, len(points))
    figure = go.Figure()
    for kind, rows in points.groupby(KIND):
        colour, symbol = _KINDS[str(kind)]
        figure.add_scatter(
            x=rows[MEMORIZATION],
            y=rows[UTILITY],
            error_x={"array": rows[MEMORIZATION_ERROR], "thickness": 1, "width": 0},
            error_y={"array": rows[UTILITY_ERROR], "thickness": 1, "width": 0},
            name=str(kind),
            mode="markers+text",
            marker={
                "size": 11,
                "color": colour,
                "symbol": symbol,
                "line": {"width": 2, "color": colour},
            },
            text=rows["number"],
            textposition=rows["position"],
            textfont={"size": 13},
            cliponaxis=False,
            customdata=["<br>".join(map(safe, lines)) for lines in rows[TEXT]],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if chosen:
        baseline = points[points[KIND] == BASELINE].iloc[0]
        figure.add_shape(
            type="line",
            x0=baseline[MEMORIZATION],
            y0=baseline[UTILITY],
            x1=points.at[chosen, MEMORIZATION],
            y1=points.at[chosen, UTILITY],
            line={"color": CHOSEN_COLOUR, "width": 3},
            layer="below",
        )
    memorization, utility = map(safe, titles)
    # A margin of a tenth of the largest value, so that one point has an axis, too
    top = points[UTILITY].max()
    include = {"include": [start, 1.1 * points[MEMORIZATION].max()]}
    return set_layout(
        figure,
        440,
        xaxis={"title": f"← less memorized · {memorization}", "autorangeoptions": include},
        yaxis={
            "title": f"{utility} · more useful →",
            "autorangeoptions": {"include": [0.9 * top, 1.1 * top]},
        },
        legend=LEGEND_ABOVE | {"title": ""},
        dragmode=False,
        hoverlabel={"align": "left"},
    )


def precision_figure(
    curves: pd.DataFrame, *, share: float, styles: Mapping[str, Mapping[str, object]]
) -> go.Figure:
    """Draw the precision of each detector, a line in its style, by the number of pairs reviewed,
    and that of a random order, which is the share of wrong captions."""
    figure = go.Figure()
    for detector, rows in curves.groupby("detector", sort=False):
        name = words(str(detector))
        figure.add_scatter(
            x=rows["number"],
            y=rows["precision"],
            name=name,
            mode="lines",
            line=styles[str(detector)],
            hovertemplate=f"{name}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=DOTTED)
    ticks = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(
        title="pairs reviewed, the most suspicious first", type="log", tickvals=ticks
    )
    figure.update_yaxes(title="share with an injected error", range=[0, 1.03])
    return set_layout(figure, 380, top=10, dragmode=False)
