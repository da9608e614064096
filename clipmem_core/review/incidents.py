"""The faults of a pipeline that an audit found, and the repair of their pairs.

Each incident has one decision: repair, remove or keep. A repair gives a pair the captions of the
pair that has its right ones. The decision is neutral: no person has looked at each pair.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    PAIRS,
    Audit,
    read_table,
)
from clipmem_core.errors.runs import LIKELY
from clipmem_core.review.cards import cards, percent
from clipmem_core.review.decisions import (
    KEEP,
    RECAPTION,
    REMOVE,
    UNDECIDED_CODE,
    Choice,
    Outcome,
    decided,
    open_review,
)
from clipmem_core.review.queries import cached, fetch_pairs
from clipmem_core.review.wrong_captions import review_progress
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

REPAIR = "repair"
ACTIONS = (REPAIR, REMOVE, KEEP)
_NO_CAPTION = f"WHERE \"{c.CHECK}\" NOT IN ('', '{c.REPEATED_PICTURE}')"
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
    """Return the pairs of all incidents, and whether each is undecided, has a repair, can be
    repaired (`to_repair`), or was decided with its incident (`settled`)."""
    pairs = read_incidents(audit)[1]
    decisions = decided(audit)
    codes = decisions.codes[pairs["row"]]
    has_repair = (pairs["from_row"] >= 0) & (pairs["probability"] >= LIKELY)
    undecided = codes == UNDECIDED_CODE
    return pairs.assign(
        has_repair=has_repair,
        undecided=undecided,
        to_repair=has_repair & undecided,
        settled=~undecided & decisions.neutral[pairs["row"]],
    )


def incident_states(audit: Audit) -> pd.DataFrame:
    """Return the incidents by number, the numbers of their undecided, to_repair and settled pairs,
    and whether they are open."""
    counts = incident_pairs(audit).groupby("number")[["undecided", "to_repair", "settled"]].sum()
    states = read_incidents(audit)[0].join(counts)
    return states.assign(
        is_open=states["to_repair"].where(states["repairs"] > 0, states["undecided"]) > 0
    )


def state_words(state: Any) -> str:
    """Return what can be done about an incident, a row of `incident_states`, or was done."""
    if state.to_repair:
        rest = state.undecided - state.to_repair
        return (
            f"{state.to_repair:,} of {state.pairs:,} pairs can be repaired: their captions are in "
            "the data set."
            + (f" Those of {rest:,} are not: remove these pairs." if rest > 0 else "")
        )
    if state.undecided and not state.repairs:
        return (
            f"These captions cannot be recovered. Remove all {state.undecided:,}, or look at them."
        )
    return f"Decided: {state.settled:,} of {state.pairs:,} pairs."


def incidents_line(audit: Audit) -> str:
    """Return how many of the wrong pairs the open incidents cause; empty if none is open."""
    states = incident_states(audit)
    numbers = states.index[states["is_open"]]
    if numbers.empty:
        return ""
    pairs = incident_pairs(audit)
    rows = pairs["row"][pairs["undecided"] & pairs["number"].isin(numbers)].unique()
    progress = review_progress(audit)
    faults, cause, which = "1 fault of your pipeline", "causes", "it"
    if len(numbers) > 1:
        faults, cause, which = f"{len(numbers):,} faults of your pipeline", "cause", "them"
    if progress.probabilities is None or progress.remaining is None:
        return f"{faults}: {len(rows):,} pairs."
    wrong = min(progress.probabilities[rows].sum(), progress.remaining)
    if round(wrong) == 0:
        return f"{faults}: {len(rows):,} pairs, whose captions look right."
    return (
        f"{faults} {cause} about {wrong:,.0f} of the {progress.remaining:,.0f} wrong pairs. "
        f"Decide on {which} first."
    )


def repairs(audit: Audit, number: int) -> pd.DataFrame:
    """Return the repairs of an incident: pair_id, from_pair_id, probability."""
    pairs = _pairs_of(audit, [number], "has_repair")
    ids = audit.read_columns(PAIRS, c.PAIR_ID)[c.PAIR_ID].to_numpy()
    table = pairs.assign(pair_id=ids[pairs["row"]], from_pair_id=ids[pairs["from_row"]])
    return table[[c.PAIR_ID, "from_pair_id", "probability"]].reset_index(drop=True)


def find_swap(audit: Audit, row: int) -> dict[str, Any] | None:
    """Return the pair, as JSON, whose captions surely fit the picture of a row that no incident
    explains; `mutual`: the captions of the row fit the other picture too."""
    pairs = read_incidents(audit)[1]
    swaps = pairs[pairs["number"] == 0].set_index("row")
    if row not in swaps.index:
        return None
    (card,) = cards(audit, [int(swaps["from_row"][row])])
    return {
        "row": card.row,
        "pair_id": card.pair_id,
        "caption_key": str(card.caption_key),
        "captions": card.captions,
        "probability": percent(swaps["probability"][row]),
        "mutual": bool(swaps["from_row"].get(card.row) == row),
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


def decide_incidents(audit: Audit, numbers: Collection[int], action: str) -> Outcome:
    """Decide on the undecided pairs of some incidents, in one neutral event.

    REPAIR gives pairs their right captions. REMOVE removes the captions that are none, and pairs
    without another caption; KEEP says that it is no fault.
    """
    pairs = _pairs_of(audit, numbers, "to_repair" if action == REPAIR else "undecided")
    kinds = read_incidents(audit)[0]["kind"]
    notes = {number: f"incident {number}: {kinds[number]}" for number in numbers}
    pairs = pairs.drop_duplicates("row")
    table = audit.read_columns(PAIRS, c.PAIR_ID, c.CAPTIONS)
    ids = table[c.PAIR_ID].iloc[pairs["row"]].tolist()
    sources = pairs["from_row"] if action == REPAIR else pairs["row"]
    captions = table[c.CAPTIONS].iloc[sources].map(list).tolist()
    no_captions = set[tuple[str, int]]()
    if action == REMOVE:
        found = fetch_pairs(audit.folder / CAPTION_TABLE, [c.CAPTION], ids, end=_NO_CAPTION)
        no_captions = {(row[c.PAIR_ID], row[c.CAPTION]) for row in found.to_pylist()}
    review = open_review(audit)
    current = review.decisions(ids)
    choices = {}
    for pair_id, texts, number in zip(ids, captions, pairs["number"], strict=True):
        now = current[pair_id]
        note = None if now.note else notes[number]
        left = [text for at, text in enumerate(texts) if (pair_id, at) not in no_captions]
        has_new = action == REPAIR or 0 < len(left) < len(texts)
        decision = RECAPTION if has_new else action
        new = tuple(left) if has_new else ()
        choices[pair_id] = Choice(decision, new, note, now.entry, neutral=True)
    label = "; ".join(notes.values())
    outcome = review.decide_each(choices, audit=audit.name, note=label)
    if not outcome.pairs:
        raise InputError(f"no pair of {label} is left to {action}")
    return outcome
