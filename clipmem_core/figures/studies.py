"""Figures of studies: encoders, mitigations (utility against memorization) and detectors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.audits.paradigms import CLIP, SELF_SUPERVISED, SUPERVISED
from clipmem_core.audits.unitmem import BEFORE, SEEN, UNSEEN
from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT
from clipmem_core.figures.layout import (
    CHOSEN_COLOUR,
    DOTTED,
    ENCODER_COLOURS,
    FRONT_COLOUR,
    LABEL_COLOURS,
    LEGEND_ABOVE,
    LEGEND_OF_INTERVALS,
    LEGEND_OF_SEEDS,
    OTHER,
    WIDTH_COLOURS,
    error_bar,
    in_words,
    laid_out,
    safe,
    short_name,
)
from clipmem_core.review.score_breakdown import DEPTH, MEMBERS, PARADIGM_NAMES, SOURCE
from clipmem_core.scores.detection import DETECTORS, RANDOM, REFERENCE, SECOND_ROUND
from clipmem_core.scores.registry import words
from clipmem_core.studies.store import ARM, EPOCH

NAME_LENGTH = 20  # leaves space for the dots on a telephone
APART = 0.16  # of the dots of one row
SYMBOLS = ("circle", "diamond")  # one caption, all captions
MEASURES = {CLIPMEM_IMAGE: "image", CLIPMEM_TEXT: "text"}
PARADIGM_COLOURS = {CLIP: "#c2487a", SUPERVISED: "#1479b8", SELF_SUPERVISED: "#008f6b"}
# Mean UnitMem of layers 1 and 12, digitised from a figure of "Captured by Captions" (ICLR 2025).
PAPER = {CLIP: (0.272, 0.411), SELF_SUPERVISED: (0.339, 0.376), SUPERVISED: (0.265, 0.477)}
SOURCES = {  # name and dash
    MEMBERS: ("trained members", "solid"),
    BEFORE: ("before training", "dash"),
    SEEN: ("pairs it trained on, as many", "dot"),
    UNSEEN: ("pairs it never saw", "dot"),
}


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
            figure.add_vline(mean, line=DOTTED | {"color": colour})
    counts = means.groupby("name", sort=False)["n"].max()
    labels = [f"{short_name(name, NAME_LENGTH)}<br>{counts[name]:,} pairs" for name in names]
    figure.update_yaxes(tickvals=[places[name] for name in names], ticktext=labels, showgrid=False, zeroline=False)
    figure.update_yaxes(range=[-0.6, len(names) - 0.4], fixedrange=True)
    figure.update_xaxes(title=title, zeroline=True, zerolinecolor=OTHER, zerolinewidth=1)
    return laid_out(figure, 110 + 44 * len(names), legend=LEGEND_ABOVE)


def tower_figure(layers: pd.DataFrame, *, tower: str, span: tuple[float, float]) -> go.Figure:
    """Draw UnitMem of one encoder by layer: its members, and in grey what UnitMem is without memorization.

    Args:
        layers: tower, source, layer, mean, low, high.
        tower: `image` or `text`.
        span: ends of the axis, the same for both encoders.
    """
    figure, own = go.Figure(), layers[layers["tower"] == tower]
    for source, (name, dash) in SOURCES.items():
        rows = own[own[SOURCE] == source]
        if len(rows):
            colour = ENCODER_COLOURS[tower] if source in (MEMBERS, SEEN) else OTHER
            _add_unitmem(figure, rows["layer"], rows, name=name, colour=colour, dash=dash)
    ticks = sorted(set(own["layer"]))
    figure.update_xaxes(title=f"layer of the {tower} encoder", tickvals=ticks, zeroline=False)
    figure.update_yaxes(title="mean UnitMem", range=span, zeroline=False)
    return laid_out(figure, 360, legend=LEGEND_ABOVE)


def paradigm_figure(means: pd.DataFrame) -> go.Figure:
    """Draw UnitMem by relative depth of an image encoder under each paradigm, beside the paper's first and last layers.

    Args:
        means: paradigm, depth (0 the first layer, 1 the last), mean, low, high.
    """
    figure = go.Figure()
    for paradigm, colour in PARADIGM_COLOURS.items():
        rows, name = means[means["paradigm"] == paradigm], PARADIGM_NAMES[paradigm]
        if len(rows):
            _add_unitmem(figure, rows[DEPTH], rows, name=name, colour=colour, dash="solid")
        ends = pd.DataFrame({"mean": PAPER[paradigm]}).assign(low=float("nan"), high=float("nan"))
        depths = pd.Series([0.0, 1.0])
        _add_unitmem(figure, depths, ends, name=f"{name}, paper (digitised)", colour=colour, dash="dash")
    figure.update_xaxes(title="relative depth: 0 first layer, 1 last layer", zeroline=False)
    values = [*means["low"], *means["high"], *means["mean"], *(end for ends in PAPER.values() for end in ends)]
    figure.update_yaxes(title="mean UnitMem", range=axis_span(pd.Series(values, dtype=float)), zeroline=False)
    return laid_out(figure, 360, legend=LEGEND_OF_SEEDS)


def axis_span(values: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis that leaves some space around values, within [0, 1]."""
    return max(0.0, float(values.min()) - 0.03), min(1.0, float(values.max()) + 0.03)


def time_figure(means: pd.DataFrame) -> go.Figure:
    """Draw each encoder's contribution after each epoch.

    Args:
        means: epoch, measure (clipmem_image or clipmem_text, less that of external pairs), mean, low, high.
    """
    figure = go.Figure()
    for measure, encoder in MEASURES.items():
        rows = means[means["measure"] == measure].sort_values(EPOCH)
        hover = "epoch %{x}: %{customdata}<extra>%{fullData.name}</extra>"
        line = {"color": ENCODER_COLOURS[encoder], "width": 2}
        _add_means(figure, rows[EPOCH], rows, name=f"{encoder} encoder", line=line, hovertemplate=hover)
    figure.update_xaxes(title="epoch", rangemode="tozero", zeroline=False)
    return _of_study(figure, "part of clipmem, less that of external pairs", rangemode=None)


def size_figure(means: pd.DataFrame, *, widths: tuple[str, ...]) -> go.Figure:
    """Draw how far the text encoder leads, by the width of either encoder: below 0 the image encoder leads.

    Args:
        means: image_encoder, text_encoder (a width each), mean, low, high of text − image.
        widths: in their order, at most three.
    """
    figure = go.Figure()
    for number, (width, colour) in enumerate(zip(widths, WIDTH_COLOURS, strict=False)):
        rows, shift = means[means["text_encoder"] == width], 0.08 * (number - 1)
        _add_sorted(figure, rows, "image_encoder", widths, shift, colour, name=f"text encoder: {width}")
    _name_places(figure, widths, "width of the image encoder", right=0.6)
    return _of_study(figure, "text − image contribution")


def views_figure(means: pd.DataFrame, *, crops: tuple[str, ...]) -> go.Figure:
    """Draw each encoder's contribution by how pictures are augmented and how many captions are trained on.

    Args:
        means: crop, captions (`1` or `all`), measure (clipmem_image or clipmem_text), mean, low, high.
        crops: in their order.
    """
    figure, captions = go.Figure(), sorted(set(means["captions"]))
    for measure, encoder in MEASURES.items():
        for number, caption in enumerate(captions):
            rows = means[(means["measure"] == measure) & (means["captions"] == caption)]
            told = f", {'all captions' if caption == 'all' else 'one caption'}" if len(captions) > 1 else ""
            colour, name, symbol = ENCODER_COLOURS[encoder], f"{encoder} encoder{told}", SYMBOLS[number % len(SYMBOLS)]
            _add_sorted(figure, rows, "crop", crops, 0.12 * number, colour, name=name, symbol=symbol)
    _name_places(figure, crops, "crops of the pictures", right=0.4)
    return _of_study(figure, "part of clipmem (candidates)")


def _add_means(
    figure: go.Figure, x: Iterable[float], rows: pd.DataFrame, *, line: dict[str, Any], **trace: Any
) -> None:
    """Draw means along a line, with their intervals."""
    trace = {"error_y": error_bar(rows, line["color"]), "customdata": in_words(rows)} | trace
    figure.add_scatter(x=x, y=rows["mean"], mode="lines+markers", line=line, **trace)


def _add_unitmem(figure: go.Figure, x: pd.Series, rows: pd.DataFrame, *, name: str, colour: str, dash: str) -> None:
    marker = {"size": 7, "symbol": "circle" if dash == "solid" else "circle-open"}
    trace: dict[str, Any] = {"hovertemplate": "UnitMem %{customdata}<extra>%{fullData.name}</extra>", "marker": marker}
    if rows["low"].isna().all():
        trace["error_y"] = None
    _add_means(figure, x, rows, name=name, line={"color": colour, "width": 2, "dash": dash}, **trace)


def _add_sorted(
    figure: go.Figure,
    rows: pd.DataFrame,
    column: str,
    order: tuple[str, ...],
    shift: float,
    colour: str,
    *,
    name: str,
    symbol: str = "circle",
) -> None:
    """Draw means in the order of the names in a column, a little aside."""
    rows = rows.sort_values(column, key=lambda names: names.map(order.index))
    line = {"color": colour, "width": 1, "dash": "solid" if symbol == "circle" else "dash"}
    trace = {"marker": {"size": 9, "symbol": symbol}, "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>"}
    _add_means(figure, [order.index(own) + shift for own in rows[column]], rows, name=name, line=line, **trace)


def _name_places(figure: go.Figure, order: tuple[str, ...], title: str, *, right: float) -> None:
    figure.update_xaxes(title=title, tickvals=list(range(len(order))), ticktext=list(order))
    figure.update_xaxes(range=[-0.4, len(order) - right], zeroline=False)


def _of_study(figure: go.Figure, title: str, *, rangemode: str | None = "tozero") -> go.Figure:
    figure.update_yaxes(title=title, rangemode=rangemode)
    figure.add_hline(0, line=DOTTED)
    return laid_out(figure, 380, legend=LEGEND_OF_INTERVALS)


MEMORIZATION, UTILITY, TOLD = "memorization", "utility", "told"
HEIGHT = 440
SIZE, LARGE, RING = 10, 14, 24
WIDE = 3  # medians: a longer bar is cut, or one arm of few seeds would make a blot of the others
POSITIONS = ("top right", "bottom left")  # of names, in turn: bars leave a dot to the right, to the left, up and down


def tradeoff_figure(
    points: pd.DataFrame, *, titles: tuple[str, str], front: Sequence[str], none: str, chosen: str | None = None
) -> go.Figure:
    """Draw each arm as a dot with its intervals, the front below them, and an arrow from `none` to the chosen arm.

    Args:
        points: arm, memorization and utility with _low and _high (NaN: no interval), told: lines of plain text.
        titles: of memorization and of utility.
        front: the Pareto-optimal arms, from left to right.
        none: the reference arm, one of the points or not.
        chosen: the arm to highlight; None for none of them.

    Returns:
        A figure; customdata of each dot is its row in `points` and its lines of text. The front, the reference and the
        chosen arm are named, the others by hovering.
    """
    figure = go.Figure()
    best = points.set_index(ARM).loc[list(front)]
    line = {"color": OTHER, "width": 1.5, "shape": "hv", "dash": "dot"}
    silent = {"hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=best[MEMORIZATION], y=best[UTILITY], mode="lines", line=line, **silent)
    named = dict.fromkeys([*front, none, *([chosen] if chosen else [])])
    position = {arm: POSITIONS[number % 2] for number, arm in enumerate(named)}
    is_none, on_front = points[ARM] == none, points[ARM].isin(front)
    for name, rows, colour, symbol in (
        ("dominated", points[~is_none & ~on_front], OTHER, "circle"),
        ("Pareto-optimal", points[~is_none & on_front], FRONT_COLOUR, "circle"),
        ("none", points[is_none], FRONT_COLOUR if none in front else OTHER, "diamond"),
    ):
        if rows.empty:
            continue
        size = [(LARGE if arm == chosen else SIZE) + 3 * (symbol == "diamond") for arm in rows[ARM]]
        told = ["<br>".join(map(safe, lines)) for lines in rows[TOLD]]
        texts = {arm: f"<b>{safe(arm)}</b>" if arm in (none, chosen) else safe(arm) for arm in named}
        figure.add_scatter(
            x=rows[MEMORIZATION],
            y=rows[UTILITY],
            error_x=_bars(rows, MEMORIZATION, colour),
            error_y=_bars(rows, UTILITY, colour),
            name=name,
            mode="markers+text",
            marker={"color": colour, "symbol": symbol, "opacity": 1, "size": size},
            text=[texts.get(arm, "") for arm in rows[ARM]],
            textposition=[position.get(arm, POSITIONS[0]) for arm in rows[ARM]],
            textfont={"size": 11},
            customdata=list(zip(rows.index.tolist(), told, strict=True)),
            hovertemplate="%{customdata[1]}<extra></extra>",
        )
    _add_chosen(figure, points, none, chosen)
    for update, measure, title in (
        (figure.update_xaxes, MEMORIZATION, f"← less memorized · {safe(titles[0])}"),
        (figure.update_yaxes, UTILITY, f"{safe(titles[1])} · more useful →"),
    ):
        update(title=title, zeroline=False, range=_shown(points, measure))
    return laid_out(figure, HEIGHT, legend=LEGEND_OF_INTERVALS, dragmode=False, hoverlabel={"align": "left"})


def _bars(rows: pd.DataFrame, measure: str, colour: str) -> dict[str, object]:
    names = {measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high"}
    return error_bar(rows[list(names)].rename(columns=names), colour) | {"thickness": 1, "width": 0}


def _add_chosen(figure: go.Figure, points: pd.DataFrame, none: str, chosen: str | None) -> None:
    """Draw a ring around the chosen arm, and the arrow from the reference to it."""
    places = {arm: (x, y) for arm, x, y in points[[ARM, MEMORIZATION, UTILITY]].itertuples(index=False, name=None)}
    if chosen not in places:
        return
    x, y = places[chosen]
    marker = {"symbol": "circle-open", "size": RING, "color": CHOSEN_COLOUR, "line": {"width": 2.5}}
    figure.add_scatter(x=[x], y=[y], mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
    if chosen == none or none not in places:
        return
    from_x, from_y = places[none]
    arrow: dict[str, Any] = {"showarrow": True, "text": "", "arrowhead": 2, "arrowwidth": 2}
    figure.add_annotation(
        **{"x": x, "y": y, "ax": from_x, "ay": from_y, "axref": "x", "ayref": "y", "xref": "x", "yref": "y"},
        **arrow | {"arrowcolor": CHOSEN_COLOUR, "standoff": RING / 2, "startstandoff": SIZE},
    )


def _shown(points: pd.DataFrame, measure: str) -> list[float]:
    """Return the part of an axis with every mean and its interval; an interval far wider than most is cut."""
    mean = points[measure]
    below, above = mean - points[f"{measure}_low"], points[f"{measure}_high"] - mean
    widest = WIDE * float(pd.concat([below, above]).median())
    low, high = (mean - below.clip(upper=widest).fillna(0)).min(), (mean + above.clip(upper=widest).fillna(0)).max()
    room = 0.08 * (high - low) or 0.01
    return [low - room, high + room]


HEIGHT = 380
_AGREE = ((0.0, "#d5552a"), (0.5, "#808080"), (1.0, "#1479b8"))  # −1, 0 and 1
COLOURS: Mapping[str, str] = {RANDOM: OTHER} | dict(
    zip((name for name in DETECTORS if name != RANDOM and name not in SECOND_ROUND), LABEL_COLOURS, strict=False)
)


def precision_figure(curves: pd.DataFrame, *, share: float) -> go.Figure:
    """Draw the precision of each detector against how many pairs are reviewed; the reference is the wide line, and what
    is by a second round of training is dashed.

    Args:
        curves: detector, number and precision, of one kind and share.
        share: of the pairs that are planted, which is the precision of a random order.
    """
    figure = go.Figure()
    for name, own in curves.groupby("detector", sort=False):
        first = SECOND_ROUND.get(str(name), str(name))
        dash = "solid" if first == name else "dash"
        figure.add_scatter(
            x=own["number"],
            y=own["precision"],
            name=words(str(name)),
            mode="lines",
            line={"color": COLOURS.get(first, OTHER), "width": 4 if name == REFERENCE else 1.8, "dash": dash},
            hovertemplate=f"{words(str(name))}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=DOTTED)
    # Told one by one: of a single tick Plotly cannot tell where its text goes.
    told = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(title="pairs reviewed, the most suspicious first", type="log", tickvals=told)
    figure.update_yaxes(title="of the injected errors", range=[0, 1.03], zeroline=False)
    return laid_out(figure, HEIGHT, top=10, dragmode=False)


def agreement_figure(correlations: pd.DataFrame) -> go.Figure:
    """Draw the rank correlation of every two detectors as coloured squares with their numbers.

    Args:
        correlations: square, detectors on both sides.
    """
    names = [words(str(name)) for name in correlations]
    values = correlations.to_numpy()
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale=_AGREE,
            text=[[_told(value) for value in row] for row in values],
            texttemplate="%{text}",
            textfont={"color": "#ffffff"},
            hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
            colorbar={"title": "Spearman", "thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(fixedrange=True)
    return laid_out(figure, 110 + 42 * len(names), top=10)


def _told(value: float) -> str:
    """Return a correlation as it is written, without a minus before nothing."""
    return "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
