"""The points of a comparison of two audits → a Plotly figure: one audit's score against the other's."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.columns import GROUPS, PAIR_ID
from clipmem_core.figures.clouds import safe, short_name
from clipmem_core.figures.colours import group_colour

HEIGHT = 480
ID_LENGTH = 60


def comparison_figure(points: pd.DataFrame, *, column: str, names: tuple[str, str]) -> go.Figure:
    """Draw a dot for each pair, coloured by its group in the first audit, and the line on which nothing changed.

    Args:
        points: pair_id, row_one, row_other, one, other and group_one, a row a pair; the scores in the column's unit.
        column: the score's name.
        names: of the two audits.

    Returns:
        A figure whose points carry row_one, row_other and the pair's id, escaped, as customdata.
    """
    figure = go.Figure()
    for group in _in_order(points["group_one"]):
        _add_group(figure, points[points["group_one"] == group], str(group))
    if len(points):
        ends = [float(np.nanmin(points[["one", "other"]])), float(np.nanmax(points[["one", "other"]]))]
        line = {"color": "#808080", "width": 1, "dash": "dot"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    word = safe(column.replace("_", " "))
    first, second = (safe(name) for name in names)
    figure.update_xaxes(title=f"{word} in {first}", zeroline=False)
    figure.update_yaxes(title=f"{word} in {second}", zeroline=False)
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "itemsizing": "constant"},
        clickmode="event+select",
        dragmode="pan",
        uirevision="kept",
    )
    return figure


def _in_order(groups: pd.Series) -> list[str]:
    """Return the groups that there are, ours in their order and any others behind; drawn from the last to the first."""
    present = list(dict.fromkeys(groups))
    return [*reversed([group for group in GROUPS if group in present]), *(g for g in present if g not in GROUPS)]


def _add_group(figure: go.Figure, points: pd.DataFrame, group: str) -> None:
    name = safe(group)
    shown = [short_name(pair_id, ID_LENGTH) for pair_id in points[PAIR_ID]]
    figure.add_scattergl(
        x=points["one"],
        y=points["other"],
        name=name,
        mode="markers",
        marker={"color": group_colour(group), "size": 5 if len(points) > 1000 else 7, "opacity": 0.6},
        customdata=list(zip(points["row_one"].tolist(), points["row_other"].tolist(), shown, strict=True)),
        hovertemplate="%{customdata[2]}<br>%{x:.3f} → %{y:.3f}<extra>%{fullData.name}</extra>",
    )
