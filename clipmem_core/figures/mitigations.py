"""The arms of a study of mitigations → Plotly figures: utility against memorization, and both against a setting."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clipmem_core.figures.arms import (
    BAND,
    CHOSEN_COLOUR,
    HEIGHT,
    HOVER,
    LINE,
    MEMORIZATION,
    PAPER_COLOUR,
    PLACE,
    RING,
    SIZE,
    UTILITY,
    add_paper,
    add_ring,
    bars,
    customdata,
    laid_out,
    sizes,
)
from clipmem_core.figures.colours import OTHER
from clipmem_core.figures.labels import Extent, place_labels
from clipmem_core.figures.points import LABEL_COLOURS, safe
from clipmem_core.studies.store import ARM

FRONT_COLOUR = "#0f8f9f"
LINE_COLOURS = (FRONT_COLOUR, "#d93a3a", *LABEL_COLOURS[8:])
FEW = 16  # arms: of more, only the front is named, the others by hovering
WIDE = 3  # medians: where a bar longer than that is cut, or one arm of few seeds would make a blot of the others
APART = 0.012  # of the lines of one setting, of the axis


def tradeoff_figure(
    points: pd.DataFrame,
    *,
    titles: tuple[str, str],
    front: Sequence[str],
    none: str,
    chosen: str | None = None,
    paper: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw each arm as a dot with its intervals, the front below them, and an arrow from `none` to the chosen arm.

    Args:
        points: arm, memorization and utility with _low and _high (NaN: no interval), told: lines of plain text.
        titles: of memorization and of utility.
        front: the arms that no other beats, from left to right.
        none: the reference arm, one of the points or not.
        chosen: the arm to stand out; None for none of them.
        paper: memorization, utility, told, in the order of its curve; None draws none.

    Returns:
        A figure; customdata of each dot of an arm is its row in `points` and what it tells.
    """
    figure = go.Figure()
    _add_front(figure, points, front)
    if paper is not None:
        add_paper(figure, paper, MEMORIZATION, UTILITY, PAPER_COLOUR)
    is_none, on_front = points[ARM] == none, points[ARM].isin(front)
    for name, rows, colour, symbol in (
        ("arm that another beats", points[~is_none & ~on_front], OTHER, "circle"),
        ("arm that no other beats", points[~is_none & on_front], FRONT_COLOUR, "circle"),
        ("none", points[is_none], FRONT_COLOUR if none in front else OTHER, "diamond"),
    ):
        _add_arms(figure, rows, name=name, colour=colour, symbol=symbol, chosen=chosen)
    _add_chosen(figure, points, none, chosen)
    _finish(figure, points, paper, titles)
    _add_labels(figure, points, front, always=[name for name in points[ARM] if name in (chosen, none)])
    return figure


def against_figure(
    points: pd.DataFrame,
    *,
    titles: tuple[str, str, str],
    ticks: Mapping[float, str],
    chosen: str | None = None,
    paper: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw memorization, and below it utility, against a setting: ours with intervals, the paper's dashed.

    Args:
        points: as of `tradeoff_figure`, and place on the axis and line; `none` is a row of each line.
        titles: of the setting, of memorization and of utility.
        ticks: place → what is written there.
        chosen: the arm to stand out; None for none of them.
        paper: line, place, memorization (NaN: not shown there), utility, band (its deviation), told; None draws none.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    lines = list(dict.fromkeys(points[LINE]))
    wide = (max(ticks) - min(ticks)) or 1.0
    for number, line in enumerate(lines):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        theirs = None if paper is None else paper[paper[LINE] == line]
        if theirs is not None and len(theirs):
            alone = len(lines) == 1
            _add_paper_line(figure, theirs, PAPER_COLOUR if alone else colour, alone=alone)
        rows = points[points[LINE] == line].sort_values(PLACE)
        rows = rows.assign(**{PLACE: rows[PLACE] + (number - (len(lines) - 1) / 2) * APART * wide})
        for panel, measure in enumerate((MEMORIZATION, UTILITY), start=1):
            _add_line(figure, rows, measure, colour, name=line or "this study", panel=panel, chosen=chosen)
    figure.update_xaxes(tickvals=list(ticks), ticktext=[safe(text) for text in ticks.values()], zeroline=False)
    figure.update_xaxes(title=safe(titles[0]), row=2, col=1)
    for panel, title, better in ((1, titles[1], "less memorized ←"), (2, titles[2], "more useful →")):
        figure.update_yaxes(title=f"{safe(title)}<br>{better}", zeroline=False, row=panel, col=1)
    return laid_out(figure)


def _add_front(figure: go.Figure, points: pd.DataFrame, front: Sequence[str]) -> None:
    rows = points.set_index(ARM).loc[list(front)]
    figure.add_scatter(
        x=rows[MEMORIZATION],
        y=rows[UTILITY],
        mode="lines",
        line={"color": OTHER, "width": 1.5, "shape": "hv", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )


def _add_arms(
    figure: go.Figure, rows: pd.DataFrame, *, name: str, colour: str, symbol: str, chosen: str | None
) -> None:
    if rows.empty:
        return
    figure.add_scatter(
        x=rows[MEMORIZATION],
        y=rows[UTILITY],
        error_x=bars(rows, MEMORIZATION, colour),
        error_y=bars(rows, UTILITY, colour),
        name=name,
        mode="markers",
        marker={
            "color": colour,
            "symbol": symbol,
            "size": [size + 3 * (symbol == "diamond") for size in sizes(rows, chosen)],
            "opacity": 1,
        },
        customdata=customdata(rows),
        hovertemplate=HOVER,
    )


def _add_chosen(figure: go.Figure, points: pd.DataFrame, none: str, chosen: str | None) -> None:
    """Draw a ring around the chosen arm, and the arrow that leads to it."""
    places = dict(zip(points[ARM], zip(points[MEMORIZATION], points[UTILITY], strict=True), strict=True))
    if chosen not in places:
        return
    x, y = places[chosen]
    add_ring(figure, [x], [y])
    if chosen == none or none not in places:
        return
    from_x, from_y = places[none]
    figure.add_annotation(
        **{"x": x, "y": y, "ax": from_x, "ay": from_y, "axref": "x", "ayref": "y", "xref": "x", "yref": "y"},
        **{"showarrow": True, "text": "", "arrowhead": 2, "arrowwidth": 2, "arrowcolor": CHOSEN_COLOUR},
        **{"standoff": RING / 2, "startstandoff": SIZE},
    )


def _add_labels(figure: go.Figure, points: pd.DataFrame, front: Sequence[str], *, always: Sequence[str]) -> None:
    """Name the front, and the others where they are few enough, as far as there is room; some of them always."""
    dots = points.set_index(ARM)[[MEMORIZATION, UTILITY]]
    named = list(dict.fromkeys([*always, *front, *(dots.index if len(dots) <= FEW else ())]))
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    extents = Extent(left, right), Extent(bottom, top, span=HEIGHT - 100)
    for name, anchor in place_labels(dots, named, always=always, extents=extents).items():
        text = safe(name)
        figure.add_annotation(
            x=dots.at[name, MEMORIZATION],
            y=dots.at[name, UTILITY],
            text=f"<b>{text}</b>" if name in always else text,
            showarrow=False,
            font={"size": 11},
            **anchor,
        )


def _finish(figure: go.Figure, points: pd.DataFrame, paper: pd.DataFrame | None, titles: tuple[str, str]) -> None:
    drawn = points if paper is None else pd.concat([points, paper])
    figure.update_xaxes(title=f"← less memorized · {safe(titles[0])}", zeroline=False)
    figure.update_yaxes(title=f"{safe(titles[1])} · more useful →", zeroline=False)
    for update, measure in ((figure.update_xaxes, MEMORIZATION), (figure.update_yaxes, UTILITY)):
        update(range=_shown(drawn, measure))
    laid_out(figure)


def _shown(drawn: pd.DataFrame, measure: str) -> list[float]:
    """Return the part of an axis with every mean and its interval; of one far wider than most, with a part of it."""
    mean = drawn[measure]
    below, above = mean - drawn[f"{measure}_low"], drawn[f"{measure}_high"] - mean
    widest = WIDE * float(pd.concat([below, above]).median())
    low, high = (mean - below.clip(upper=widest).fillna(0)).min(), (mean + above.clip(upper=widest).fillna(0)).max()
    room = 0.08 * (high - low) or 0.01
    return [low - room, high + room]


def _add_paper_line(figure: go.Figure, paper: pd.DataFrame, colour: str, *, alone: bool) -> None:
    """Draw a line of the paper's; one that is alone with its deviation and its name."""
    rows = paper.sort_values(PLACE)
    if alone:
        band = pd.concat([rows[UTILITY] + rows[BAND], (rows[UTILITY] - rows[BAND])[::-1]])
        figure.add_scatter(
            x=[*rows[PLACE], *rows[PLACE][::-1]],
            y=band,
            **{"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": "rgba(128,128,128,0.12)"},
            **{"hoverinfo": "skip", "showlegend": False, "row": 2, "col": 1},
        )
    if rows[MEMORIZATION].notna().any():
        add_paper(figure, rows, PLACE, MEMORIZATION, colour, row=1, col=1, showlegend=False)
    add_paper(figure, rows, PLACE, UTILITY, colour, row=2, col=1, showlegend=alone)


def _add_line(
    figure: go.Figure, rows: pd.DataFrame, measure: str, colour: str, *, name: str, panel: int, chosen: str | None
) -> None:
    figure.add_scatter(
        x=rows[PLACE],
        y=rows[measure],
        error_y=bars(rows, measure, colour),
        name=safe(name),
        legendgroup=safe(name),
        showlegend=panel == 1,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": sizes(rows, chosen), "opacity": 1},
        customdata=customdata(rows),
        hovertemplate=HOVER,
        row=panel,
        col=1,
    )
    found = rows[rows[ARM] == chosen]
    if len(found):
        add_ring(figure, found[PLACE], found[measure], row=panel, col=1)
