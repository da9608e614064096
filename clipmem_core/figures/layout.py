"""Colours, margins, legends, error bars and escaped text that the figures share."""

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CANDIDATE, EXTERNAL, INDEPENDENT, ONE_SPLIT, SCORED, SHARED

GROUP_COLOURS = {
    CANDIDATE: "#d55e00",
    INDEPENDENT: "#1479b8",
    SCORED: "#9a5bc4",
    SHARED: "#808080",
    EXTERNAL: "#008f6b",
}
ENCODER_COLOURS = {"image": "#a87800", "text": "#c2487a"}
OTHER = "#808080"
PLANTED_COLOUR = "#c2487a"
KIND_COLOURS = (PLANTED_COLOUR, "#1479b8", "#a87800", "#008f6b")
LABEL_COLOURS = (  # told apart from each other
    *("#1479b8", "#d55e00", "#008f6b", "#9a5bc4", "#a87800", "#d6498a"),
    *("#0f8f9f", "#d93a3a", "#6f8a1f", "#6a6fd8", "#a0674b", "#c04fc0"),
)
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high
SIDE_COLOURS = {"f": GROUP_COLOURS[CANDIDATE], "g": GROUP_COLOURS[INDEPENDENT]}  # after the group that only it sees
FOLD_COLOURS = ("#5b6fd6", "#b0662a", "#1f8f8a", "#b8528f", "#6f8a1f", "#8a6a5c")
WIDTH_COLOURS = ("#1479b8", "#008f6b", "#d55e00")  # of the text encoder: half, one, double
CHOSEN_COLOUR, FRONT_COLOUR = "#6a6fd8", "#0f8f9f"


def group_colour(group: str) -> str:
    """Return the colour of a group; grey for a name that is none of ours."""
    return GROUP_COLOURS.get(group, OTHER)


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
