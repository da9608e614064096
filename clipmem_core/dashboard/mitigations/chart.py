"""The chart of a study of mitigations: utility against memorization of every arm, or both against one setting.

?figure=setting&memorization=membership_auroc&utility=zero_shot&paper=1   what is shown, kept in the address
"""

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from clipmem_core.dashboard.address import PAGE, choose_listed, choose_segment, write
from clipmem_core.dashboard.mitigations.study_data import (
    MEMORIZATIONS,
    NAMES,
    UTILITIES,
    VALUE,
    Against,
    against_of,
    found_once,
    measures_of,
    paper_of,
    points_of,
    rows_of,
    with_interval,
)
from clipmem_core.dashboard.plain import show_text
from clipmem_core.figures.tradeoff import LINE, MEMORIZATION, PLACE, UTILITY, against_figure, tradeoff_figure
from clipmem_core.scores.seeds import MIN_REPLICATES
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.effects import counted, front, replicates
from clipmem_core.studies.results import sentences
from clipmem_core.studies.store import ARM, StudyFolder

FIGURE, MEMORIZED, USEFUL, PAPER = "figure", "memorization", "utility", "paper"  # in the address
TRADEOFF, SETTING = "tradeoff", "setting"
CLICKS = "mitigation-clicks"  # how often a dot was chosen
FIXED = {"displayModeBar": False}
RESCALED = (
    "Dashed: the paper (ViT-Base on COCO; its utility is a linear probe on ImageNet). It divides its clipmem by the "
    "range of its run, so each value is divided by that of its own none and multiplied by ours: only shapes compare."
)
DEVIATION = "The band is its standard deviation there."


def draw_chart(study: StudyFolder, chosen: str | None) -> None:
    """Draw a study's chart with the choices of what it shows, and what came out of the study in words.

    Args:
        study: of mitigations; its reference arm is `none`.
        chosen: an arm that has rows, to stand out; None for none of them.

    Raises:
        InputError: a file of the study is broken or lacks what is drawn.
    """
    rows = rows_of(study)
    if rows.empty:
        return
    against = against_of(study, rows[ARM].unique().tolist())
    shown = {TRADEOFF: "Trade-off"} | ({} if against is None else {SETTING: "Against the setting"})
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        memorized, useful = (
            choose_listed(
                label,
                list(names),
                parameter=parameter,
                key=f"mitigation-{parameter}",
                width=width,
                named=names.__getitem__,
            )
            for label, names, parameter, width in (
                ("Memorization", measures_of(rows, MEMORIZATIONS), MEMORIZED, 250),
                ("Utility", measures_of(rows, UTILITIES), USEFUL, 150),
            )
        )
        figure = choose_segment("Figure", shown, parameter=FIGURE, key=f"mitigation-figure-{len(shown)}", hidden=True)
    points = points_of(study, memorized, useful)
    if points.empty:
        st.info("No arm has both measures: choose others.", icon=":material/info:")
        return
    paper, titles = paper_of(study, points, memorized), (NAMES[memorized], NAMES[useful])
    if against is not None and figure == SETTING:
        _draw_against(study, against, points, paper, titles, chosen)
    else:
        _draw_tradeoff(study, points, paper, titles, chosen)
    for sentence in found_once(study, sentences):
        show_text(sentence)


def _draw_tradeoff(
    study: StudyFolder, points: pd.DataFrame, paper: pd.DataFrame | None, titles: tuple[str, str], chosen: str | None
) -> None:
    paper = _overlaid(None if paper is None else paper.dropna(subset=[MEMORIZATION]))
    best, settings = front(points, MEMORIZATION, UTILITY), study.settings
    figure = tradeoff_figure(points, titles=titles, front=best, none=NONE, chosen=chosen, paper=paper)
    # Each choice makes another widget, so that what a browser still sends of the last one chooses nothing.
    clicks = st.session_state.setdefault(CLICKS, 0)
    key = f"mitigation-chart-{study.name}-{clicks}"
    st.plotly_chart(
        figure,
        key=key,
        on_select=functools.partial(_click, key, clicks, [settings.get(arm) for arm in points[ARM]]),
        selection_mode="points",
        config=FIXED,
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. "
        f"{_values(points[points[ARM].isin([NONE, chosen])], titles)} "
        f"Pareto-optimal, from the least memorized: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is the mean of an arm{_over(points, study)}.{_cut(figure, points)} The line joins the "
        "Pareto-optimal arms. Click a dot to choose its setting. What a seed does to all arms alike is in "
        "these intervals; the differences in the table are paired, and free of it. "
        f"{RESCALED if paper is not None else ''}".strip()
    )


def _cut(figure: go.Figure, points: pd.DataFrame) -> str:
    """Say so where a bar is longer than the figure shows."""
    axes = ((figure.layout.xaxis.range, MEMORIZATION), (figure.layout.yaxis.range, UTILITY))
    cut = any(
        (points[f"{name}_low"] < low).any() or (points[f"{name}_high"] > high).any() for (low, high), name in axes
    )
    return " A bar far longer than most is cut at the edge." if cut else ""


def _click(key: str, clicks: int, settings: Sequence[str | None]) -> None:
    """Choose the setting of the dot that was clicked on, if it is an arm's. A callback.

    Args:
        key: of the chart.
        clicks: how many choices there were when it was drawn.
        settings: the text of each arm, None where no setting can say it.
    """
    event: Any = st.session_state.get(key) or {}
    dots = (event.get("selection") or {}).get("points") or [{}]
    row = (dots[-1].get("customdata") or [None])[0]
    if row is None or clicks != st.session_state.get(CLICKS) or not 0 <= int(row) < len(settings):
        return
    setting = settings[int(row)]
    if setting is not None:
        st.session_state[CLICKS] = clicks + 1
        write(setting=setting or None, **{PAGE: None})


def _draw_against(
    study: StudyFolder,
    against: Against,
    points: pd.DataFrame,
    paper: pd.DataFrame | None,
    measures: tuple[str, str],
    chosen: str | None,
) -> None:
    paper = _overlaid(paper)
    lines, titles = against.places.merge(points, on=ARM), (against.title, *measures)
    ticks = against.ticks | ({} if paper is None else dict(zip(paper[PLACE], paper[VALUE], strict=True)))
    st.plotly_chart(
        against_figure(lines, titles=titles, ticks=ticks, chosen=chosen, paper=paper),
        key="mitigation-against",
        config=FIXED,
        alt=f"{titles[1]} and {titles[2]} against {titles[0]}. {_values(lines, measures)}",
    )
    rescaled = "" if paper is None else RESCALED if paper[LINE].nunique() > 1 else f"{RESCALED} {DEVIATION}"
    bars = f"Each dot is the mean of an arm{_over(points, study)}."
    st.caption(f"{bars} Arms that change something else too are left out. {rescaled}".strip())


def _overlaid(paper: pd.DataFrame | None) -> pd.DataFrame | None:
    """Draw the toggle of the paper's curve where there is one, and return it where it is on."""
    if paper is None or paper.empty:
        return None
    st.session_state["mitigation-paper"] = on = st.query_params.get(PAPER) == "1"
    st.toggle("The paper's own curve, rescaled", key="mitigation-paper", on_change=_keep_paper)
    return paper if on else None


def _keep_paper() -> None:
    write(**{PAPER: "1" if st.session_state["mitigation-paper"] else None})


def _over(points: pd.DataFrame, study: StudyFolder) -> str:
    """Say how many splits or seeds the intervals are over, and who has none."""
    fewest, most = int(points["n"].min()), int(points["n"].max())
    if most < MIN_REPLICATES:
        return f" over {counted(most, study.arms)} so far: too few for an interval"
    least = max(fewest, MIN_REPLICATES)
    seeds = f"{most}" if least == most else f"{least} to {most}"
    few = f"; those with fewer than {MIN_REPLICATES} have none" if fewest < MIN_REPLICATES else ""
    return f" with its 95 % interval over {seeds} {replicates(study.arms)}{few}"


def _values(points: pd.DataFrame, titles: tuple[str, str]) -> str:
    """Say what the chart shows of arms to those who cannot see it."""
    parts = [
        f"{row[ARM]}: "
        + ", ".join(
            f"{title} {with_interval(row[part], row[f'{part}_low'], row[f'{part}_high'])}"
            for part, title in zip((MEMORIZATION, UTILITY), titles, strict=True)
        )
        for row in points.to_dict("records")
    ]
    return f"{'; '.join(parts)}." if parts else ""
