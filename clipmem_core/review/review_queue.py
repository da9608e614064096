"""The pairs that a person judges one after another: in which order, and what has been decided of them since."""

import numpy as np
import pyarrow as pa

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import MISFIT, PAIR_ID, REVIEW_PLACE
from clipmem_core.review.decisions import CODES, UNDECIDED_CODE, decided, open_review
from clipmem_core.review.rows import count_pairs, find_rows, score_span
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import ROW, fetch_columns
from clipmem_core.scores.registry import QUEUE, scores_in

WORDS = {code: decision for decision, code in CODES.items()}


def first_queue(audit: Audit) -> Selection:
    """Return what is judged where nobody asks for another order: the most suspicious, and one in ten at random.

    Where an audit has no such order, those of the highest misfit; without misfit, the first queue there is.
    """
    if score_span(audit, REVIEW_PLACE):
        return Selection(order=REVIEW_PLACE, ascending=True)
    return Selection(order=MISFIT if score_span(audit, MISFIT) else next(iter(scores_in(QUEUE))))


def queue_rows(audit: Audit, selection: Selection) -> list[int]:
    """Return the rows of a selection in the order in which a person judges them."""
    return find_rows(audit, selection, page=1, size=max(1, count_pairs(audit, selection)))


def decided_rows(audit: Audit) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry on any audit of the data set, and what is decided of each row that is."""
    known = decided(audit)
    rows = np.flatnonzero(known.codes != UNDECIDED_CODE)
    return known.entry, dict(zip(rows.tolist(), map(WORDS.get, known.codes[rows].tolist()), strict=True))


def changed_rows(audit: Audit, entry: int) -> tuple[int, dict[int, str | None]]:
    """Return the log's last entry, and what is decided now of each row that somebody decided on after an entry."""
    known = decided(audit)
    if known.entry < entry:  # another log is there in place of the one that was read
        return decided_rows(audit)
    if known.entry == entry:
        return entry, {}
    changed = dict.fromkeys(pair_id for pair_id, *_ in open_review(audit).entries_after(entry))
    asked = pa.table({"asked_id": pa.array(changed, pa.string())})
    query = f'SELECT {ROW} FROM parquet JOIN asked ON "{PAIR_ID}" = asked_id'
    rows = fetch_columns(audit.folder / PAIRS, query, asked=asked)[ROW]
    return known.entry, dict(zip(rows.tolist(), map(WORDS.get, known.codes[rows].tolist()), strict=True))
