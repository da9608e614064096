"""An audit → UnitMem of its image encoder under three teachers beside the paper's curves, or how to get it."""

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import PARADIGMS as JOB
from clipmem_core.audits.paradigms import PARADIGM, SEED, paradigms_folder, read_paradigms
from clipmem_core.audits.store import Audit
from clipmem_core.audits.units import UNITMEM_MEAN
from clipmem_core.columns import ONE_SPLIT
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import write
from clipmem_core.dashboard.encoders.waiting import at_work, draw_waiting
from clipmem_core.figures.units import paradigm_figure
from clipmem_core.review.unit_ranks import VARIANTS, claim_1, paradigm_layers
from clipmem_core.scores.uncertainty import MIN_REPLICATES

PAPER, WITHOUT = "paper", "no"  # in the address
KEY = "paradigms-paper"
FIXED = {"displayModeBar": False}
BUTTONS = {"Teach it three ways": 0}
WHY = (
    "The image encoder has not been taught by captions, by labels and by itself yet. That trains up to nine models of "
    "the audit's size; how long it takes is said when it starts."
)
WHAT = (
    "The same image encoder on the same pictures, taught by captions (CLIP), by labels and by itself (SimCLR): mean "
    "UnitMem of each layer."
)
FROM_PAPER = (
    "Dashed: the paper's first and last layer (digitised), of other models on other data: compare the order of the "
    "paradigms and the rise with depth, not the height."
)
COLUMNS = {PARADIGM, SEED, "layer", *VARIANTS.values()}


def draw_paradigms(audit: Audit) -> None:
    """Draw UnitMem under the three paradigms; where none was run, how to get it."""
    st.subheader("Claim 1: three paradigms", anchor=False)
    table = _read(audit)
    if table is None or at_work(audit, JOB):
        draw_waiting(audit, JOB, buttons=BUTTONS, why=WHY, done=lambda one: read_paradigms(one) is not None)
    if table is None:
        return
    st.session_state[KEY] = paper = st.query_params.get(PAPER) != WITHOUT
    st.toggle("The paper's curves", key=KEY, on_change=_keep_paper)
    column = VARIANTS.get(st.query_params.get("variant", ""), UNITMEM_MEAN)
    means, said = paradigm_layers(table, column=column), claim_1(table, column=column)
    st.plotly_chart(
        paradigm_figure(means, paper=paper),
        key="paradigms",
        config=FIXED,
        alt=f"Mean UnitMem of the image encoder by depth under {len(set(means[PARADIGM]))} paradigms. {said}",
    )
    st.markdown(said)
    st.caption(" ".join(part for part in (WHAT, _intervals(table), FROM_PAPER if paper else "") if part))


def _keep_paper() -> None:
    write(**{PAPER: None if st.session_state[KEY] else WITHOUT})


def _read(audit: Audit) -> pd.DataFrame | None:
    """Read the table of the paradigms.

    Raises:
        InputError: it cannot be read, or lacks columns.
    """
    try:
        table = read_paradigms(audit)
    except (OSError, ValueError):
        table = pd.DataFrame()
    if table is not None and not set(table.columns) >= COLUMNS:
        raise InputError(f"{paradigms_folder(audit)} holds a table that is none: delete it and run the command again")
    return table


def _intervals(table: pd.DataFrame) -> str:
    seeds = table.groupby(PARADIGM)[SEED].nunique().min()
    if seeds >= MIN_REPLICATES:
        return f"Bars are 95 % intervals over {seeds} {ONE_SPLIT}."
    return f"{seeds} {'seed is' if seeds == 1 else 'seeds are'} too few for intervals."
