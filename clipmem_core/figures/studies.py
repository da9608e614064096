"""Figures of studies: encoders, mitigations (utility against memorization) and detectors."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.audit import unit_tables as t
from clipmem_core.figures import layout
from clipmem_core.review.score_breakdown import DEPTH, MEMBERS, PARADIGM_NAMES, SOURCE
from clipmem_core.scores.detection import DETECTORS, RANDOM, REFERENCE, SECOND_ROUND
from clipmem_core.scores.registry import words
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
# Pixels: the plot on a narrow screen (a wider one only spreads the labels), a dot, and a line and
# letter of a label
PLOT_WIDTH = 300
PLOT_HEIGHT = 330
DOT = 9
LINE = 14
LETTER = 6.2
_first_round = [name for name in DETECTORS if name != RANDOM and name not in SECOND_ROUND]
DETECTOR_COLOURS = {RANDOM: layout.OTHER} | dict(
    zip(_first_round, layout.LABEL_COLOURS, strict=False)
)
Line = tuple[str, pd.DataFrame, str, str]  # name, rows, colour and dash


def means_figure(
    means: pd.DataFrame, null: pd.DataFrame, *, title: str, noun: str = "pairs"
) -> go.Figure:
    """Draw the mean of each encoder by name with its interval, and lines at the means of external
    pairs."""
    figure = go.Figure()
    names = list(dict.fromkeys(means["name"]))
    places = {name: len(names) - 1 - row for row, name in enumerate(names)}
    for shift, (encoder, colour) in zip((0.16, -0.16), layout.ENCODER_COLOURS.items(), strict=True):
        rows = means[(means["encoder"] == encoder) & means["mean"].notna()]
        figure.add_scatter(
            x=rows["mean"],
            y=[places[name] + shift for name in rows["name"]],
            error_x=layout.error_bar(rows, colour),
            mode="markers",
            marker={"color": colour, "size": 9},
            name=f"{encoder} encoder",
            customdata=layout.mean_texts(rows),
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )
        for mean in null.loc[(null["encoder"] == encoder) & null["mean"].notna(), "mean"]:
            figure.add_vline(mean, line=layout.DOTTED | {"color": colour})
    counts = means.groupby("name", sort=False)["n"].max()
    labels = [
        f"{layout.short_name(name, NAME_LENGTH)}<br>{counts[name]:,} {noun}" for name in names
    ]
    figure.update_yaxes(
        tickvals=[places[name] for name in names], ticktext=labels, showgrid=False, zeroline=False
    )
    figure.update_yaxes(range=[-0.6, len(names) - 0.4], fixedrange=True)
    figure.update_xaxes(title=title, zeroline=True, zerolinecolor=layout.OTHER, zerolinewidth=1)
    return layout.set_layout(
        figure, 110 + 44 * len(names), showlegend=True, legend=layout.LEGEND_ABOVE
    )


def line_figure(lines: Iterable[Line], x: str, titles: tuple[str, str]) -> go.Figure:
    """Draw lines of means with their intervals."""
    figure = go.Figure()
    for name, rows, colour, dash in lines:
        if rows.empty:  # a source or paradigm that was not measured
            continue
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
    figure.update_xaxes(title=titles[0], zeroline=False)
    figure.update_yaxes(title=titles[1], zeroline=False)
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
        paper = pd.DataFrame({DEPTH: (0.0, 1.0), "mean": PAPER[paradigm]}).assign(
            low=np.nan, high=np.nan
        )
        lines.append((f"{name}, paper (digitised)", paper, colour, "dash"))
    return line_figure(
        lines, DEPTH, ("relative depth: 0 first layer, 1 last layer", "mean UnitMem")
    )


def label_positions(x: np.ndarray, y: np.ndarray, widths: np.ndarray) -> list[str]:
    """Place the labels of dots so that they overlap neither each other nor a dot; an empty text
    leaves one out.

    Args: the dots and the widths of their labels in pixels, [n] each; the first ones are placed
    first.
    """
    dots = np.column_stack([x - DOT, y - DOT, x + DOT, y + DOT])
    labels: list[np.ndarray] = []
    positions = []
    for row, width in enumerate(widths):
        obstacles = np.array([*np.delete(dots, row, axis=0), *labels]).reshape(-1, 4)
        position = ""
        for where, box in _boxes_around(x[row], y[row], width):
            inside = box[:2].min() >= 0 and box[2] <= PLOT_WIDTH and box[3] <= PLOT_HEIGHT
            apart = (box[:2] >= obstacles[:, 2:]) | (box[2:] <= obstacles[:, :2])
            if inside and apart.any(axis=1).all():
                position = where
                labels.append(box)
                break
        positions.append(position)
    return positions


def _boxes_around(x: float, y: float, width: float) -> Iterator[tuple[str, np.ndarray]]:
    """Yield Plotly's text positions around a dot, with the box of the label: left, bottom, right,
    top."""
    places = [("top", y + DOT), ("bottom", y - DOT - LINE)]
    for vertical, bottom in places if y > PLOT_HEIGHT / 2 else reversed(places):
        for horizontal, left in (("right", x), ("left", x - width), ("center", x - width / 2)):
            yield f"{vertical} {horizontal}", np.array([left, bottom, left + width, bottom + LINE])


def tradeoff_figure(
    points: pd.DataFrame,
    *,
    titles: tuple[str, str],
    front: Sequence[str],
    chosen: str | None = None,
) -> go.Figure:
    """Draw each arm with its intervals and lines of text on hover, the Pareto front, and an arrow
    to the chosen arm."""
    figure = go.Figure()
    by_arm = points.set_index(ARM)
    ranges = []
    for axis in (MEMORIZATION, UTILITY):
        ends = points[[axis, f"{axis}_low", f"{axis}_high"]].to_numpy(dtype=float)
        low = np.nanmin(ends)
        high = np.nanmax(ends)
        margin = 0.12 * (high - low) or 0.05
        ranges.append((low - margin, high + margin))
    order = [
        *dict.fromkeys(
            arm for arm in (chosen, BASELINE, *front, *by_arm.index) if arm in by_arm.index
        )
    ]
    labels = [
        layout.short_name(arm.replace("_", " ").replace("-", " "), NAME_LENGTH) for arm in order
    ]
    x_pixels, y_pixels = (
        (by_arm.loc[order, axis].to_numpy(dtype=float) - low) / (high - low) * size
        for axis, (low, high), size in zip(
            (MEMORIZATION, UTILITY), ranges, (PLOT_WIDTH, PLOT_HEIGHT), strict=True
        )
    )
    positions = label_positions(
        x_pixels, y_pixels, np.array([LETTER * len(label) for label in labels])
    )
    placed = {
        arm: (label, where) for arm, label, where in zip(order, labels, positions, strict=True)
    }
    best = by_arm.loc[list(front)]
    line = {"color": layout.OTHER, "width": 1.5, "shape": "hv", "dash": "dot"}
    figure.add_scatter(
        x=best[MEMORIZATION],
        y=best[UTILITY],
        mode="lines",
        line=line,
        hoverinfo="skip",
        showlegend=False,
    )
    is_baseline = points[ARM] == BASELINE
    on_front = points[ARM].isin(front)
    for name, rows, colour, symbol in (
        ("dominated", points[~is_baseline & ~on_front], layout.OTHER, "circle"),
        ("Pareto-optimal", points[~is_baseline & on_front], layout.FRONT_COLOUR, "circle"),
        (
            "baseline",
            points[is_baseline],
            layout.FRONT_COLOUR if BASELINE in front else layout.OTHER,
            "diamond",
        ),
    ):
        if rows.empty:
            continue
        bars = {}
        for error, measure in (("error_x", MEMORIZATION), ("error_y", UTILITY)):
            means = rows[[measure, f"{measure}_low", f"{measure}_high"]].set_axis(
                ["mean", "low", "high"], axis=1
            )
            bars[error] = layout.error_bar(means, colour) | {"thickness": 1, "width": 0}
        figure.add_scatter(
            x=rows[MEMORIZATION],
            y=rows[UTILITY],
            **bars,
            name=name,
            mode="markers+text",
            marker={"color": colour, "symbol": symbol, "opacity": 1, "size": 11},
            text=[placed[arm][0] if placed[arm][1] else "" for arm in rows[ARM]],
            textposition=[placed[arm][1] or "top right" for arm in rows[ARM]],
            textfont={"size": 11},
            customdata=["<br>".join(map(layout.safe, lines)) for lines in rows[TEXT]],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if chosen is not None and chosen in by_arm.index:
        x, y = by_arm.loc[chosen, [MEMORIZATION, UTILITY]]
        ring = {
            "symbol": "circle-open",
            "size": 24,
            "color": layout.CHOSEN_COLOUR,
            "line": {"width": 2.5},
        }
        figure.add_scatter(
            x=[x], y=[y], mode="markers", marker=ring, hoverinfo="skip", showlegend=False
        )
        if chosen != BASELINE and BASELINE in by_arm.index:
            start_x, start_y = by_arm.loc[BASELINE, [MEMORIZATION, UTILITY]]
            figure.add_annotation(
                **{
                    "x": x,
                    "y": y,
                    "ax": start_x,
                    "ay": start_y,
                    "xref": "x",
                    "yref": "y",
                    "axref": "x",
                    "ayref": "y",
                },
                **{
                    "showarrow": True,
                    "text": "",
                    "arrowhead": 2,
                    "arrowwidth": 2,
                    "arrowcolor": layout.CHOSEN_COLOUR,
                },
                **{"standoff": 12, "startstandoff": 10},
            )
    figure.update_xaxes(
        title=f"← less memorized · {layout.safe(titles[0])}", zeroline=False, range=ranges[0]
    )
    figure.update_yaxes(
        title=f"{layout.safe(titles[1])} · more useful →", zeroline=False, range=ranges[1]
    )
    return layout.set_layout(
        figure, 440, legend=layout.LEGEND_ABOVE, dragmode=False, hoverlabel={"align": "left"}
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
            line={"color": colour, "width": 4 if name == REFERENCE else 1.8, "dash": dash},
            hovertemplate=f"{words(name)}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=layout.DOTTED)
    ticks = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(
        title="pairs reviewed, the most suspicious first", type="log", tickvals=ticks
    )
    figure.update_yaxes(title="share with an injected error", range=[0, 1.03], zeroline=False)
    return layout.set_layout(figure, 380, top=10, dragmode=False)
