"""A Plotly figure for each study of the encoders, of means over seeds."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT
from clipmem_core.figures.clouds import LEGEND_OF_SEEDS
from clipmem_core.figures.colours import ENCODER_COLOURS
from clipmem_core.figures.encoder_page import error_bar, in_words
from clipmem_core.studies.store import EPOCH

HEIGHT = 380
MEASURES = {CLIPMEM_IMAGE: "image", CLIPMEM_TEXT: "text"}
WIDTH_COLOURS = ("#1479b8", "#008f6b", "#d55e00")  # of the text encoder: half, one, double
SYMBOLS = ("circle", "diamond")  # one caption, all captions
ZERO = {"color": "#808080", "width": 1, "dash": "dot"}


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
    return _finished(figure, "part of clipmem beyond external pairs", rangemode=None)


def size_figure(means: pd.DataFrame, *, widths: tuple[str, ...]) -> go.Figure:
    """Draw how far the text encoder leads, by the width of either encoder: below 0 the image encoder leads.

    Args:
        means: image_encoder, text_encoder (a width each), mean, low, high of text − image.
        widths: in their order, at most three.
    """
    figure = go.Figure()
    places = {width: place for place, width in enumerate(widths)}
    for number, (width, colour) in enumerate(zip(widths, WIDTH_COLOURS, strict=False)):
        rows = means[means["text_encoder"] == width]
        shift, name = 0.08 * (number - 1), f"text encoder: {width}"
        _add_sorted(figure, rows, "image_encoder", places, shift=shift, name=name, colour=colour)
    _name_places(figure, places, "width of the image encoder", right=0.6)
    return _finished(figure, "text − image contribution")


def views_figure(means: pd.DataFrame, *, crops: tuple[str, ...]) -> go.Figure:
    """Draw each encoder's contribution by how pictures are augmented and how many captions are trained on.

    Args:
        means: crop, captions (`1` or `all`), measure (clipmem_image or clipmem_text), mean, low, high.
        crops: in their order.
    """
    figure = go.Figure()
    places = {crop: place for place, crop in enumerate(crops)}
    captions = sorted(set(means["captions"]))
    for measure, encoder in MEASURES.items():
        for number, caption in enumerate(captions):
            rows = means[(means["measure"] == measure) & (means["captions"] == caption)]
            told = f", {'all captions' if caption == 'all' else 'one caption'}" if len(captions) > 1 else ""
            symbol, colour = SYMBOLS[number % len(SYMBOLS)], ENCODER_COLOURS[encoder]
            name, shift = f"{encoder} encoder{told}", 0.12 * number
            _add_sorted(figure, rows, "crop", places, shift=shift, name=name, colour=colour, symbol=symbol)
    _name_places(figure, places, "crops of the pictures", right=0.4)
    return _finished(figure, "part of clipmem (candidates)")


def _add_sorted(
    figure: go.Figure,
    rows: pd.DataFrame,
    column: str,
    places: dict[str, int],
    *,
    shift: float,
    name: str,
    colour: str,
    symbol: str = "circle",
) -> None:
    """Draw means in the order of their places, a little aside."""
    rows = rows.sort_values(column, key=lambda names: names.map(places))
    line = {"color": colour, "width": 1, "dash": "solid" if symbol == "circle" else "dash"}
    marker, hover = {"size": 9, "symbol": symbol}, "%{customdata}<extra>%{fullData.name}</extra>"
    x = [places[name] + shift for name in rows[column]]
    _add_means(figure, x, rows, name=name, line=line, marker=marker, hovertemplate=hover)


def _add_means(
    figure: go.Figure, x: Iterable[float], rows: pd.DataFrame, *, line: dict[str, Any], **trace: Any
) -> None:
    bar = error_bar(rows, line["color"])
    told = in_words(rows)
    figure.add_scatter(x=x, y=rows["mean"], error_y=bar, mode="lines+markers", line=line, customdata=told, **trace)


def _name_places(figure: go.Figure, places: dict[str, int], title: str, *, right: float) -> None:
    figure.update_xaxes(title=title, tickvals=list(places.values()), ticktext=list(places))
    figure.update_xaxes(range=[-0.4, len(places) - right], zeroline=False)


def _finished(figure: go.Figure, title: str, *, rangemode: str | None = "tozero") -> go.Figure:
    figure.update_yaxes(title=title, rangemode=rangemode)
    figure.add_hline(0, line=ZERO)
    figure.update_layout(legend=LEGEND_OF_SEEDS, height=HEIGHT, margin={"l": 0, "r": 10, "t": 30, "b": 0})
    return figure
