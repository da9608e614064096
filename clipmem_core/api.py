"""A finished audit in Python: its tables as pandas frames, searches, candidate captions and
decisions."""

from pathlib import Path

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.check_table import ensure_checks
from clipmem_core.audit.store import CAPTION_TABLE, PAIRS, Audit, read_table
from clipmem_core.review.batch import StoredTable, store_table
from clipmem_core.review.decisions import open_review
from clipmem_core.review.incidents import read_incidents, repairs
from clipmem_core.review.queries import check_caption_rows, fetch_numbered
from clipmem_core.review.search import search
from clipmem_core.review.selection import CAPTION
from clipmem_core.review.wrong_captions import ReviewProgress, review_progress
from clipmem_core.tables import read_frame


class AuditFrames(Audit):
    """A finished audit as pandas tables, read on access; pairs, scores and membership have the same
    order."""

    @property
    def decisions(self) -> pd.DataFrame:
        """One row for each pair with a decision, new captions or a note, the newest first."""
        return open_review(self).table()

    @property
    def checks(self) -> pd.DataFrame:
        """One row a pair: the results of the checks that need no model, computed if they are
        missing."""
        return read_table(ensure_checks(self))

    @property
    def captions(self) -> pd.DataFrame:
        """One row a caption: pair_id, number within the pair, caption, and the scores of single
        captions if any."""
        exploded = self.pairs[[c.PAIR_ID, c.CAPTIONS]].explode(c.CAPTIONS, ignore_index=True)
        table = exploded.rename(columns={c.CAPTIONS: "caption"})
        table.insert(1, "number", exploded.groupby(c.PAIR_ID, sort=False).cumcount())
        path = self.folder / CAPTION_TABLE
        if not path.is_file():
            return table
        check_caption_rows(self)
        scores = read_table(path).rename(columns={c.CAPTION: "number"})
        return table.merge(scores, on=[c.PAIR_ID, "number"], how="left")

    def search(
        self, text: str = "", *, like: str = "", by: str = CAPTION, k: int = 12
    ) -> pd.DataFrame:
        """Return the k pairs closest to a text, or to the pair with the id `like`: pair_id,
        caption, similarity.

        By caption, the caption is the one that matched; `by="picture"` looks into pictures.
        """
        found = search(self, text, like=like, by=by, k=k)
        rows = found.rows.tolist()
        pairs = fetch_numbered(self.folder / PAIRS, [c.PAIR_ID, c.CAPTIONS], rows)
        table = pd.DataFrame([pairs[row] for row in rows], columns=[c.PAIR_ID, "caption"])
        table["caption"] = [
            captions[max(number, 0)]
            for captions, number in zip(table["caption"], found.captions, strict=True)
        ]
        return table.assign(similarity=found.similarity)

    def judge(self, candidates: pd.DataFrame, image_folder: str = "") -> pd.DataFrame:
        """Return the probability that captions from elsewhere are wrong, beside those of the
        captions that pairs have.

        `candidates` has caption, and pair_id or image; `replaces` may name the caption of the pair
        in whose place one is put. A picture in `image_folder` that the audit has never seen is a
        new pair with the captions of its rows. `best` marks the best caption of each pair; `reason`
        says why a row was not judged.
        """
        from clipmem_core.review.candidates import table_candidates
        from clipmem_core.review.judge import judge_captions  # slow to import

        return judge_captions(self, table_candidates(self, candidates, image_folder))

    def decide(self, table: pd.DataFrame | str | Path) -> StoredTable:
        """Store the decisions of a table, or of a CSV, JSON Lines or Parquet file, in one event.

        It has pair_id, decision (keep, remove or recaption), and captions for a recaption: a list,
        a JSON list or a single caption. The result names the refused rows and why.
        """
        return store_table(
            self, table if isinstance(table, pd.DataFrame) else read_frame(Path(table))
        )

    def progress(self) -> ReviewProgress:
        """Return how many pairs are decided, how many still have a wrong caption (with a 95 %
        interval), and the certificate of the random checks."""
        return review_progress(self)

    def incidents(self) -> pd.DataFrame:
        """Return the faults of the pipeline by number: kind, pairs, first, last, cause, repairs.

        first and last are the numbers of pairs in the order of the source, from 1; repairs is the
        number of pairs whose right captions are another pair's.
        """
        return read_incidents(self)[0][["kind", "pairs", "first", "last", "cause", "repairs"]]

    def repairs(self, number: int) -> pd.DataFrame:
        """Return the pairs of an incident whose captions can be repaired: pair_id, from_pair_id
        (the pair that has their captions), probability."""
        return repairs(self, number)

    def table(self) -> pd.DataFrame:
        """Return pairs, scores and decisions in one row a pair.

        `filepath` is the picture's file, None if it lies in a shard or table; then come the columns
        of `pairs`, those of `scores`, `decision` (keep, remove, recaption; NaN if undecided) and
        `note`.
        """
        pairs = self.pairs
        root = self.record.pictures
        files = [
            str(root / image) if (root / image).is_file() else None for image in pairs[c.IMAGE]
        ]
        pairs.insert(1, "filepath", pd.Series(files, dtype=object))
        # all tables have one order
        joined = pd.concat([pairs, self.scores.drop(columns=[c.PAIR_ID])], axis=1)
        decisions = self.decisions[[c.PAIR_ID, "decision", "note"]]
        return joined.merge(decisions, on=c.PAIR_ID, how="left")
