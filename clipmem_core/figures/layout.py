"""Colours, margins, legends, error bars and escaped text that the figures share."""

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clipmem_core import columns as c

GROUP_COLOURS = {
    c.CANDIDATE: "#d55e00",
    c.INDEPENDENT: "#1479b8",
    c.SCORED: "#9a5bc4",
    c.SHARED: "#808080",
    c.EXTERNAL: "#008f6b",
}
ENCODER_COLOURS = {"image": "#a87800", "text": "#c2487a"}
OTHER = "#808080"
INJECTED_COLOUR = "#c2487a"
KIND_COLOURS = (INJECTED_COLOUR, "#1479b8", "#a87800", "#008f6b")
LABEL_COLOURS = (
    *("#1479b8", "#d55e00", "#008f6b", "#9a5bc4", "#a87800", "#d6498a"),
    *("#0f8f9f", "#d93a3a", "#6f8a1f", "#6a6fd8", "#a0674b", "#c04fc0"),
)
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high
CHOSEN_COLOUR = "#6a6fd8"
FRONT_COLOUR = "#0f8f9f"
DOTTED = {"color": OTHER, "width": 1, "dash": "dot"}
LEGEND_ABOVE: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}


def group_colour(group: str) -> str:
    """Return the colour of a group; grey for an unknown name."""
    return GROUP_COLOURS.get(group, OTHER)


def set_layout(
    figure: go.Figure, height: int, *, top: int = 30, right: int = 10, **options: Any
) -> go.Figure:
    """Set the height, the margins and other layout options of a figure, and return it."""
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure.update_layout(
        height=height, margin={"l": 0, "r": right, "t": top, "b": 0}, **options
    )


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
    ends = zip(rows["mean"], rows["low"], rows["high"], strict=True)
    texts = [
        f"{mean:.3f}" + (f" ({low:.3f} to {high:.3f})" if pd.notna(low) else "")
        for mean, low, high in ends
    ]
    return [text.replace("-", "−") for text in texts]


def short_name(name: object, limit: int = 40) -> str:
    """Return foreign text in one line, shortened and escaped for Plotly."""
    text = " ".join(str(name).split())
    return safe(f"{text[:limit]}…" if len(text) > limit else text)


def safe(text: object) -> str:
    """Escape text for Plotly, which reads some HTML but not &quot;."""
    return html.escape(str(text), quote=False)
