"""UnitMem on the page Encoders: by layer and under three paradigms, or how to measure it."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from clipmem_core.audit import paradigms as p
from clipmem_core.audit import unitmem as t
from clipmem_core.audit.jobs import PARADIGMS, UNITS, encoder_task
from clipmem_core.audit.store import Audit
from clipmem_core.columns import MEMBER
from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import draw_fault, explained_errors
from clipmem_core.dashboard.running import draw_job
from clipmem_core.figures.studies import paradigm_figure, unitmem_figure
from clipmem_core.review.overview import locked_towers
from clipmem_core.review.score_breakdown import claim_1, paradigm_layers, tower_layers

CHART = {"displayModeBar": False}
MISSING = {  # by kind of job: why there is nothing to show yet, and its button
    UNITS: ("UnitMem has not been measured in this audit yet.", "Measure units"),
    PARADIGMS: (
        "The image encoder has not been trained with captions, labels and self-supervision yet. This trains up to nine "
        "models of the audit's size.",
        "Train three ways",
    ),
}
UNITMEM_MEANING = (
    "UnitMem of a unit: (max − mean of the other pairs) / (max + mean of the other pairs) over its activations; 1 is a "
    "unit that fires for one pair alone. Shown is the mean over the units of a layer; bars go from the lowest to the "
    "highest member. Only the part above the dashed lines, before training and for pairs never trained on, can be "
    "memorization."
)
PARADIGMS_MEANING = (
    "The same image encoder on the same pictures, trained with captions (CLIP), labels and self-supervision (SimCLR); "
    "bars are 95 % intervals from three seeds on. Dashed: the paper's first and last layer (digitised), of other "
    "models on other data: compare the order of the paradigms and the rise with depth, not the height."
)


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer, or the button that measures it."""
    st.subheader("UnitMem by layer", anchor=False)
    if locked := locked_towers(audit.record.config):
        st.info(
            "UnitMem and the three paradigms need encoders that are trained on the pairs: audit the data set with "
            f"another preset, such as small. Locked here: {' and '.join(locked)}.",
            icon=":material/lock:",
        )
        return
    units = t.read_units(audit)
    if units is None or _is_running(audit, UNITS):
        _draw_job(audit, UNITS, lambda: t.read_units(audit) is not None)
    if units is None:
        return
    references = t.read_units(audit, t.REFERENCES)
    layers = tower_layers(units, references, column=t.UNITMEM_MEAN)
    st.plotly_chart(unitmem_figure(layers), key="units", config=CHART, alt="Mean UnitMem of both encoders by layer")
    members = f"{units[MEMBER].nunique()} of {len(audit.record.members)} members"
    st.caption(f"{UNITMEM_MEANING} Measured on {members} and all pairs that each trained on.")


def draw_paradigms(audit: Audit) -> None:
    """Draw UnitMem under the three paradigms, or the button that trains them; nothing if a tower is locked."""
    if locked_towers(audit.record.config):
        return
    st.subheader("Claim 1: three paradigms", anchor=False)
    try:
        table = p.read_paradigms(audit)
    except (OSError, ValueError):
        table = pd.DataFrame()
    if table is not None and not set(table.columns) >= {p.PARADIGM, p.SEED, t.LAYER, t.UNITMEM_MEAN}:
        raise InputError(f"{p.paradigms_folder(audit)} holds a broken table: delete it and run the command again")
    if table is None or _is_running(audit, PARADIGMS):
        _draw_job(audit, PARADIGMS, lambda: p.read_paradigms(audit) is not None)
    if table is not None:
        figure = paradigm_figure(paradigm_layers(table, column=t.UNITMEM_MEAN))
        sentence = claim_1(table, column=t.UNITMEM_MEAN)
        st.plotly_chart(figure, key="paradigms", config=CHART, alt=f"Mean UnitMem by depth. {sentence}")
        st.markdown(sentence)
        st.caption(PARADIGMS_MEANING)


def _is_running(audit: Audit, kind: str) -> bool:
    job = encoder_task(audit, kind).find()
    return job is not None and job.running


@st.fragment(run_every=2)
def _draw_job(audit: Audit, kind: str, is_done: Callable[[], bool]) -> None:
    """Draw the button that starts a measurement, or every two seconds its progress; rerun the page once it is done."""
    with explained_errors():
        job = encoder_task(audit, kind).find()
        if job is not None and job.running:
            draw_job(job, key=f"cancel-{kind}")
            return
        if is_done():
            st.rerun()
        reason, label = MISSING[kind]
        if job is not None and job.failed:
            draw_fault("The job failed.", job.last_line)
        else:
            st.info(reason, icon=":material/info:")
        task = encoder_task(audit, kind)
        if st.button(label, key=kind, type="primary", icon=":material/play_arrow:"):
            task.start()
            st.rerun()
        st.caption("Command line:")
        st.code(task.typed, language="bash")
