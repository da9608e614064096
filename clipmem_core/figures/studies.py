"""The rows of a study over its seeds → a Plotly figure for each question about the encoders."""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT
from clipmem_core.figures.colours import ENCODER_COLOURS
from clipmem_core.figures.encoder_page import error_bar, in_words
from clipmem_core.figures.points import LEGEND_OF_SEEDS
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
        rows, colour = means[means["measure"] == measure].sort_values(EPOCH), ENCODER_COLOURS[encoder]
        figure.add_scatter(
            x=rows[EPOCH],
            y=rows["mean"],
            error_y=error_bar(rows, colour),
            name=f"{encoder} encoder",
            mode="lines+markers",
            line={"color": colour, "width": 2},
            customdata=in_words(rows),
            hovertemplate="epoch %{x}: %{customdata}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title="epoch", rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="part of clipmem beyond external pairs")
    figure.add_hline(0, line=ZERO)
    return _finished(figure)


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
        rows = rows.sort_values("image_encoder", key=lambda names: names.map(places))
        _add_dots(
            figure,
            [places[name] + 0.08 * (number - 1) for name in rows["image_encoder"]],
            rows,
            name=f"text encoder: {width}",
            colour=colour,
        )
    figure.update_xaxes(title="width of the image encoder", tickvals=list(places.values()), ticktext=list(places))
    figure.update_xaxes(range=[-0.4, len(widths) - 0.6], zeroline=False)
    figure.update_yaxes(title="text − image contribution", rangemode="tozero")
    figure.add_hline(0, line=ZERO)
    return _finished(figure)


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
            rows = rows.sort_values("crop", key=lambda names: names.map(places))
            told = f", {'all captions' if caption == 'all' else 'one caption'}" if len(captions) > 1 else ""
            _add_dots(
                figure,
                [places[crop] + 0.12 * number for crop in rows["crop"]],
                rows,
                name=f"{encoder} encoder{told}",
                colour=ENCODER_COLOURS[encoder],
                symbol=SYMBOLS[number % len(SYMBOLS)],
            )
    figure.update_xaxes(title="crops of the pictures", tickvals=list(places.values()), ticktext=list(places))
    figure.update_xaxes(range=[-0.4, len(crops) - 0.4], zeroline=False)
    figure.update_yaxes(title="part of clipmem (candidates)", rangemode="tozero")
    figure.add_hline(0, line=ZERO)
    return _finished(figure)


def _add_dots(
    figure: go.Figure, places: Iterable[float], rows: pd.DataFrame, *, name: str, colour: str, symbol: str = "circle"
) -> None:
    figure.add_scatter(
        x=list(places),
        y=rows["mean"],
        error_y=error_bar(rows, colour),
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 1, "dash": "solid" if symbol == "circle" else "dash"},
        marker={"size": 9, "symbol": symbol},
        customdata=in_words(rows),
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
    )


def _finished(figure: go.Figure) -> go.Figure:
    figure.update_layout(legend=LEGEND_OF_SEEDS, height=HEIGHT, margin={"l": 0, "r": 10, "t": 30, "b": 0})
    return figure
