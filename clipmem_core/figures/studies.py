"""Figures of studies: encoders, mitigations (utility against memorization) and detectors."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from clipmem_core.audit import unit_tables as t
from clipmem_core.figures import layout
from clipmem_core.review.score_breakdown import DEPTH, MEMBERS, PARADIGM_NAMES, SOURCE
from clipmem_core.scores.registry import (
    DETECTORS,
    RANDOM_DETECTOR,
    REFERENCE_DETECTOR,
    SECOND_ROUND,
    words,
)
from clipmem_core.studies.arm import BASELINE
from clipmem_core.studies.lab import ARM

NAME_LENGTH = 20  # leaves space for the dots on a telephone
PARADIGM_COLOURS = {t.CLIP: "#c2487a", t.SUPERVISED: "#1479b8", t.SELF_SUPERVISED: "#008f6b"}
# Mean UnitMem of layers 1 and 12, digitised from a figure of "Captured by Captions" (ICLR 2025).
PAPER = {t.CLIP: (0.272, 0.411), t.SELF_SUPERVISED: (0.339, 0.376), t.SUPERVISED: (0.265, 0.477)}
SOURCES = {  # name and dash
    MEMBERS: ("trained members", "solid"),
    t.BEFORE: ("before training", "dash"),
    t.SEEN: ("as many training pairs", "dot"),
    t.UNSEEN: ("pairs never trained on", "dashdot"),
}
MEMORIZATION = "memorization"
UTILITY = "utility"
TEXT = "text"
_first_round = [name for name in DETECTORS if name != RANDOM_DETECTOR and name not in SECOND_ROUND]
DETECTOR_COLOURS = {RANDOM_DETECTOR: layout.OTHER} | dict(
    zip(_first_round, layout.LABEL_COLOURS, strict=False)
)
Line = tuple[str, pd.DataFrame, str, str]  # name, rows, colour and dash


def means_figure(
    means: pd.DataFrame, null: pd.DataFrame, *, title: str, noun: str = "pairs"
) -> go.Figure:
    """Draw the mean of each encoder by name with its interval, and lines at the means of external
    pairs."""
    figure = go.Figure()
    counts = means.groupby("name", sort=False)["n"].max()
    places = {name: place for place, name in enumerate(counts.index)}
    for shift, (encoder, colour) in zip((-0.16, 0.16), layout.ENCODER_COLOURS.items(), strict=True):
        rows = means[(means["encoder"] == encoder) & means["mean"].notna()]
        figure.add_scatter(
            x=rows["mean"],
            y=rows["name"].map(places) + shift,
            error_x=layout.error_bar(rows, colour),
            mode="markers",
            marker={"color": colour, "size": 9},
            name=f"{encoder} encoder",
            customdata=layout.mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
        for mean in null.loc[null["encoder"] == encoder, "mean"].dropna():
            figure.add_vline(mean, line=layout.DOTTED | {"color": colour})
    figure.add_vline(0, line={"color": layout.OTHER, "width": 1})
    figure.update_xaxes(title=title)
    labels = [
        f"{layout.short_name(name, NAME_LENGTH)}<br>{n:,} {noun}" for name, n in counts.items()
    ]
    figure.update_yaxes(tickvals=list(places.values()), ticktext=labels, showgrid=False)
    figure.update_yaxes(range=[len(counts) - 0.4, -0.6], fixedrange=True)
    height = 110 + 44 * len(counts)
    return layout.set_layout(figure, height, showlegend=True, legend=layout.LEGEND_ABOVE)


def line_figure(lines: Iterable[Line], x: str, titles: tuple[str, str]) -> go.Figure:
    """Draw lines of means with their intervals."""
    figure = go.Figure()
    for name, rows, colour, dash in lines:
        rows = rows.sort_values(x)
        figure.add_scatter(
            x=rows[x],
            y=rows["mean"],
            error_y=layout.error_bar(rows, colour),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            customdata=layout.mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title=titles[0])
    figure.update_yaxes(title=titles[1])
    return layout.set_layout(figure, 370, legend=layout.LEGEND_ABOVE)


def unitmem_figure(layers: pd.DataFrame) -> go.Figure:
    """Draw UnitMem by layer of both encoders: of the members, and of the references without
    memorization."""
    lines = [
        (
            f"{tower}: {name}",
            layers[(layers[t.TOWER] == tower) & (layers[SOURCE] == source)],
            colour,
            dash,
        )
        for tower, colour in layout.ENCODER_COLOURS.items()
        for source, (name, dash) in SOURCES.items()
    ]
    figure = line_figure(lines, t.LAYER, ("layer", "mean UnitMem"))
    return figure.update_xaxes(tickvals=sorted(set(layers[t.LAYER])))


def paradigm_figure(means: pd.DataFrame) -> go.Figure:
    """Draw UnitMem by relative depth of an image encoder under each paradigm, beside the paper's
    values."""
    lines: list[Line] = []
    for paradigm, colour in PARADIGM_COLOURS.items():
        name = PARADIGM_NAMES[paradigm]
        lines.append((name, means[means["paradigm"] == paradigm], colour, "solid"))
        paper = {DEPTH: (0.0, 1.0), "mean": PAPER[paradigm], "low": np.nan, "high": np.nan}
        lines.append((f"{name}, paper (digitised)", pd.DataFrame(paper), colour, "dash"))
    return line_figure(
        lines, DEPTH, ("relative depth: 0 first layer, 1 last layer", "mean UnitMem")
    )


def tradeoff_figure(
    points: pd.DataFrame,
    *,
    titles: tuple[str, str],
    front: Sequence[str],
    chosen: str | None = None,
) -> go.Figure:
    """Draw each arm with its intervals and lines of text on hover, the Pareto front, and an arrow
    to the chosen arm."""
    points = points.set_index(ARM)
    for axis in (MEMORIZATION, UTILITY):
        points[f"{axis}_up"] = points[f"{axis}_high"] - points[axis]
        points[f"{axis}_down"] = points[axis] - points[f"{axis}_low"]
    points["kind"] = np.where(points.index.isin(front), "Pareto-optimal", "dominated")
    points.loc[BASELINE, "kind"] = "baseline"
    points["hover"] = ["<br>".join(map(layout.safe, lines)) for lines in points[TEXT]]
    # Labels of dominated arms would cover each other.
    names = points.index.str.replace("[-_]", " ", regex=True)
    labels = [layout.short_name(name, NAME_LENGTH) for name in names]
    points["label"] = np.where(points.index.isin([chosen, BASELINE, *front]), labels, "")
    baseline_colour = layout.FRONT_COLOUR if BASELINE in front else layout.OTHER
    figure = px.scatter(
        points,
        x=MEMORIZATION,
        y=UTILITY,
        error_x=f"{MEMORIZATION}_up",
        error_x_minus=f"{MEMORIZATION}_down",
        error_y=f"{UTILITY}_up",
        error_y_minus=f"{UTILITY}_down",
        color="kind",
        symbol="kind",
        text="label",
        custom_data=["hover"],
        color_discrete_map={
            "dominated": layout.OTHER,
            "Pareto-optimal": layout.FRONT_COLOUR,
            "baseline": baseline_colour,
        },
        symbol_map={"dominated": "circle", "Pareto-optimal": "circle", "baseline": "diamond"},
    )
    thin = {"thickness": 1, "width": 0}
    figure.update_traces(
        marker={"opacity": 1, "size": 11},
        error_x=thin,
        error_y=thin,
        textposition="top left",
        textfont={"size": 11},
        cliponaxis=False,
        hovertemplate="%{customdata[0]}<extra></extra>",
    )
    best = points.loc[list(front)]
    figure.add_scatter(
        x=best[MEMORIZATION],
        y=best[UTILITY],
        mode="lines",
        line={"color": layout.OTHER, "width": 1.5, "shape": "hv", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    if chosen is not None and chosen in points.index:
        x, y = points.loc[chosen, [MEMORIZATION, UTILITY]]
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={
                "symbol": "circle-open",
                "size": 24,
                "color": layout.CHOSEN_COLOUR,
                "line": {"width": 2.5},
            },
            hoverinfo="skip",
            showlegend=False,
        )
        if chosen != BASELINE:
            start_x, start_y = points.loc[BASELINE, [MEMORIZATION, UTILITY]]
            figure.add_annotation(
                x=x,
                y=y,
                ax=start_x,
                ay=start_y,
                axref="x",
                ayref="y",
                text="",
                arrowhead=2,
                arrowwidth=2,
                arrowcolor=layout.CHOSEN_COLOUR,
                standoff=12,
                startstandoff=10,
            )
    memorization, utility = map(layout.safe, titles)
    figure.update_xaxes(title=f"← less memorized · {memorization}")
    figure.update_yaxes(title=f"{utility} · more useful →")
    legend = layout.LEGEND_ABOVE | {"title": ""}
    return layout.set_layout(
        figure, 440, legend=legend, dragmode=False, hoverlabel={"align": "left"}
    )


def precision_figure(curves: pd.DataFrame, *, share: float) -> go.Figure:
    """Draw the precision of each detector (dashed: second round) by pairs reviewed, and that of a
    random order."""
    figure = go.Figure()
    for detector, rows in curves.groupby("detector", sort=False):
        name = str(detector)
        first_round = SECOND_ROUND.get(name, name)
        colour = DETECTOR_COLOURS.get(first_round, layout.OTHER)
        dash = "solid" if first_round == name else "dash"
        figure.add_scatter(
            x=rows["number"],
            y=rows["precision"],
            name=words(name),
            mode="lines",
            line={"color": colour, "width": 4 if name == REFERENCE_DETECTOR else 1.8, "dash": dash},
            hovertemplate=f"{words(name)}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=layout.DOTTED)
    ticks = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(
        title="pairs reviewed, the most suspicious first", type="log", tickvals=ticks
    )
    figure.update_yaxes(title="share with an injected error", range=[0, 1.03])
    return layout.set_layout(figure, 380, top=10, dragmode=False)
