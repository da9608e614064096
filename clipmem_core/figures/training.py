"""The losses of an audit's members while they train → a figure with one line a member."""

import html
import re

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import CANDIDATE, INDEPENDENT
from clipmem_core.figures.colours import GROUP_COLOURS, OTHER

SIDE_COLOURS = {"f": GROUP_COLOURS[CANDIDATE], "g": GROUP_COLOURS[INDEPENDENT]}  # after the group that only it sees
FOLD_COLOURS = ["#5b6fd6", "#b0662a", "#1f8f8a", "#b8528f", "#6f8a1f", "#8a6a5c"]
DASHES = ["solid", "dash", "dot", "dashdot"]


def member_style(name: str) -> tuple[str, str]:
    """Return the colour and the dash of a member's line: colour by side or fold, dash by seed or repeat.

    Example:
        >>> member_style("r1-f0") == (FOLD_COLOURS[0], "dash"), member_style("g-0") == (SIDE_COLOURS["g"], "solid")
        (True, True)
    """
    if side := re.fullmatch(r"([fg])-(\d+)", name):
        return SIDE_COLOURS[side[1]], DASHES[int(side[2]) % len(DASHES)]
    if fold := re.fullmatch(r"r(\d+)-f(\d+)", name):
        return FOLD_COLOURS[int(fold[2]) % len(FOLD_COLOURS)], DASHES[int(fold[1]) % len(DASHES)]
    return OTHER, DASHES[0]


def loss_figure(losses: pd.DataFrame) -> go.Figure:
    """Draw the loss of each member over its epochs.

    Args:
        losses: member, epoch, loss; a member's rows in the order of its epochs.
    """
    figure = go.Figure()
    for name, rows in losses.groupby("member", sort=False):
        colour, dash = member_style(str(name))
        shown = html.escape(str(name))
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["loss"],
            name=shown,
            mode="lines" if len(rows) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"color": colour, "size": 7},
            hovertemplate=f"{shown}, epoch %{{x:.1f}}: loss %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="loss", zeroline=False)
    figure.update_layout(
        height=260,
        margin={"l": 0, "r": 10, "t": 10, "b": 0},
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure
