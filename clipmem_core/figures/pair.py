"""The terms of one pair's score, member by member → a Plotly figure with a dot for each."""

import html
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import ALIGNMENT, NEGATIVE_IMAGE, NEGATIVE_TEXT, POSITIVE, SIMILARITY

IN, OUT = "in", "out"
TERM_NAMES = {  # as the figure and the tables name them, and in the order they are added up
    POSITIVE: "positive",
    NEGATIVE_TEXT: "negative text",
    NEGATIVE_IMAGE: "negative image",
    ALIGNMENT: "alignment",
    SIMILARITY: "similarity",
}
OFFSETS = {IN: 0.17, OUT: -0.17}  # above and below a term's line


def term_figure(members: pd.DataFrame, *, colour: str, names: Mapping[str, str]) -> go.Figure:
    """Draw each term with and without the pair in training: a dot a member, a bar at the mean of each side.

    Args:
        members: member, side (`in` or `out`) and a column for each of `TERM_NAMES`, in cosine units.
        colour: of the pair's group.
        names: side → what the legend calls it.
    """
    figure = go.Figure()
    for side in (IN, OUT):
        table = members[members["side"] == side]
        if not table.empty:
            _add_side(figure, table, side, colour=colour, name=html.escape(names[side]))
    figure.add_vline(0, line={"color": "#808080", "width": 1, "dash": "dot"})
    places = list(range(len(TERM_NAMES)))
    figure.update_yaxes(tickvals=places, ticktext=list(TERM_NAMES.values()), zeroline=False, showgrid=True)
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], fixedrange=True)
    figure.update_xaxes(title="cosine units", zeroline=False, fixedrange=True)
    figure.update_layout(height=330, margin={"l": 0, "r": 10, "t": 10, "b": 0})
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return figure


def _add_side(figure: go.Figure, table: pd.DataFrame, side: str, *, colour: str, name: str) -> None:
    """Draw one side: full dots for the members with the pair, rings for those without, and a bar at each mean."""
    symbol = "circle" if side == IN else "circle-open"
    hover = [html.escape(str(member)) for member in table["member"]]
    for place, term in enumerate(TERM_NAMES):
        height = place - OFFSETS[side]  # the axis runs downwards
        shared = {"legendgroup": side, "showlegend": False, "mode": "markers"}
        figure.add_scatter(
            x=[table[term].mean()],
            y=[height],
            marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}},
            hovertemplate=f"{name}: mean {TERM_NAMES[term]} %{{x:.3f}}<extra></extra>",
            **shared,
        )
        figure.add_scatter(
            x=table[term],
            y=[height] * len(table),
            name=name,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=hover,
            hovertemplate=f"%{{customdata}}: {TERM_NAMES[term]} %{{x:.3f}}<extra>{name}</extra>",
            **shared | {"showlegend": place == 0},
        )
