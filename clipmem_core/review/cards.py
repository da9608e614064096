"""What is known of pairs: as cards for a page, from the tables of an audit and the decisions, and as pandas frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.store import CAPTION_TABLE, PAIRS, SCORES, Audit, read_table
from clipmem_core.columns import CAPTION, CAPTIONS, GROUP, IMAGE, LABEL, MISFIT, ODD, PAIR_ID, PLANTED, SIMILARITY_OUT
from clipmem_core.config import InputError
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import fetch_arrow, fetch_numbered, fetch_rows, mismatched_tables, number
from clipmem_core.scores.registry import BY_NAME, CARD, EXPORT, PAIR, ROW, scores_in

SHOWN = tuple(dict.fromkeys(name for place in (CARD, ROW, PAIR, EXPORT) for name in scores_in(place)))
_UNSEARCHED = Selection()
_FROM_PAIRS = (PAIR_ID, IMAGE, CAPTIONS, LABEL, PLANTED)


@dataclass(frozen=True)
class PairCard:
    """One pair as a page shows it. A score is None where the audit has none; `match` where nothing was searched for."""

    row: int
    pair_id: str
    image: str
    captions: tuple[str, ...]
    label: str | None
    planted: str | None
    group: str
    scores: dict[str, float | None]
    match: float | None = None
    decision: Decision | None = None


def cards(audit: Audit, rows: Sequence[int], selection: Selection = _UNSEARCHED) -> list[PairCard]:
    """Return what is shown of some pairs, in the order given."""
    names = list(dict.fromkeys([*SHOWN, *([selection.order] if selection.order in BY_NAME else [])]))
    scores = fetch_numbered(audit.folder / SCORES, [f'"{PAIR_ID}"', f'"{GROUP}"', *map(number, names)], rows)
    pairs = fetch_numbered(audit.folder / PAIRS, [f'"{column}"' for column in _FROM_PAIRS], rows)
    for row in rows:
        if row not in scores and row not in pairs:
            raise InputError(f"audit {audit.name!r} has no row {row}: open the pair from the gallery again")
        if row not in scores or row not in pairs or scores[row][0] != pairs[row][0]:
            raise mismatched_tables(audit)
    decisions = open_review(audit).decisions([pairs[row][0] for row in rows])
    found, match = hits(audit, selection) if selection.searched else (np.empty(0), np.empty(0))
    matches = dict(zip(found.tolist(), match.tolist(), strict=True))
    shown = []
    for row in rows:
        (pair_id, image, captions, label, planted), (_, group, *values) = pairs[row], scores[row]
        numbers = {name: value if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}
        texts = tuple(str(caption) for caption in captions or ())
        own = (row, pair_id, image, texts, label, planted, group, numbers)
        shown.append(PairCard(*own, matches.get(row), decisions.get(pair_id)))
    return shown


OWN_CAPTIONS = "own_captions"
LISTED = {SIMILARITY_OUT: "caption_similarity_out", MISFIT: "caption_misfit"}  # what lists of them are called


@dataclass(frozen=True)
class CaptionScore:
    """What is known of one caption; None where it is not."""

    similarity_out: float | None
    misfit: float | None
    odd: bool  # fits much worse than the others of its pair

    @property
    def words(self) -> str:
        """The numbers in words; empty where there are none."""
        known = {"similarity out": self.similarity_out, "misfit": self.misfit}
        return " · ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in known.items() if value is not None)


def caption_scores(audit: Audit, pair_id: str) -> dict[int, CaptionScore]:
    """Return the scores of a pair's captions by their place, from 0; empty where the audit has none."""
    path = audit.folder / CAPTION_TABLE
    if not path.is_file():
        return {}
    finite = ", ".join(f"CASE WHEN isfinite({name}) THEN {name} END" for name in (SIMILARITY_OUT, MISFIT))
    query = f'SELECT "{CAPTION}", {finite}, {ODD} FROM parquet WHERE "{PAIR_ID}" = ?'
    return {place: CaptionScore(*values) for place, *values in fetch_rows(path, query, [pair_id])}


def listed_scores(audit: Audit, pair_ids: Sequence[str]) -> pd.DataFrame:
    """Return the own captions of some pairs, and the scores of each, as lists in their order.

    Returns:
        pair_id and own_captions; where the audit scores single captions, caption_similarity_out and caption_misfit too.
        A list has None where a caption has no such score. Pairs that the audit does not have are left out.
    """
    asked = pa.table({"asked": pa.array(list(pair_ids), pa.string())})
    among = f'SEMI JOIN asked ON "{PAIR_ID}" = asked.asked'
    query = f'SELECT "{PAIR_ID}", "{CAPTIONS}" AS {OWN_CAPTIONS} FROM parquet {among}'
    own = pd.DataFrame(fetch_arrow(audit.folder / PAIRS, query, asked=asked).to_pydict(), dtype=object)
    path = audit.folder / CAPTION_TABLE
    if not path.is_file():
        return own
    lists = ", ".join(
        f'list(CASE WHEN isfinite("{name}") THEN "{name}" END ORDER BY "{CAPTION}") AS {listed}'
        for name, listed in LISTED.items()
    )
    query = f'SELECT "{PAIR_ID}", {lists} FROM parquet {among} GROUP BY "{PAIR_ID}"'
    return own.merge(
        pd.DataFrame(fetch_arrow(path, query, asked=asked).to_pydict(), dtype=object), on=PAIR_ID, how="left"
    )


class AuditFrames(Audit):
    """A finished audit with further tables. Each is read when it is asked for, and is yours to change.

    pairs, scores and membership have one row a pair in one order; decisions are those of today.
    """

    @property
    def decisions(self) -> pd.DataFrame:
        """One row a pair that a person decided on, with the captions given; the last decided first."""
        return open_review(self).table()

    @property
    def checks(self) -> pd.DataFrame:
        """One row a pair: what the checks that need no model found, made now where it was not before."""
        return read_table(ensure_checks(self))

    @property
    def captions(self) -> pd.DataFrame:
        """One row a caption: pair_id, number of the caption within its pair, caption.

        Where the audit scores single captions there are similarity_out, margin_out, learned, misfit, gap and odd too.
        """
        exploded = self.pairs[[c.PAIR_ID, c.CAPTIONS]].explode(c.CAPTIONS, ignore_index=True)
        number = exploded.groupby(c.PAIR_ID, sort=False).cumcount()
        table = pd.DataFrame({c.PAIR_ID: exploded[c.PAIR_ID], "number": number, "caption": exploded[c.CAPTIONS]})
        path = self.folder / CAPTION_TABLE
        if not path.is_file():
            return table
        scores = read_table(path).rename(columns={c.CAPTION: "number"})
        return table.merge(scores, on=[c.PAIR_ID, "number"], how="left")

    def table(self) -> pd.DataFrame:
        """Return everything that is known of a pair in one row.

        `filepath` is the picture's file, None where it lies in a shard or table; then come the columns of `pairs`,
        those of `scores`, `decision` (keep, remove, recaption; NaN where there is none) and `note`.
        """
        pairs, decisions = self.pairs, self.decisions
        root = self.record.pictures
        files = [str(root / image) if (root / image).is_file() else None for image in pairs[c.IMAGE]]
        pairs.insert(1, "filepath", pd.Series(files, dtype=object))
        decided = decisions[[c.PAIR_ID, "decision", "note"]]
        # Row by row, since all tables of an audit are in one order.
        joined = pd.concat([pairs, self.scores.drop(columns=[c.PAIR_ID])], axis=1)
        return joined.merge(decided, on=c.PAIR_ID, how="left")


def open_frames(name: str) -> AuditFrames:
    """Return a finished audit's frames; `clipmem_core.open_audit` is this."""
    audit = AuditFrames.open(name)
    if not audit.finished:
        raise InputError(f"audit {name!r} is not finished: run it again, it goes on where it stopped")
    return audit
