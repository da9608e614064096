"""Arms of a study, and the paper's points beside them → what the figures of both are drawn with."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.figures.encoder_page import error_bar
from clipmem_core.figures.points import LEGEND_OF_SEEDS, safe
from clipmem_core.studies.store import ARM

MEMORIZATION, UTILITY = "memorization", "utility"
LINE, PLACE, TOLD, BAND = "line", "place", "told", "band"
HEIGHT = 440
CHOSEN_COLOUR, PAPER_COLOUR = "#6a6fd8", "#a0674b"
SIZE, LARGE, RING = 10, 14, 24
PAPER = "the paper, rescaled"
HOVER = "%{customdata[1]}<extra></extra>"


def add_paper(figure: go.Figure, paper: pd.DataFrame, x: str, y: str, colour: str, **others: object) -> None:
    """Draw a curve of the paper's: its points, dashed.

    Args:
        figure: drawn into.
        paper: the columns `x` and `y`, and told.
        x: a column.
        y: a column.
        colour: of the curve.
        **others: of the trace, such as the panel it is in.
    """
    figure.add_scatter(
        x=paper[x],
        y=paper[y],
        name=PAPER,
        legendgroup=PAPER,
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        marker={"symbol": "square-open", "size": 7},
        customdata=[[None, told] for _, told in customdata(paper)],
        hovertemplate=HOVER,
        **others,
    )


def add_ring(figure: go.Figure, x: Iterable[float], y: Iterable[float], **where: int) -> None:
    """Draw the ring that the chosen arm has."""
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"symbol": "circle-open", "size": RING, "color": CHOSEN_COLOUR, "line": {"width": 2.5}},
        hoverinfo="skip",
        showlegend=False,
        **where,
    )


def bars(rows: pd.DataFrame, measure: str, colour: str) -> dict[str, object]:
    """Return the error bars of a measure of arms, thin ones.

    Args:
        rows: the measure, and the same with _low and _high; NaN where there is no interval.
        measure: a column.
        colour: of the bars.
    """
    names = {measure: "mean", f"{measure}_low": "low", f"{measure}_high": "high"}
    return error_bar(rows[list(names)].rename(columns=names), colour) | {"thickness": 1, "width": 0}


def sizes(rows: pd.DataFrame, chosen: str | None) -> list[int]:
    """Return the size of each arm's dot, in pixels: the chosen one's is larger."""
    return [LARGE if name == chosen else SIZE for name in rows[ARM]]


def customdata(rows: pd.DataFrame) -> list[list[object]]:
    """Return what goes with each dot: its row, and the lines it tells, which Plotly shows as they are."""
    return [[row, "<br>".join(map(safe, told))] for row, told in zip(rows.index.tolist(), rows[TOLD], strict=True)]


def laid_out(figure: go.Figure) -> go.Figure:
    """Give a figure its height and its legend; a drag scrolls the page."""
    figure.update_layout(legend=LEGEND_OF_SEEDS, height=HEIGHT, margin={"l": 0, "r": 10, "t": 30, "b": 0})
    figure.update_layout(dragmode=False, hoverlabel={"align": "left"})
    return figure
