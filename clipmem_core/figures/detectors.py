"""Figures of detectors: precision against the number of pairs reviewed, and how far detectors agree."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clipmem_core.figures.colours import LABEL_COLOURS, OTHER
from clipmem_core.figures.layout import DOTTED, laid_out
from clipmem_core.scores.detection import DETECTORS, RANDOM, REFERENCE, SECOND_ROUND
from clipmem_core.scores.registry import words

HEIGHT = 380
_AGREE = ((0.0, "#d5552a"), (0.5, "#808080"), (1.0, "#1479b8"))  # −1, 0 and 1
COLOURS: Mapping[str, str] = {RANDOM: OTHER} | dict(
    zip((name for name in DETECTORS if name != RANDOM and name not in SECOND_ROUND), LABEL_COLOURS, strict=False)
)


def precision_figure(curves: pd.DataFrame, *, share: float) -> go.Figure:
    """Draw the precision of each detector against how many pairs are reviewed; the reference is the wide line, and what
    is by a second round of training is dashed.

    Args:
        curves: detector, number and precision, of one kind and share.
        share: of the pairs that are planted, which is the precision of a random order.
    """
    figure = go.Figure()
    for name, own in curves.groupby("detector", sort=False):
        first = SECOND_ROUND.get(str(name), str(name))
        dash = "solid" if first == name else "dash"
        figure.add_scatter(
            x=own["number"],
            y=own["precision"],
            name=words(str(name)),
            mode="lines",
            line={"color": COLOURS.get(first, OTHER), "width": 4 if name == REFERENCE else 1.8, "dash": dash},
            hovertemplate=f"{words(str(name))}: %{{y:.3f}} of the first %{{x:,}}<extra></extra>",
        )
    figure.add_hline(share, line=DOTTED)
    # Told one by one: of a single tick Plotly cannot tell where its text goes.
    told = [first * 10**power for power in range(7) for first in (1, 2, 5)]
    figure.update_xaxes(title="pairs reviewed, the most suspicious first", type="log", tickvals=told)
    figure.update_yaxes(title="of these planted", range=[0, 1.03], zeroline=False)
    return laid_out(figure, HEIGHT, top=10, dragmode=False)


def agreement_figure(correlations: pd.DataFrame) -> go.Figure:
    """Draw the rank correlation of every two detectors as coloured squares with their numbers.

    Args:
        correlations: square, detectors on both sides.
    """
    names = [words(str(name)) for name in correlations]
    values = correlations.to_numpy()
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale=_AGREE,
            text=[[_told(value) for value in row] for row in values],
            texttemplate="%{text}",
            textfont={"color": "#ffffff"},
            hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
            colorbar={"title": "Spearman", "thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    figure.update_xaxes(fixedrange=True)
    return laid_out(figure, 110 + 42 * len(names), top=10)


def _told(value: float) -> str:
    """Return a correlation as it is written, without a minus before nothing."""
    return "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
