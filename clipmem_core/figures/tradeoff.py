"""The arms of a study of mitigations: utility against memorization, and both against a setting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clipmem_core.figures.colours import CHOSEN_COLOUR, FRONT_COLOUR, LINE_COLOURS, OTHER, PAPER_COLOUR
from clipmem_core.figures.layout import LEGEND_OF_INTERVALS, error_bar, laid_out, safe
from clipmem_core.studies.store import ARM

MEMORIZATION, UTILITY = "memorization", "utility"
LINE, PLACE, TOLD, BAND = "line", "place", "told", "band"
HEIGHT = 440
SIZE, LARGE, RING = 10, 14, 24
PAPER = "the paper, rescaled"
HOVER = "%{customdata[1]}<extra></extra>"
FEW = 16  # arms: of more, only the front is named, the others by hovering
WIDE = 3  # medians: where a bar longer than that is cut, or one arm of few seeds would make a blot of the others
APART = 0.012  # of the lines of one setting, of the axis
LETTER, LINE_HEIGHT, GAP = 6.2, 14.0, 5.0  # pixels: of a letter, of a line, from the middle of a dot to its name
# Corners, because bars of intervals leave a dot to the right, to the left, up and down.
CORNERS: list[dict[str, Any]] = [
    {
        "xanchor": "left" if right > 0 else "right",
        "yanchor": "bottom" if up > 0 else "top",
        "xshift": right * GAP,
        "yshift": up * GAP / 2,
    }
    for up in (1, -1)
    for right in (1, -1)
]
Box = tuple[float, float, float, float]  # left, right, bottom, top


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
        front: the Pareto-optimal arms, from left to right.
        none: the reference arm, one of the points or not.
        chosen: the arm to stand out; None for none of them.
        paper: memorization, utility, told, in the order of its curve; None draws none.

    Returns:
        A figure; customdata of each dot of an arm is its row in `points` and what it tells.
    """
    figure = go.Figure()
    best = points.set_index(ARM).loc[list(front)]
    line = {"color": OTHER, "width": 1.5, "shape": "hv", "dash": "dot"}
    silent = {"hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=best[MEMORIZATION], y=best[UTILITY], mode="lines", line=line, **silent)
    if paper is not None:
        _add_paper(figure, paper, MEMORIZATION, UTILITY, PAPER_COLOUR)
    is_none, on_front = points[ARM] == none, points[ARM].isin(front)
    for name, rows, colour, symbol in (
        ("dominated", points[~is_none & ~on_front], OTHER, "circle"),
        ("Pareto-optimal", points[~is_none & on_front], FRONT_COLOUR, "circle"),
        ("none", points[is_none], FRONT_COLOUR if none in front else OTHER, "diamond"),
    ):
        if rows.empty:
            continue
        marker = {"color": colour, "symbol": symbol, "opacity": 1}
        marker["size"] = [size + 3 * (symbol == "diamond") for size in _sizes(rows, chosen)]
        across = _bars(rows, MEMORIZATION, colour)
        trace: dict[str, Any] = {"name": name, "mode": "markers", "marker": marker, "error_x": across}
        _add_arms(figure, rows, MEMORIZATION, UTILITY, colour, **trace)
    _add_chosen(figure, points, none, chosen)
    drawn = points if paper is None else pd.concat([points, paper])
    x, y = f"← less memorized · {safe(titles[0])}", f"{safe(titles[1])} · more useful →"
    figure.update_xaxes(title=x, zeroline=False, range=_shown(drawn, MEMORIZATION))
    figure.update_yaxes(title=y, zeroline=False, range=_shown(drawn, UTILITY))
    _add_labels(figure, points, front, always=[name for name in points[ARM] if name in (chosen, none)])
    return _finished(figure)


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
        colour, name = LINE_COLOURS[number % len(LINE_COLOURS)], safe(line or "this study")
        if paper is not None and (paper[LINE] == line).any():
            _add_paper_line(figure, paper[paper[LINE] == line], colour, alone=len(lines) == 1)
        rows = points[points[LINE] == line].sort_values(PLACE)
        rows = rows.assign(**{PLACE: rows[PLACE] + (number - (len(lines) - 1) / 2) * APART * wide})
        found, marker = rows[rows[ARM] == chosen], {"size": _sizes(rows, chosen), "opacity": 1}
        drawn: dict[str, Any] = {"mode": "lines+markers", "line": {"color": colour, "width": 2}, "marker": marker}
        for panel, measure in enumerate((MEMORIZATION, UTILITY), start=1):
            trace = drawn | {"name": name, "legendgroup": name, "showlegend": panel == 1, "row": panel, "col": 1}
            _add_arms(figure, rows, PLACE, measure, colour, **trace)
            if len(found):
                _add_ring(figure, found[PLACE], found[measure], row=panel, col=1)
    figure.update_xaxes(tickvals=list(ticks), ticktext=[safe(text) for text in ticks.values()], zeroline=False)
    figure.update_xaxes(title=safe(titles[0]), row=2, col=1)
    for panel, title, better in ((1, titles[1], "less memorized ←"), (2, titles[2], "more useful →")):
        figure.update_yaxes(title=f"{safe(title)}<br>{better}", zeroline=False, row=panel, col=1)
    return _finished(figure)


def _finished(figure: go.Figure) -> go.Figure:
    """Give a figure its height and its legend; a drag scrolls the page."""
    return laid_out(figure, HEIGHT, legend=LEGEND_OF_INTERVALS, dragmode=False, hoverlabel={"align": "left"})


def _add_arms(figure: go.Figure, rows: pd.DataFrame, x: str, y: str, colour: str, **trace: Any) -> None:
    """Draw arms with what they tell, and the bars of what stands upwards."""
    told = {"customdata": _customdata(rows), "hovertemplate": HOVER}
    figure.add_scatter(x=rows[x], y=rows[y], error_y=_bars(rows, y, colour), **told, **trace)


def _add_ring(figure: go.Figure, x: Iterable[float], y: Iterable[float], **where: int) -> None:
    """Draw the ring that the chosen arm has."""
    marker = {"symbol": "circle-open", "size": RING, "color": CHOSEN_COLOUR, "line": {"width": 2.5}}
    figure.add_scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", showlegend=False, **where)


def _add_chosen(figure: go.Figure, points: pd.DataFrame, none: str, chosen: str | None) -> None:
    """Draw a ring around the chosen arm, and the arrow that leads to it."""
    places = {arm: (x, y) for arm, x, y in points[[ARM, MEMORIZATION, UTILITY]].itertuples(index=False, name=None)}
    if chosen not in places:
        return
    x, y = places[chosen]
    _add_ring(figure, [x], [y])
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
        text = f"<b>{safe(name)}</b>" if name in always else safe(name)
        x, y = dots.loc[name]
        figure.add_annotation(x=x, y=y, text=text, showarrow=False, font={"size": 11}, **anchor)


def _shown(drawn: pd.DataFrame, measure: str) -> list[float]:
    """Return the part of an axis with every mean and its interval; of one far wider than most, with a part of it."""
    mean = drawn[measure]
    below, above = mean - drawn[f"{measure}_low"], drawn[f"{measure}_high"] - mean
    widest = WIDE * float(pd.concat([below, above]).median())
    low, high = (mean - below.clip(upper=widest).fillna(0)).min(), (mean + above.clip(upper=widest).fillna(0)).max()
    room = 0.08 * (high - low) or 0.01
    return [low - room, high + room]


def _add_paper_line(figure: go.Figure, paper: pd.DataFrame, colour: str, *, alone: bool) -> None:
    """Draw a line of the paper's; one that is alone in its own colour, with its deviation and its name."""
    rows, colour = paper.sort_values(PLACE), PAPER_COLOUR if alone else colour
    if alone:
        band = pd.concat([rows[UTILITY] + rows[BAND], (rows[UTILITY] - rows[BAND])[::-1]])
        figure.add_scatter(
            x=[*rows[PLACE], *rows[PLACE][::-1]],
            y=band,
            **{"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": "rgba(128,128,128,0.12)"},
            **{"hoverinfo": "skip", "showlegend": False, "row": 2, "col": 1},
        )
    if rows[MEMORIZATION].notna().any():
        _add_paper(figure, rows, PLACE, MEMORIZATION, colour, row=1, col=1, showlegend=False)
    _add_paper(figure, rows, PLACE, UTILITY, colour, row=2, col=1, showlegend=alone)


def _add_paper(figure: go.Figure, paper: pd.DataFrame, x: str, y: str, colour: str, **trace: Any) -> None:
    """Draw a curve of the paper's: its points, dashed, none of which is an arm."""
    trace |= {"name": PAPER, "legendgroup": PAPER, "hovertemplate": HOVER}
    trace |= {"mode": "lines+markers", "line": {"color": colour, "width": 1.5, "dash": "dash"}}
    trace |= {"marker": {"symbol": "square-open", "size": 7}}
    figure.add_scatter(x=paper[x], y=paper[y], customdata=[[None, told] for _, told in _customdata(paper)], **trace)


def _bars(rows: pd.DataFrame, measure: str, colour: str) -> dict[str, object]:
    """Return the error bars of a measure of arms, thin ones; none where the ends of the interval are NaN."""
    names = {measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high"}
    return error_bar(rows[list(names)].rename(columns=names), colour) | {"thickness": 1, "width": 0}


def _sizes(rows: pd.DataFrame, chosen: str | None) -> list[int]:
    """Return the size of each arm's dot, in pixels: the chosen one's is larger."""
    return [LARGE if name == chosen else SIZE for name in rows[ARM]]


def _customdata(rows: pd.DataFrame) -> list[list[object]]:
    """Return what goes with each dot: its row, and the lines it tells, which Plotly shows as they are."""
    return [[row, "<br>".join(map(safe, told))] for row, told in zip(rows.index.tolist(), rows[TOLD], strict=True)]


@dataclass(frozen=True)
class Extent:
    """The two ends of an axis, and how many pixels lie between them, about as many as on a narrow page."""

    low: float
    high: float
    span: float = 340.0

    def pixel(self, value: float) -> float:
        """Return where a value lies, in pixels from the lower end."""
        return (value - self.low) / (self.high - self.low) * self.span


def place_labels(
    dots: pd.DataFrame, names: Sequence[str], *, always: Sequence[str] = (), extents: tuple[Extent, Extent]
) -> dict[str, dict[str, Any]]:
    """Choose a corner for each name where it covers no dot, no other name, and no edge of the figure.

    Args:
        dots: x and y of each, by name.
        names: the ones to be written, the most important first.
        always: of them, those that are written even where there is no space.
        extents: of the axes.

    Returns:
        Anchors and shifts of Plotly's annotations, by name; names without space are left out.
    """
    centres = {name: (extents[0].pixel(x), extents[1].pixel(y)) for name, x, y in dots.dropna().itertuples(name=None)}
    taken = [(x - GAP, x + GAP, y - GAP, y + GAP) for x, y in centres.values()]
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in centres:
            continue
        boxes = [_box(corner, *centres[name], len(name) * LETTER) for corner in CORNERS]
        faults = [_faults(box, taken, extents) for box in boxes]
        best = faults.index(min(faults))
        if faults[best] == 0 or name in always:
            found[name] = CORNERS[best]
            taken.append(boxes[best])
    return found


def _box(corner: Mapping[str, Any], x: float, y: float, width: float) -> Box:
    left = x + corner["xshift"] - (width if corner["xanchor"] == "right" else 0)
    bottom = y + corner["yshift"] - (LINE_HEIGHT if corner["yanchor"] == "top" else 0)
    return left, left + width, bottom, bottom + LINE_HEIGHT


def _faults(own: Box, taken: Iterable[Box], extents: tuple[Extent, Extent]) -> int:
    """Count what a name covers; an edge that would cut it is worst."""
    left, right, bottom, top = own
    cut = left < 0 or right > extents[0].span or bottom < 0 or top > extents[1].span
    covered = sum(left < box[1] and right > box[0] and bottom < box[3] and top > box[2] for box in taken)
    return covered + 100 * cut
