"""The faults of a pipeline that an audit found, and the repair of their pairs.

A repair gives a pair the captions of the pair that has its right ones. It is a neutral recaption:
no person has looked at the pair.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.store import (
    DISPLACED,
    INCIDENT_PAIRS,
    INCIDENTS,
    PAIRS,
    Audit,
    read_table,
)
from clipmem_core.io import InputError
from clipmem_core.review.cards import cards, percent
from clipmem_core.review.decisions import (
    CODES,
    RECAPTION,
    UNDECIDED_CODE,
    Choice,
    Outcome,
    decided,
    open_review,
)
from clipmem_core.review.queries import cached
from clipmem_core.review.wrong_captions import review_progress

_COLUMNS = {INCIDENTS: c.INCIDENT_COLUMNS, INCIDENT_PAIRS: c.INCIDENT_PAIR_COLUMNS}


@cached(8, paths=lambda audit: filter(Path.is_file, map(audit.folder.joinpath, _COLUMNS)))
def read_incidents(audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the incidents of an audit by number, and their pairs; empty if it has none."""
    incidents, pairs = (
        read_table(path)
        if (path := audit.folder / name).is_file()
        else pd.DataFrame(columns=columns, dtype=np.int64)
        for name, columns in _COLUMNS.items()
    )
    return incidents.set_index("number"), pairs


def incident_pairs(audit: Audit) -> pd.DataFrame:
    """Return the pairs of all incidents, and whether each is undecided, has a repair that can be
    stored (`to_repair`), or is repaired."""
    pairs = read_incidents(audit)[1]
    decisions = decided(audit)
    codes = decisions.codes[pairs["row"]]
    has_repair = (pairs["from_row"] >= 0) & (pairs["probability"] >= DISPLACED)
    undecided = codes == UNDECIDED_CODE
    repaired = (codes == CODES[RECAPTION]) & decisions.neutral[pairs["row"]]
    return pairs.assign(
        has_repair=has_repair,
        undecided=undecided,
        to_repair=has_repair & undecided,
        repaired=has_repair & repaired,
    )


def incident_states(audit: Audit) -> pd.DataFrame:
    """Return the incidents by number, the numbers of their undecided, to_repair and repaired pairs,
    and whether they are open."""
    counts = incident_pairs(audit).groupby("number")[["undecided", "to_repair", "repaired"]].sum()
    states = read_incidents(audit)[0].join(counts)
    return states.assign(
        is_open=states["to_repair"].where(states["repairs"] > 0, states["undecided"]) > 0
    )


def state_words(state: Any) -> str:
    """Return what can be done about an incident, a row of `incident_states`, or was done."""
    if state.to_repair:
        return f"Can be repaired: {state.to_repair:,} of {state.pairs:,} pairs."
    if state.repaired:
        return f"Repaired: {state.repaired:,} of {state.pairs:,} pairs."
    return "" if state.repairs else "No repair: review these pairs."


def incidents_line(audit: Audit) -> str:
    """Return how many of the wrong pairs the open incidents explain; empty if none is open."""
    states = incident_states(audit)
    numbers = states.index[states["is_open"]]
    if numbers.empty:
        return ""
    pairs = incident_pairs(audit)
    rows = pairs["row"][pairs["undecided"] & pairs["number"].isin(numbers)].unique()
    progress = review_progress(audit)
    explained = 0.0
    if progress.probabilities is not None and progress.remaining is not None:
        explained = min(progress.probabilities[rows].sum(), progress.remaining)
    if round(explained) == 0:
        return f"Faults of the pipeline: {len(numbers):,}, with {len(rows):,} pairs."
    faults = "1 fault explains" if len(numbers) == 1 else f"{len(numbers):,} faults explain"
    return f"{faults} {explained:,.0f} of about {progress.remaining:,.0f} wrong pairs."


def repairs(audit: Audit, number: int) -> pd.DataFrame:
    """Return the repairs of an incident: pair_id, from_pair_id, probability."""
    pairs = _pairs_of(audit, [number], "has_repair")
    ids = audit.read_columns(PAIRS, c.PAIR_ID)[c.PAIR_ID].to_numpy()
    table = pairs.assign(pair_id=ids[pairs["row"]], from_pair_id=ids[pairs["from_row"]])
    return table[[c.PAIR_ID, "from_pair_id", "probability"]].reset_index(drop=True)


def find_swap(audit: Audit, row: int) -> dict[str, Any] | None:
    """Return the pair whose captions surely fit the picture of a row that no incident explains;
    `mutual`: the captions of the row fit the other picture too."""
    pairs = read_incidents(audit)[1]
    swaps = pairs[pairs["number"] == 0].set_index("row")
    if row not in swaps.index:
        return None
    other = int(swaps["from_row"][row])
    (card,) = cards(audit, [other])
    return {
        "row": other,
        "pair_id": card.pair_id,
        "caption_key": str(card.caption_key),
        "captions": card.captions,
        "probability": percent(swaps["probability"][row]),
        "mutual": bool(swaps["from_row"].get(other) == row),
    }


def _pairs_of(audit: Audit, numbers: Collection[int], state: str) -> pd.DataFrame:
    """Return the pairs of some incidents that are in a state, a column of `incident_pairs`."""
    known = read_incidents(audit)[0].index
    if unknown := [str(number) for number in numbers if number not in known]:
        raise InputError(
            f"audit {audit.name!r} has no incident {', '.join(unknown)}: it has "
            f"{', '.join(map(str, known)) or 'none'}"
        )
    pairs = incident_pairs(audit)
    return pairs[pairs[state] & pairs["number"].isin(numbers)]


def store_repairs(audit: Audit, numbers: Collection[int]) -> Outcome:
    """Give the undecided pairs of some incidents their right captions, in one event."""
    pairs = _pairs_of(audit, numbers, "to_repair")
    kinds = read_incidents(audit)[0]["kind"]
    notes = {number: f"incident {number}: {kinds[number]}" for number in numbers}
    table = audit.read_columns(PAIRS, c.PAIR_ID, c.CAPTIONS)
    ids = table[c.PAIR_ID].iloc[pairs["row"]]
    captions = table[c.CAPTIONS].iloc[pairs["from_row"]]
    review = open_review(audit)
    current = review.decisions(ids)
    choices = {}
    for pair_id, texts, number in zip(ids, captions, pairs["number"], strict=True):
        now = current[pair_id]
        note = None if now.note else notes[number]
        choices[pair_id] = Choice(RECAPTION, tuple(texts), note, now.entry, neutral=True)
    label = "; ".join(notes.values())
    outcome = review.decide_each(choices, audit=audit.name, note=label)
    if not outcome.pairs:
        raise InputError(f"no pair of {label} is left to repair")
    return outcome
