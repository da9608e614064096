"""A finished audit as pandas frames, for notebooks and other tools: pairs, scores, captions, decisions."""

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.checks import ensure_checks
from clipmem_core.audits.store import CAPTION_TABLE, Audit, read_table
from clipmem_core.config import InputError
from clipmem_core.review.decisions import open_review


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
    """Return a finished audit's frames; `clipmem_core.open_audit` is this.

    Args:
        name: the audit's, in the data folder (`data/`, or what the variable CLIPMEM_DATA says).

    Raises:
        InputError: there is no such audit, or it is not finished.
    """
    audit = AuditFrames.open(name)
    if not audit.finished:
        raise InputError(f"audit {name!r} is not finished: run it again, it goes on where it stopped")
    return audit
