"""The studies that come with the code, in the figures and the table of one's own, where there is none of those yet."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.dashboard.address import choose_listed
from clipmem_core.dashboard.mitigations.chart import FIXED, MEMORIZED, USEFUL
from clipmem_core.dashboard.mitigations.differences import draw_table
from clipmem_core.dashboard.mitigations.study_data import MEMORIZATIONS, NAMES, UTILITIES, with_interval
from clipmem_core.dashboard.mitigations.study_progress import PARAMETER, PLANS, shown_errors
from clipmem_core.dashboard.plain import show_text
from clipmem_core.figures.tradeoff import MEMORIZATION, TOLD, UTILITY, tradeoff_figure
from clipmem_core.studies.effects import front
from clipmem_core.studies.reference import ReferenceStudy, outcome, reference_studies
from clipmem_core.studies.store import ARM

PARTS = ["value", "difference", "low", "high"]
MORE = (
    "A table of results has no single seeds. Toggles of settings, the paper's own curve, the figure against one "
    "setting and the pairs that changed are there for a study of your own: start one."
)


def draw_references() -> None:
    """Draw the reference studies to choose one from, and the one that the address asks for, or else the first."""
    with shown_errors():
        named = {study.name: study for study in reference_studies(PLANS)}
        if not named:
            st.info("There is no study of mitigations yet: start one.", icon=":material/science:")
            return
        st.info(
            "There is no study of yours yet. This is one that comes with the code: read it, or start one.",
            icon=":material/menu_book:",
        )
        name = choose_listed("Study", list(named), parameter=PARAMETER, key="mitigations-reference", width=400)
        _draw(named[name])


def _draw(study: ReferenceStudy) -> None:
    show_text(study.told)
    measured = set(study.rows["measure"])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        memorized, useful = (
            choose_listed(
                label,
                [name for name in names if name in measured],
                parameter=parameter,
                key=f"reference-{parameter}",
                width=width,
                named=names.__getitem__,
            )
            for label, names, parameter, width in (
                ("Memorization", MEMORIZATIONS, MEMORIZED, 250),
                ("Utility", UTILITIES, USEFUL, 150),
            )
        )
    points = points_of_table(study, memorized, useful)
    best, titles = front(points, MEMORIZATION, UTILITY), (NAMES[memorized], NAMES[useful])
    st.plotly_chart(
        tradeoff_figure(points, titles=titles, front=best, none=study.reference),
        key=f"reference-chart-{study.name}",
        config=FIXED,
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. Pareto-optimal: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is the mean of an arm. Its bars are the 95 % interval of its difference to {study.reference}, over "
        f"{study.over}. The line joins the Pareto-optimal arms."
    )
    for sentence in study.sentences:
        show_text(sentence)
    outcomes = {arm: outcome(study, arm) for arm in study.arms if arm != study.reference}
    reached = [arm for arm, found in outcomes.items() if found is not None and found.reached]
    draw_table(study.rows, reference=study.reference, reached=reached, over=study.over)
    st.caption(f"{MORE} From a terminal:")
    st.code("python -m clipmem_core study combined SOURCE --name NAME --preset locked", language="bash")


def points_of_table(study: ReferenceStudy, memorized: str, useful: str) -> pd.DataFrame:
    """Return a row an arm as `tradeoff_figure` takes them: means, and the intervals of differences laid about them.

    Args:
        study: of mitigations.
        memorized: a measure of MEMORIZATIONS that it has.
        useful: a measure of UTILITIES that it has.
    """
    found = []
    for arm in study.arms:
        own = study.rows[study.rows[ARM] == arm].set_index("measure")
        if not {memorized, useful} <= set(own.index):
            continue
        row: dict[str, Any] = {ARM: arm}
        lines = [arm]
        for part, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
            value, difference, low, high = (float(own[name][measure]) for name in PARTS)
            row |= {part: value, f"{part}_low": value - difference + low, f"{part}_high": value - difference + high}
            beside = with_interval(difference, low, high, written="+z.3f")
            against = f"; against {study.reference} {beside}" if arm != study.reference else ""
            lines.append(f"{NAMES[measure]} {with_interval(value, float('nan'), 0)}{against}")
        found.append(row | {TOLD: lines, "n": int(own["n"][memorized])})
    return pd.DataFrame(found)
