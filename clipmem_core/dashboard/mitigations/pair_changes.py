"""The candidates whose clipmem an arm of a study changed most beside `none`, as cards: without and with it."""

import functools
import math
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import SCORES, Audit
from clipmem_core.columns import CANDIDATE, CLIPMEM, EXTERNAL, GROUP, N_IN, PAIR_ID
from clipmem_core.dashboard.address import PAGE, choose_segment, draw_pages, read_page
from clipmem_core.dashboard.cards import Sides, draw_change_cards
from clipmem_core.dashboard.comparing import finished_audits, same_data_set, settings_of
from clipmem_core.review.tables import ROW, Version, fetch_arrow, fetch_rows, number, version_of
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.store import StudyFolder

DIRECTION = "changed"  # in the address
FELL, ROSE = "fell", "rose"
DIRECTIONS = {FELL: "Memorized less", ROSE: "Memorized more"}
SIZE = 12
LITTLE = 0.005  # needs no word: the third digit
LIMIT = 96  # pairs of each direction


def draw_changed_pairs(study: StudyFolder, chosen: str | None) -> None:
    """Draw the candidates whose clipmem fell most from `none` to an arm, or rose most, a page of them.

    Args:
        study: of mitigations.
        chosen: an arm that has rows, or None.

    Raises:
        InputError: a file of either audit is missing or broken.
    """
    if chosen is None or chosen == NONE:
        return
    one, other = study.audit(NONE), study.audit(chosen)
    st.subheader("Pairs that changed most", anchor=False)
    if not (one.finished and other.finished):
        st.caption("The pairs come when both arms have all that they are being trained on.")
        return
    both = one, version_of(one), other, version_of(other)
    changes = changes_of(*both)
    if changes.empty:
        st.caption("No candidate was trained on in both arms.")
        return
    key = "mitigation-direction"
    direction = choose_segment("Direction", DIRECTIONS, parameter=DIRECTION, key=key, hidden=True, clears=[PAGE])
    fell, rose = changes[changes["difference"] < 0], changes[changes["difference"] > 0].iloc[::-1]
    moved = f"External pairs, which nobody memorized, moved by {moved_by(*both):+z.3f} as well.".replace("-", "−")
    st.caption(
        f"clipmem fell for {len(fell):,} of {len(changes):,} candidates that both arms trained on. The largest changes "
        "are partly chance: what is high in one run tends to be less in another. "
        f"{moved if abs(moved_by(*both)) >= LITTLE else ''} {_seeds(one, other)}"
        f"{' These are the pairs of the first split.' if study.seeds_per_split else ''}"
    )
    shown = (rose if direction == ROSE else fell).head(LIMIT)
    if shown.empty:
        st.caption("None did.")
        return
    page, pages = read_page(len(shown), SIZE)
    # A pair opens in the newest audit of the data folder that has the same pairs, if there is one.
    same = next((audit for audit in finished_audits() if same_data_set(one, audit)), None)
    links = {"Open pair": same} if same else {}
    sides = Sides(one, other, names=("without", "with"), in_other="with it", links=links)
    records = shown.iloc[(page - 1) * SIZE : page * SIZE].to_dict("records")
    draw_change_cards(sides, CLIPMEM, records, key="mitigation")
    draw_pages(page, pages, key="mitigation-pages")


@functools.lru_cache(maxsize=8)
def moved_by(one: Audit, version_one: Version, other: Audit, version_other: Version) -> float:
    """Return how far the mean clipmem of external pairs, which nobody memorized, differs: an offset of all pairs.

    Args: as of `changes_of`.
    """
    value = number(CLIPMEM)
    query = f"SELECT avg({value}) FROM parquet WHERE \"{GROUP}\" = '{EXTERNAL}' AND isfinite({value})"
    means = [fetch_rows(audit.folder / SCORES, query)[0][0] for audit in (one, other)]
    return math.nan if None in means else float(means[1] - means[0])


@functools.lru_cache(maxsize=8)
def changes_of(one: Audit, version_one: Version, other: Audit, version_other: Version) -> pd.DataFrame:
    """Return how the clipmem of every candidate that both arms trained on differs, what fell most first.

    Args:
        one: the audit of `none`.
        version_one: of its files, as are all results kept under it.
        other: the arm's audit.
        version_other: of its files.

    Returns:
        row_one, row_other, one, other and difference (other − one), in cosine units.
    """
    columns = f'{PAIR_ID}, {ROW} AS row, {number(CLIPMEM)} AS value, {number(N_IN)} AS n_in, "{GROUP}" AS team'
    candidates = f"SELECT {columns} FROM parquet WHERE team = '{CANDIDATE}' AND n_in > 0 AND isfinite(value)"
    theirs = fetch_arrow(other.folder / SCORES, candidates)
    query = f"""
        SELECT ours.row AS row_one, theirs.row AS row_other, ours.value AS one, theirs.value AS other,
            theirs.value - ours.value AS difference
        FROM ({candidates}) AS ours JOIN theirs USING ({PAIR_ID}) ORDER BY difference, row_one
    """
    return fetch_arrow(one.folder / SCORES, query, theirs=theirs).to_pandas()


def _seeds(one: Audit, other: Audit) -> str:
    """Say what seeds the scores are means over."""
    ours: Any
    ours, theirs = (settings_of(audit).get("seeds") for audit in (one, other))
    if ours == theirs:
        return f"Scores are means over the {ours} seeds of both." if ours > 1 else "Scores are of one seed."
    return f"Scores of none are means over {ours} seeds, those of the arm over {theirs}: part of a change may be that."
