"""Plotly figures of the laboratory: UnitMem, paradigms, mitigations and detectors."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.figures import (
    CHOSEN_COLOUR,
    DOTTED,
    ENCODER_COLOURS,
    FRONT_COLOUR,
    LABEL_COLOURS,
    LEGEND_ABOVE,
    OTHER,
    error_bar,
    mean_texts,
    safe,
    set_layout,
)
from clipmem_core.lab import encoders as t
from clipmem_core.lab.experiment import DETECTORS, RANDOM_DETECTOR, REFERENCE_DETECTOR, SECOND_ROUND
from clipmem_core.lab.mitigated import BASELINE, SETTING
from clipmem_core.scores.registry import words
from clipmem_core.utils import columns as c

PARADIGM_COLOURS = {t.CLIP: "#c2487a", t.SUPERVISED: "#1479b8", t.SELF_SUPERVISED: "#008f6b"}
# Mean UnitMem of layers 1 and 12, digitised from a figure of "Captured by Captions" (ICLR 2025).
PAPER = {t.CLIP: (0.272, 0.411), t.SELF_SUPERVISED: (0.339, 0.376), t.SUPERVISED: (0.265, 0.477)}
SOURCES = {  # name and dash
    t.MEMBERS: ("trained members", "solid"),
    t.BEFORE: ("before training", "dash"),
    t.SEEN: ("as many training pairs", "dot"),
    t.UNSEEN: ("pairs never trained on", "dashdot"),
}
MEMORIZATION = "memorization"
UTILITY = "utility"
TEXT = "text"
PROVISIONAL = "provisional"
_PLACES = ("top center", "bottom center", "top right", "bottom right")
_first_round = [name for name in DETECTORS if name != RANDOM_DETECTOR and name not in SECOND_ROUND]
DETECTOR_COLOURS = dict(zip(_first_round, LABEL_COLOURS, strict=False))
DETECTOR_COLOURS[c.P_WRONG] = DETECTOR_COLOURS[c.SUSPICION]
Line = tuple[str, pd.DataFrame, str, str]  # name, rows, colour and dash


def line_figure(lines: Iterable[Line], x: str, titles: tuple[str, str]) -> go.Figure:
    """Draw lines of means with their intervals."""
    figure = go.Figure()
    for name, rows, colour, dash in lines:
        rows = rows.sort_values(x)
        figure.add_scatter(
            x=rows[x],
            y=rows["mean"],
            error_y=error_bar(rows, colour),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            customdata=mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    return set_layout(
        figure, 370, xaxis_title=titles[0], yaxis_title=titles[1], legend=LEGEND_ABOVE
    )


def unitmem_figure(layers: pd.DataFrame) -> go.Figure:
    """Draw UnitMem by layer of both encoders: of the members, and of the references without
    memorization."""
    lines = [
        (
            f"{tower}: {name}",
            layers[(layers[t.TOWER] == tower) & (layers[t.SOURCE] == source)],
            colour,
            dash,
        )
        for tower, colour in ENCODER_COLOURS.items()
        for source, (name, dash) in SOURCES.items()
    ]
    figure = line_figure(lines, t.LAYER, ("layer", "mean UnitMem"))
    return figure.update_xaxes(tickvals=sorted(set(layers[t.LAYER])))


def paradigm_figure(means: pd.DataFrame) -> go.Figure:
    """Draw UnitMem by relative depth of an image encoder under each paradigm, beside the paper's
    values."""
    lines: list[Line] = []
    for name, colour in PARADIGM_COLOURS.items():
        lines.append((name, means[means[t.PARADIGM] == name], colour, "solid"))
        paper = {t.DEPTH: (0.0, 1.0), "mean": PAPER[name], "low": np.nan, "high": np.nan}
        lines.append((f"{name}, paper (digitised)", pd.DataFrame(paper), colour, "dash"))
    return line_figure(
        lines, t.DEPTH, ("relative depth: 0 first layer, 1 last layer", "mean UnitMem")
    )


def tradeoff_figure(
    points: pd.DataFrame,
    *,
    titles: tuple[str, str],
    front: Sequence[str],
    chosen: str | None = None,
    start: float = 0.0,
) -> go.Figure:
    """Draw the settings, in order of memorization, each with its number, its intervals and lines
    of text on hover, and a line to the chosen setting; provisional settings are hollow.
    Memorization begins at `start`."""
    points = points.set_index(SETTING)
    points["kind"] = np.where(points.index.isin(front), "Pareto-optimal", "dominated")
    points.loc[points[PROVISIONAL], "kind"] = PROVISIONAL
    points.loc[BASELINE, "kind"] = "baseline"
    # Labels of close points, which follow each other in order of memorization, lie apart.
    points["number"] = range(1, len(points) + 1)
    points["place"] = np.resize(_PLACES, len(points))
    points["hover"] = ["<br>".join(map(safe, lines)) for lines in points[TEXT]]
    ranges = [_span(points, axis) for axis in (MEMORIZATION, UTILITY)]
    ranges[0][0] = min(ranges[0][0], start)
    styles = {
        "dominated": (OTHER, "circle"),
        "Pareto-optimal": (FRONT_COLOUR, "circle"),
        PROVISIONAL: (OTHER, "circle-open"),
        "baseline": (OTHER, "diamond"),
    }
    figure = go.Figure()
    for kind, rows in points.groupby("kind"):
        colour, symbol = styles[str(kind)]
        errors = {
            f"error_{axis}": {"array": rows[f"{name}_error"], "thickness": 1, "width": 0}
            for axis, name in (("x", MEMORIZATION), ("y", UTILITY))
        }
        figure.add_scatter(
            x=rows[MEMORIZATION],
            y=rows[UTILITY],
            **errors,
            name=str(kind),
            mode="markers+text",
            marker={
                "size": 11,
                "color": colour,
                "symbol": symbol,
                "line": {"width": 2, "color": colour},
            },
            text=rows["number"],
            textposition=rows["place"],
            textfont={"size": 13},
            cliponaxis=False,
            customdata=rows[["hover"]],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )
    if chosen and chosen in points.index:
        x0, y0 = points.loc[BASELINE, [MEMORIZATION, UTILITY]]
        x1, y1 = points.loc[chosen, [MEMORIZATION, UTILITY]]
        line = {"color": CHOSEN_COLOUR, "width": 3}
        figure.add_shape(type="line", x0=x0, y0=y0, x1=x1, y1=y1, line=line, layer="below")
    memorization, utility = map(safe, titles)
    return set_layout(
        figure,
        440,
        xaxis={"title": f"← less memorized · {memorization}", "range": ranges[0]},
        yaxis={"title": f"{utility} · more useful →", "range": ranges[1]},
        legend=LEGEND_ABOVE | {"title": ""},
        dragmode=False,
        hoverlabel={"align": "left"},
    )


def _span(points: pd.DataFrame, axis: str) -> list[float]:
    """Return a range around values and their intervals, at least a tenth of the largest wide on
    each side."""
    errors = points[f"{axis}_error"].fillna(0)
    low, high = (points[axis] - errors).min(), (points[axis] + errors).max()
    margin = max(0.1 * high, 0.2 * (high - low))
    return [low - margin, high + margin]


def precision_figure(curves: pd.DataFrame, *, share: float) -> go.Figure:
    """Draw the precision of each detector (dashed: second round) by pairs reviewed, and that of a
    random order."""
    figure = go.Figure()
    for detector, rows in curves.groupby("detector", sort=False):
        name = str(detector)
        first_round = SECOND_ROUND.get(name, name)
        colour = DETECTOR_COLOURS.get(first_round, OTHER)
        dash = "solid" if first_round == name else "dash"
        figure.add_scatter(
            x=rows["number"],
            y=rows["precision"],
            name=words(name),
            mode="lines",
            line={"color": colour, "width": 4 if name == REFERENCE_DETECTOR else 1.8, "dash": dash},
            hovertemplate=f"{words(name)}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=DOTTED)
    ticks = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(
        title="pairs reviewed, the most suspicious first", type="log", tickvals=ticks
    )
    figure.update_yaxes(title="share with an injected error", range=[0, 1.03])
    return set_layout(figure, 380, top=10, dragmode=False)
