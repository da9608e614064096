"""The arms of a study of mitigations: utility against memorization."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.figures.colours import CHOSEN_COLOUR, FRONT_COLOUR, OTHER
from clipmem_core.figures.layout import LEGEND_OF_INTERVALS, error_bar, laid_out, safe
from clipmem_core.studies.store import ARM

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
