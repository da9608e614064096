"""What the figures share: margins and legends, the bars of intervals, and text that Plotly shows as it is."""

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import ONE_SPLIT
from clipmem_core.figures.colours import OTHER

DOTTED = {"color": OTHER, "width": 1, "dash": "dot"}
LEGEND_ABOVE: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}
LEGEND_OF_INTERVALS = LEGEND_ABOVE | {"title": {"text": "bars: 95 % intervals", "side": "top"}}
LEGEND_OF_SEEDS = LEGEND_ABOVE | {"title": {"text": f"bars: 95 %, {ONE_SPLIT}", "side": "top"}}
NAME_LENGTH = 40


def laid_out(figure: go.Figure, height: int, *, top: int = 30, right: int = 10, **more: Any) -> go.Figure:
    """Give a figure its height, its margins and what more of Plotly's layout is named, and return it."""
    return figure.update_layout(height=height, margin={"l": 0, "r": right, "t": top, "b": 0}, **more)


def error_bar(rows: pd.DataFrame, colour: str) -> dict[str, object]:
    """Return Plotly's error bar from mean, low and high; a row without an interval has none.

    Args:
        rows: mean, low, high.
        colour: of the bar.
    """
    up, down = ((rows[end] - rows["mean"]).abs().fillna(0) for end in ("high", "low"))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "thickness": 2}


def in_words(rows: pd.DataFrame) -> list[str]:
    """Return what is said of each dot: its mean, and the interval where there is one.

    Args:
        rows: mean, low, high.
    """
    ends = zip(rows["mean"], rows["low"], rows["high"], strict=True)
    told = [f"{mean:.3f}" + (f" ({low:.3f} to {high:.3f})" if pd.notna(low) else "") for mean, low, high in ends]
    return [text.replace("-", "−") for text in told]


def short_name(name: object, limit: int = NAME_LENGTH) -> str:
    """Return a word that others wrote, cut, and as Plotly shows it as it is."""
    text = " ".join(str(name).split())
    return safe(f"{text[:limit]}…" if len(text) > limit else text)


def safe(text: object) -> str:
    """Return text as Plotly shows it as it is: it reads some HTML, and knows no &quot;."""
    return html.escape(str(text), quote=False)
