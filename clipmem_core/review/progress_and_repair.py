"""How many pairs of an audit still have a wrong caption, and the repair of runs of them.

The posterior of what remains, by scores and decisions, and the bound that random checks guarantee.
Then the incidents: the faults of a pipeline that the audit found. Each incident has one decision:
repair, remove or keep. A repair gives a pair the captions of the pair that has its right ones. The
decision is neutral: no person has looked at each pair.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    MITIGATIONS,
    PAIRS,
    SCORES,
    Audit,
    read_table,
    write_json,
)
from clipmem_core.auditing.tables.verdict import summary_lines
from clipmem_core.errors.certificate import NEXT, Certificate, bound_wrong
from clipmem_core.errors.posterior import Posterior, ReviewOrder, plan_review
from clipmem_core.errors.runs import LIKELY
from clipmem_core.review.cards import cards, percent
from clipmem_core.review.decisions import (
    CODES,
    KEEP,
    RECAPTION,
    REMOVE,
    UNDECIDED_CODE,
    decided,
    open_review,
)
from clipmem_core.review.log import Choice, Outcome
from clipmem_core.review.queries import cached, fetch, fetch_numbered, fetch_pairs
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, read_json

EFFECT = "effect.json"  # of decisions on training, in the folder of mitigations
REPAIR = "repair"
ACTIONS = (REPAIR, REMOVE, KEEP)
_NO_CAPTION = f"WHERE \"{c.CHECK}\" NOT IN ('', '{c.REPEATED_PICTURE}')"
# Pairs whose captions are new have none of their own
_WRONG_LEFT = """
    SELECT coalesce(sum(1 - all_right), 0)::DOUBLE AS wrong FROM (
        SELECT any_value(fits) * product((1 - wrong) / fits) AS all_right FROM (
            SELECT pair_id, 1 - least(coalesce(nullif(p_pair, 'nan'), 0), 0.999) AS fits,
                coalesce(nullif(p_wrong, 'nan'), 0) AS wrong
            FROM parquet JOIN recaptioned USING (pair_id)
            WHERE list_contains(new, own[caption + 1]) AND list_has_all(own, new)
                AND len(new) < len(own)
        ) GROUP BY pair_id
    )
"""
_COLUMNS = {INCIDENTS: c.INCIDENT_COLUMNS, INCIDENT_PAIRS: c.INCIDENT_PAIR_COLUMNS}


@dataclass(frozen=True)
class ReviewProgress:
    """The decisions so far, the pairs that still have a wrong caption, and the random checks."""

    decided: int
    wrong: int  # removed or recaptioned
    certificate: Certificate
    repaired: int = 0  # or removed, without a check of the pair: of incidents, near-duplicates
    # Pairs without a decision that have a wrong caption, with a 95 % interval; None if unknown
    remaining: float | None = None
    low: float | None = None
    high: float | None = None
    next_50: float | None = None  # of the next 50 pairs of the review
    # that each pair has a wrong caption, [n_pairs]
    probabilities: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """What was found, what remains and what to expect; empty without decisions."""
        repaired = (
            f"{self.repaired:,} repaired or removed without a check." if self.repaired else ""
        )
        checked = f"{self.decided:,} checked, {self.wrong:,} wrong." if self.decided else ""
        found = " ".join(filter(None, [repaired, checked]))
        if not found or self.remaining is None:
            return found
        return (
            f"{found} About {self.remaining:,.0f} wrong pairs remain (95 % sure: "
            f"{self.low:,.0f} to {self.high:,.0f}); expect about {self.next_50:,.0f} in the next "
            f"{NEXT}."
        )


@cached(2, SCORES)
def review_order(audit: Audit) -> ReviewOrder:
    """Return the order of the review."""
    scores = audit.read_columns(SCORES, c.SUSPICION, c.REVIEW_PLACE)
    priority, place = scores.to_numpy(float).T
    return plan_review(priority, place=place)


@cached(2, SCORES)
def _posterior(audit: Audit) -> tuple[np.ndarray, Posterior]:
    """Return the rows with a probability of a wrong caption, and the prior of their number."""
    scores = audit.read_columns(SCORES, c.P_WRONG)[c.P_WRONG].to_numpy(float)
    rows = np.flatnonzero(np.isfinite(scores))
    return rows, Posterior.of(scores[rows])


@cached(2, SCORES)
def _wrong_left(audit: Audit, recaptioned: tuple[int, ...], entry: int) -> float:
    """Return the expected number of wrong pairs among those that lost only their faulty captions.
    `entry`, the last one of the log, is part of the cache's key.

    Of a wrong pair all captions are wrong; errors of single captions are independent. With p of the
    pair and p_i of each caption left, all are right with the probability
    (1 − p) Π (1 − p_i) / (1 − p).
    """
    table = audit.folder / CAPTION_TABLE
    if not table.is_file():
        return 0.0
    pairs = fetch_numbered(audit.folder / PAIRS, [c.PAIR_ID, c.CAPTIONS], recaptioned).values()
    made = open_review(audit).decisions(pair_id for pair_id, _ in pairs)
    # The texts of both, as decisions store them
    rows = [
        (pair_id, [text.strip() for text in captions], list(made[pair_id].captions))
        for pair_id, captions in pairs
    ]
    changes = pd.DataFrame(rows, columns=[c.PAIR_ID, "own", "new"])
    return fetch(table, _WRONG_LEFT, recaptioned=changes)["wrong"][0].as_py()


def review_progress(audit: Audit) -> ReviewProgress:
    """Count the decisions, and estimate and bound the wrong captions that remain.

    A removed or recaptioned pair counts as wrong, a kept pair as right. Neutral decisions do not
    count, and a neutral recaption repairs a pair, except for the pair's own captions that stay.
    Without any decision the estimate is the verdict's.
    """
    review = review_order(audit)
    decisions = decided(audit)
    has_decision = decisions.codes != UNDECIDED_CODE
    counted = np.zeros(len(has_decision), bool)
    counted[review.order] = True
    done = counted & has_decision & ~decisions.neutral
    wrong = done & (decisions.codes != CODES[KEEP])
    drawn = review.drawn[~decisions.neutral[review.drawn]]
    removed = wrong & (decisions.codes == CODES[REMOVE])
    first = np.where(done, decisions.first, 0)
    certificate = bound_wrong(drawn, first, wrong, kept=len(drawn) - int(removed.sum()))
    repaired = decisions.neutral & (decisions.codes == CODES[RECAPTION])
    repaired |= ~done & (decisions.codes == CODES[REMOVE])
    progress = ReviewProgress(
        int(done.sum()), int(wrong.sum()), certificate, repaired=int(repaired.sum())
    )
    found = audit.verdict["wrong_captions"]
    if found["missing"]:
        return progress
    rows, posterior = _posterior(audit)
    # A person said of a text that is no caption, or of a placeholder, that it is no fault.
    has_fault = audit.read_columns(SCORES, c.P_CHECK)[c.P_CHECK].to_numpy(float) > 0
    no_fault = decisions.neutral & (decisions.codes == CODES[KEEP]) & has_fault
    left = ~(done | repaired | no_fault)
    recaptioned = np.flatnonzero(repaired & (decisions.codes == CODES[RECAPTION])).tolist()
    more = _wrong_left(audit, tuple(recaptioned), decisions.entry) if recaptioned else 0.0
    estimate = posterior.remaining((done & ~wrong)[rows], wrong[rows], left[rows])
    count = found["all"] if left.all() else estimate._asdict()
    probabilities = np.zeros(len(done))
    probabilities[rows] = estimate.probabilities
    upcoming = review.order[~has_decision[review.order]][:NEXT]
    return replace(
        progress,
        remaining=count["estimate"] + more,
        low=count["low"] + more,
        high=count["high"] + more,
        next_50=float(probabilities[upcoming].sum()),
        probabilities=probabilities,
    )


def write_effect(audit: Audit, decisions: str, effects: dict[str, Any]) -> None:
    """Write what decisions, by their fingerprint, change in training: statement and measures of
    each setting."""
    path = audit.folder / MITIGATIONS / EFFECT
    write_json(path, {"decisions": decisions, "effects": effects})


def read_effect(audit: Audit) -> dict[str, Any]:
    """Return what the current decisions change in training, as of `write_effect`; empty if that was
    not measured."""
    path = audit.folder / MITIGATIONS / EFFECT
    if not path.is_file():
        return {}
    stored = read_json(path, dict[str, Any], repair="delete it")
    is_current = stored["decisions"] == open_review(audit).changes().fingerprint
    return dict(stored["effects"]) if is_current else {}


def wrong_lines(audit: Audit) -> list[str]:
    """Return how many pairs have a wrong caption, or still have one, what random checks guarantee,
    and what the audit cannot see."""
    count, unseen = summary_lines(audit.verdict)
    progress = review_progress(audit)
    return list(filter(None, [progress.sentence or count, progress.certificate.sentence, unseen]))


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
    line = f"Faults of your pipeline: {len(numbers):,}, with {len(rows):,} pairs."
    if progress.probabilities is None or progress.remaining is None:
        return line
    wrong = min(progress.probabilities[rows].sum(), progress.remaining)
    return (
        f"{line} They cause about {wrong:,.0f} of the {progress.remaining:,.0f} wrong pairs: "
        "decide on them first."
    )


def repairs(audit: Audit, number: int) -> pd.DataFrame:
    """Return the repairs of an incident: pair_id, from_pair_id, probability."""
    pairs = _pairs_of(audit, [number], "has_repair")
    ids = audit.read_columns(PAIRS, c.PAIR_ID)[c.PAIR_ID].to_numpy()
    table = pairs.assign(pair_id=ids[pairs["row"]], from_pair_id=ids[pairs["from_row"]])
    return table[[c.PAIR_ID, "from_pair_id", "probability"]].reset_index(drop=True)


def find_swaps(audit: Audit, rows: Collection[int]) -> dict[int, dict[str, Any]]:
    """Return, by row, the pairs, as JSON, whose captions surely fit the pictures of rows that no
    incident explains; `mutual`: the captions of the row fit the other picture too."""
    pairs = read_incidents(audit)[1]
    swaps = pairs[pairs["number"] == 0].set_index("row")
    others = swaps["from_row"][swaps.index.isin(rows)].astype(int)
    return {
        row: {
            "row": card.row,
            "pair_id": card.pair_id,
            "caption_key": str(card.caption_key),
            "captions": card.captions,
            "probability": percent(swaps["probability"][row]),
            "mutual": bool(swaps["from_row"].get(card.row) == row),
        }
        for row, card in zip(others.index, cards(audit, others.tolist()), strict=True)
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
