"""Plotly figures: clipmem by group, maps of pairs, encoders, mitigations and detectors."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from clipmem_core.scores.metrics import interval_text
from clipmem_core.scores.registry import words
from clipmem_core.utils.columns import (
    ALIGNMENT,
    CANDIDATE,
    CLIPMEM,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    DECISION,
    GROUP,
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

GROUP_COLOURS = {  # the last lies on top
    HELD_OUT: "#008f6b",
    SHARED: "#808080",
    SCORED: "#9a5bc4",
    INDEPENDENT: "#1479b8",
    CANDIDATE: "#d55e00",
}
ENCODER_COLOURS = {"image": "#a87800", "text": "#c2487a"}
OTHER = "#808080"
BAR_COLOUR = "#36a17a"
_FAINT = "rgba(128, 128, 128, 0.25)"
LABEL_COLOURS = px.colors.qualitative.D3
DECISION_COLOURS = {"keep": "#2e9d5f", "remove": "#d0463a", "change caption": "#1f7fd2"}
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high
CHOSEN_COLOUR = "#6a6fd8"
FRONT_COLOUR = "#0f8f9f"
DOTTED = {"color": OTHER, "width": 1, "dash": "dot"}


def set_layout(figure: go.Figure, height: int, **options: Any) -> go.Figure:
    """Set the height, the margins and other layout options of a figure, and return it."""
    return figure.update_layout(
        height=height,
        margin={"l": 0, "r": 10, "t": 30, "b": 0},
        legend={
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "x": 0,
            "title": "",
            "itemsizing": "constant",
        },
        xaxis_zeroline=True,
        xaxis_zerolinecolor=OTHER,
        **options,
    )


def _add_means(
    figure: go.Figure, rows: pd.DataFrame, colour: str, *, axis: str = "x", **options: Any
) -> None:
    """Add the means of some rows (mean, low, high) with their intervals along an axis; NaN draws no
    interval."""
    interval = {
        "array": (rows["high"] - rows["mean"]).fillna(0),
        "arrayminus": (rows["mean"] - rows["low"]).fillna(0),
    }
    trace = go.Scatter(
        {axis: rows["mean"], f"error_{axis}": interval},
        marker={"color": colour, "size": 9},
        customdata=mean_texts(rows),
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        **options,
    )
    figure.add_trace(trace)


def mean_texts(rows: pd.DataFrame) -> list[str]:
    """Return each row's mean and interval as text, from the columns mean, low and high."""
    return [interval_text(*ends) for ends in rows[["mean", "low", "high"]].to_numpy()]


def short_name(name: object, limit: int = 40) -> str:
    """Return foreign text in one line, shortened and escaped for Plotly."""
    text = " ".join(str(name).split())
    return safe(f"{text[:limit]}…" if len(text) > limit else text)


def safe(text: object) -> str:
    """Escape text for Plotly, which reads some HTML but not &quot;."""
    return html.escape(str(text), quote=False)


IN = "in"
OUT = "out"
COMPONENT_NAMES = {  # in the order in which they are added up
    column: words(column)
    for column in (POSITIVE, NEGATIVE_TEXT, NEGATIVE_IMAGE, ALIGNMENT, SIMILARITY)
}
NAME_LENGTH = 20  # leaves space for the dots on a telephone
PERCENTILES = (2, 98)  # ends of the colour scale
_NO_DENSITY = pd.DataFrame()
_UNSELECTED = {"marker": {"color": OTHER, "opacity": 0.15}}
# The class of a point without a value in a column
_OTHERS = {INJECTED: "no error injected", DECISION: "undecided", LABEL: "other"}
LISTED = "listed"  # of a point on a map: the pair fits the conditions of the page
_UNLISTED = "does not fit"
_CLASS_COLOURS: dict[str, dict[str, str]] = {GROUP: GROUP_COLOURS, DECISION: DECISION_COLOURS}
CLASSES = (DECISION, GROUP, LABEL, INJECTED)  # colours of a map that are no scores


def group_figure(groups: pd.DataFrame, bins: pd.DataFrame) -> go.Figure:
    """Draw clipmem by group: a ridge from the histogram (low, width, share), and the mean with its
    interval."""
    figure = go.Figure()
    for height, group in enumerate(groups[GROUP]):
        histogram = bins[bins[GROUP] == group]
        rows = groups[groups[GROUP] == group]
        colour = GROUP_COLOURS[group]
        figure.add_bar(
            x=histogram["low"],
            width=histogram["width"],
            offset=0,
            base=height,
            y=-0.72 * histogram["share"] / histogram["share"].max(),
            marker={"color": colour, "line": {"width": 0}},
            opacity=0.45,
            hoverinfo="skip",
        )
        name = group_words(group)
        _add_means(figure, rows, colour, y=[height + 0.12], mode="markers", name=name)
    _name_rows(figure, groups[GROUP], groups["n"])
    return set_layout(
        figure,
        110 + 85 * len(groups),
        xaxis_title="clipmem (cosine units)",
        showlegend=False,
        barmode="overlay",
    )


def _name_rows(figure: go.Figure, names: Iterable[object], counts: Iterable[int]) -> None:
    """Write names with their numbers of pairs along the y axis, from the top: at 0, 1, 2…"""
    labels = [
        f"{short_name(group_words(str(name)), NAME_LENGTH)}<br>n = {n:,}"
        for name, n in zip(names, counts, strict=True)
    ]
    figure.update_yaxes(
        tickvals=[*range(len(labels))], ticktext=labels, showgrid=False, autorange="reversed"
    )


def component_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each of `COMPONENT_NAMES` with and without the pair in training: a dot per member."""
    rows = members.rename(columns=COMPONENT_NAMES).melt(
        ["member", "in_out"], [*COMPONENT_NAMES.values()]
    )
    figure = px.strip(
        rows.assign(in_out=rows["in_out"].map(names), member=rows["member"].map(safe)),
        x="value",
        y="variable",
        color="in_out",
        hover_name="member",
        color_discrete_map={names[IN]: colour, names[OUT]: OTHER},
        labels={"value": "cosine units", "variable": ""},
    )
    hover = "%{hovertext}: %{x:.3f}<extra>%{fullData.name}</extra>"
    figure.update_traces(jitter=0, marker_size=10, hovertemplate=hover)
    figure.update_yaxes(autorange="reversed")
    return set_layout(figure, 330, dragmode=False)


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw the pairs of a `Comparison` by group in the first audit; customdata is `row_one`."""
    points = points.rename(columns={"group_one": GROUP, "row_one": "row"})
    points["text"] = [short_name(pair_id, 60) for pair_id in points[PAIR_ID]]
    hover = "%{text}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>"
    figure = _cloud(points, GROUP, ("one", "other"), hover)
    values = points[["one", "other"]].to_numpy()
    low, high = values.min(), values.max()
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=DOTTED)
    x, y = (f"{words(column)} in {safe(name)}" for name in names)
    return figure.update_layout(
        xaxis_title=x, yaxis_title=y, height=480, clickmode="event+select", dragmode="pan"
    )


# Titles of the axes of `pair_map_figure`
_AXIS_TITLES = {
    SIMILARITY_OUT: "similarity out (models that never saw the pair)",
    CLIPMEM: "clipmem: memorization",
    CLIPMEM_IMAGE: "clipmem image: the image encoder's part",
    CLIPMEM_TEXT: "clipmem text: the text encoder's part",
}


def pair_map_figure(
    points: pd.DataFrame,
    columns: tuple[str, str],
    *,
    colour_by: str,
    density: pd.DataFrame,
) -> go.Figure:
    """Draw one score of pairs against another, above the density (x, y, n) of all pairs."""
    x_name, y_name = map(words, columns)
    hover = f"{x_name} %{{x:.2f}}<br>{y_name} %{{y:.2f}}<extra>%{{fullData.name}}</extra>"
    figure = _cloud(points, colour_by, columns, hover, density)
    x_title, y_title = (_AXIS_TITLES[column] for column in columns)
    return figure.update_layout(xaxis={"title": x_title}, yaxis={"title": y_title})


def embedding_figure(points: pd.DataFrame, *, colour_by: str) -> go.Figure:
    """Draw a map of pictures or captions coloured by a class or a score, with the names of its
    regions; pairs that are not `listed` are grey. Only neighbourhoods have a meaning: it has no
    axes."""
    if colour_by not in CLASSES:
        points = points.sort_values(colour_by)  # the highest scores lie on top
    figure = _cloud(points, colour_by, (MAP_X, MAP_Y), "%{fullData.name}<extra></extra>")
    figure.update_traces(customdata=None, selector={"name": _UNLISTED})  # not under the pointer
    scores = points.loc[points[LISTED], colour_by].dropna()
    if len(scores) and colour_by not in CLASSES:
        title = words(colour_by)
        low, high = (0, 1) if colour_by == P_WRONG else np.percentile(scores, PERCENTILES)
        figure.update_traces(
            marker={
                "color": scores,
                "cmin": low,
                "cmax": high,
                "colorscale": SCALE,
                "colorbar": {"orientation": "h", "y": 0, "yanchor": "top", "thickness": 8},
            },
            hovertemplate=title + " %{marker.color:.2f}<extra></extra>",
            showlegend=False,
            selector={"name": title},
        )
    for name, (x, y) in points.groupby(REGION)[[MAP_X, MAP_Y]].median().iterrows():
        text = short_name(name).replace(", ", "<br>")
        figure.add_annotation(text=text, x=x, y=y, showarrow=False, captureevents=False)
    return figure.update_layout(xaxis_visible=False, yaxis_visible=False, height=None)


_MARKER_SIZE = 5  # pixels: single points of `review.overview.LIMIT` can still be told from others


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
    others = _OTHERS.get(colour_by, f"no {words(colour_by)}")
    classes = points[colour_by]
    if colour_by not in CLASSES:
        classes = classes.map(lambda score: words(colour_by) if np.isfinite(score) else others)
    # Frequent labels or kinds of errors have colours; all pairs with a score are one class
    by_frequency = dict(zip(classes.value_counts().index, LABEL_COLOURS, strict=False))
    colour_of = _CLASS_COLOURS.get(colour_by, by_frequency)
    classes = classes.where(classes.isin(list(colour_of)), others)
    if LISTED in points:
        classes = classes.where(points[LISTED], _UNLISTED)
    for name, colour in {_UNLISTED: _FAINT, others: OTHER, **colour_of}.items():
        rows = points[classes == name]
        if len(rows):
            figure.add_scattergl(
                x=rows[axes[0]],
                y=rows[axes[1]],
                name=short_name(group_words(name)),
                mode="markers",
                marker={"color": colour, "size": _MARKER_SIZE, "opacity": 0.7},
                text=rows.get("text"),
                hovertemplate=hover,
                customdata=rows["row"],
                unselected=_UNSELECTED,
            )
    figure.update_layout(xaxis_showgrid=False, yaxis_showgrid=False, uirevision="constant")
    return set_layout(figure, 560, dragmode="lasso")


def means_figure(means: pd.DataFrame, null: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw the mean of each encoder by name with its interval, and lines at the means of held-out
    pairs."""
    figure = go.Figure()
    counts = means.groupby("name", sort=False)["n"].max()
    for encoder, colour in ENCODER_COLOURS.items():
        rows = means[means["encoder"] == encoder]
        _add_means(
            figure,
            rows,
            colour,
            y=counts.index.get_indexer(pd.Index(rows["name"])),
            orientation="h",
            mode="markers",
            name=f"{encoder} encoder",
        )
        for mean in null.loc[null["encoder"] == encoder, "mean"].dropna():
            figure.add_vline(mean, line=DOTTED | {"color": colour})
    _name_rows(figure, counts.index, counts)
    height = 110 + 44 * len(counts)
    return set_layout(figure, height, xaxis_title=title, showlegend=True, scattermode="group")


Line = tuple[str, pd.DataFrame, str, str]  # name, rows (mean, low, high), colour and dash


def line_figure(lines: Iterable[Line], x: str, titles: tuple[str, str]) -> go.Figure:
    """Draw lines of means with their intervals."""
    figure = go.Figure()
    for name, rows, colour, dash in lines:
        rows = rows.sort_values(x)
        _add_means(figure, rows, colour, axis="y", x=rows[x], name=name, line_dash=dash)
    return set_layout(figure, 370, xaxis_title=titles[0], yaxis_title=titles[1])


# Columns of `tradeoff_figure`; an error is half of an interval
MEMORIZATION = "memorization"
UTILITY = "utility"
MEMORIZATION_ERROR = "memorization_error"
UTILITY_ERROR = "utility_error"
KIND = "kind"
TITLE = "title"
# Kinds of settings
BASELINE = "baseline"
PARETO_OPTIMAL = "Pareto-optimal"
PROVISIONAL = "provisional"
DOMINATED = "dominated"
_KIND_SYMBOLS = {PROVISIONAL: "circle-open", BASELINE: "diamond"}


def tradeoff_figure(
    points: pd.DataFrame, *, titles: tuple[str, str], chosen: str | None, start: float
) -> go.Figure:
    """Draw settings (the index), each with its number, its intervals and its title on hover, and
    a line from the baseline to the chosen one. The axis of memorization includes `start`."""
    memorization, utility = map(safe, titles)
    figure = px.scatter(
        points.assign(number=range(1, len(points) + 1), title=points[TITLE].map(safe)),
        x=MEMORIZATION,
        y=UTILITY,
        error_x=MEMORIZATION_ERROR,
        error_y=UTILITY_ERROR,
        color=KIND,
        symbol=KIND,
        color_discrete_map={PARETO_OPTIMAL: FRONT_COLOUR},
        color_discrete_sequence=[OTHER],
        symbol_map=_KIND_SYMBOLS,
        symbol_sequence=["circle"],
        text="number",
        hover_name=TITLE,
        labels={
            MEMORIZATION: f"← less memorized · {memorization}",
            UTILITY: f"{utility} · more useful →",
        },
    )
    figure.update_traces(
        marker={"size": 11, "line_width": 2},
        textposition="top center",
        cliponaxis=False,
        hovertemplate="%{hovertext}: %{x:.3f}, %{y:.3f}<extra></extra>",
    )
    if chosen:
        (baseline,) = points.index[points[KIND] == BASELINE]
        line = points.loc[[baseline, chosen]]
        style = {"color": CHOSEN_COLOUR, "width": 3}
        figure.add_scatter(
            x=line[MEMORIZATION], y=line[UTILITY], mode="lines", line=style, showlegend=False
        )
    # A margin of a tenth of the largest value, so that one point has an axis, too
    right, top = points[[MEMORIZATION, UTILITY]].max()
    return set_layout(
        figure,
        440,
        xaxis_autorangeoptions_include=[start, 1.1 * right],
        yaxis_autorangeoptions_include=[0.9 * top, 1.1 * top],
        dragmode=False,
        hoverlabel_align="left",
    )


def precision_figure(
    curves: pd.DataFrame, *, share: float, bold: str, dashed: Iterable[str]
) -> go.Figure:
    """Draw the precision of each detector by the number of pairs reviewed, and that of a random
    order, which is the share of wrong captions."""
    figure = px.line(
        curves.assign(detector=curves["detector"].map(words)),
        x="number",
        y="precision",
        color="detector",
        line_dash="detector",
        color_discrete_sequence=LABEL_COLOURS,
        line_dash_map={words(name): "dash" for name in dashed},
        line_dash_sequence=["solid"],
        log_x=True,
        range_y=[0, 1.03],
        labels={
            "number": "pairs reviewed, the most suspicious first",
            "precision": "share with an injected error",
        },
    )
    hover = "%{fullData.name}: %{y:.3f} of the first %{x:,}<extra></extra>"
    figure.update_traces(hovertemplate=hover)
    figure.update_traces(line_width=4, selector={"name": words(bold)})
    figure.add_hline(share, line=DOTTED)
    figure.update_xaxes(dtick="D2")  # 1, 2, 5, 10, 20, 50 …
    return set_layout(figure, 380, dragmode=False)
