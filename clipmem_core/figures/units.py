"""UnitMem by layer → Plotly figures: an encoder beside what it is read against, and three paradigms beside the paper's.

UnitMem lies in [0, 1]; the axes show only the part that there is, so that small differences can be seen.
"""

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.audits.paradigms import CLIP, SELF_SUPERVISED, SUPERVISED
from clipmem_core.audits.units import BEFORE, SEEN, UNSEEN
from clipmem_core.figures.clouds import LEGEND_ABOVE, LEGEND_OF_SEEDS
from clipmem_core.figures.colours import ENCODER_COLOURS, OTHER
from clipmem_core.figures.encoders import error_bar, in_words
from clipmem_core.review.unit_ranks import DEPTH, MEMBERS, PARADIGM_NAMES, SOURCE

HEIGHT = 360
PARADIGM_COLOURS = {CLIP: "#c2487a", SUPERVISED: "#1479b8", SELF_SUPERVISED: "#008f6b"}
# Mean UnitMem of layers 1 and 12, digitised from a figure of "Captured by Captions" (ICLR 2025).
PAPER = {CLIP: (0.272, 0.411), SELF_SUPERVISED: (0.339, 0.376), SUPERVISED: (0.265, 0.477)}
SOURCE_NAMES = {
    MEMBERS: "trained members",
    BEFORE: "before training",
    SEEN: "pairs it trained on, as many",
    UNSEEN: "pairs it never saw",
}
DASHES = {MEMBERS: "solid", BEFORE: "dash", SEEN: "dot", UNSEEN: "dot"}


def tower_figure(layers: pd.DataFrame, *, tower: str, span: tuple[float, float]) -> go.Figure:
    """Draw UnitMem of one encoder by layer: its members, and in grey what UnitMem is without memorization.

    Args:
        layers: tower, source, layer, mean, low, high.
        tower: `image` or `text`.
        span: ends of the axis, the same for both encoders.
    """
    figure, own = go.Figure(), layers[layers["tower"] == tower]
    for source, name in SOURCE_NAMES.items():
        rows = own[own[SOURCE] == source]
        if len(rows):
            colour = ENCODER_COLOURS[tower] if source in (MEMBERS, SEEN) else OTHER
            _add_line(figure, rows["layer"], rows, name=name, colour=colour, dash=DASHES[source])
    ticks = sorted(set(own["layer"]))
    figure.update_xaxes(title=f"layer of the {tower} encoder", tickvals=ticks, zeroline=False)
    return _finished(figure, span)


def paradigm_figure(means: pd.DataFrame, *, paper: bool) -> go.Figure:
    """Draw UnitMem by relative depth of an image encoder under each paradigm, and the paper's where it is asked for.

    Args:
        means: paradigm, depth (0 the first layer, 1 the last), mean, low, high.
        paper: draw the paper's first and last layers, joined by straight lines.
    """
    figure = go.Figure()
    for paradigm, colour in PARADIGM_COLOURS.items():
        rows, name = means[means["paradigm"] == paradigm], PARADIGM_NAMES[paradigm]
        if len(rows):
            _add_line(figure, rows[DEPTH], rows, name=name, colour=colour, dash="solid")
        if paper:
            ends = pd.DataFrame({"mean": PAPER[paradigm]}).assign(low=float("nan"), high=float("nan"))
            depths = pd.Series([0.0, 1.0])
            _add_line(figure, depths, ends, name=f"{name}, paper (digitised)", colour=colour, dash="dash")
    figure.update_xaxes(title="relative depth: 0 first layer, 1 last layer", zeroline=False)
    values = [*means["low"], *means["high"], *means["mean"], *(end for ends in PAPER.values() for end in ends if paper)]
    return _finished(figure, axis_span(pd.Series(values, dtype=float))).update_layout(legend=LEGEND_OF_SEEDS)


def axis_span(values: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis that leaves some room around values, within [0, 1]."""
    return max(0.0, float(values.min()) - 0.03), min(1.0, float(values.max()) + 0.03)


def _add_line(figure: go.Figure, places: pd.Series, rows: pd.DataFrame, *, name: str, colour: str, dash: str) -> None:
    figure.add_scatter(
        x=places,
        y=rows["mean"],
        error_y=error_bar(rows, colour) if rows["low"].notna().any() else None,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7, "symbol": "circle" if dash == "solid" else "circle-open"},
        customdata=in_words(rows),
        hovertemplate="UnitMem %{customdata}<extra>%{fullData.name}</extra>",
    )


def _finished(figure: go.Figure, span: tuple[float, float]) -> go.Figure:
    figure.update_yaxes(title="mean UnitMem", range=span, zeroline=False)
    figure.update_layout(legend=LEGEND_ABOVE, height=HEIGHT, margin={"l": 0, "r": 10, "t": 30, "b": 0})
    return figure
