"""An audit in Python: its pandas tables, searches, decisions and exports.

>>> import clipmem_core
>>> audit = clipmem_core.open_audit("scenes")  # that of `make run`

Each example below goes on from there. Wrong input raises `clipmem_core.utils.io.InputError`, a
`ValueError`.
"""

import html
from pathlib import Path

import pandas as pd

from clipmem_core.auditing.folder.store import CAPTION_TABLE, PAIRS, Audit, read_table
from clipmem_core.auditing.tables.fault_tables import ensure_checks
from clipmem_core.export.formats import Summary, export_audit
from clipmem_core.export.report import top_pairs
from clipmem_core.review.bulk_edits import StoredTable, store_table
from clipmem_core.review.cards import LIKELY, WRONG_WORDS
from clipmem_core.review.decisions import open_review
from clipmem_core.review.progress_and_repair import (
    ReviewProgress,
    read_incidents,
    repairs,
    review_progress,
    wrong_lines,
)
from clipmem_core.review.queries import fetch_numbered
from clipmem_core.review.search import search
from clipmem_core.review.views import CAPTION
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import read_frame

_SHOWN = 6  # pairs of an audit in a notebook


class AuditFrames(Audit):
    """A finished audit. `pairs`, `scores`, `membership`, `quarantine` and `utility` are its tables
    (clipmem_core/auditing/README.md has their columns), `verdict` is what it says of itself. Files
    are read on access; pairs, scores and membership have the same order.

    Example:
        >>> bool((audit.pairs.pair_id == audit.scores.pair_id).all())
        True
        >>> worst = audit.scores.nlargest(5, "p_wrong")
        >>> audit.verdict["wrong_captions"]["of"] == len(audit.pairs)
        True
    """

    @property
    def decisions(self) -> pd.DataFrame:
        """One row for each pair with a decision, new captions or a note, the newest first.

        Example:
            >>> audit.decisions.columns.tolist()[:4]
            ['pair_id', 'decision', 'captions', 'note']
        """
        return open_review(self).table()

    @property
    def checks(self) -> pd.DataFrame:
        """One row a pair: the results of the checks that need no model, computed if they are
        missing.

        Example:
            >>> int(audit.checks["repeated_caption"].sum()) <= len(audit.pairs)
            True
        """
        return read_table(ensure_checks(self))

    @property
    def captions(self) -> pd.DataFrame:
        """One row a caption: pair_id, number within the pair, caption, and the scores of single
        captions if any.

        Example:
            >>> audit.captions.nlargest(3, "p_wrong")[["pair_id", "caption"]].shape
            (3, 2)
        """
        exploded = self.pairs[[c.PAIR_ID, c.CAPTIONS]].explode(c.CAPTIONS, ignore_index=True)
        table = exploded.rename(columns={c.CAPTIONS: "caption"})
        table.insert(1, "number", exploded.groupby(c.PAIR_ID, sort=False).cumcount())
        path = self.folder / CAPTION_TABLE
        if not path.is_file():
            return table
        scores = read_table(path).rename(columns={c.CAPTION: "number"})
        return table.merge(scores, on=[c.PAIR_ID, "number"], how="left")

    def search(
        self, text: str = "", *, like: str = "", by: str = CAPTION, k: int = 12
    ) -> pd.DataFrame:
        """Return the k pairs closest to a text, or to the pair with the id `like`: pair_id,
        caption, similarity.

        By caption, the caption is the one that matched; `by="picture"` looks into pictures.

        Example:
            >>> audit.search("a red boat", k=3).columns.tolist()
            ['pair_id', 'caption', 'similarity']
            >>> len(audit.search(like=audit.pairs.pair_id[0], by="picture", k=3))
            3
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

        Example:
            >>> new = pd.DataFrame({"pair_id": audit.pairs.pair_id[:1], "caption": ["a red boat"]})
            >>> judged = audit.judge(new)
            >>> bool(judged["p_wrong"].between(0, 1).all())
            True
        """
        from clipmem_core.review import judge  # slow to import

        table = judge.table_candidates(self, candidates, image_folder)
        return judge.judge_captions(self, table)

    def decide(self, table: pd.DataFrame | str | Path) -> StoredTable:
        """Store the decisions of a table, or of a CSV, JSON Lines or Parquet file, in one event.

        It has pair_id, decision (keep, remove or recaption), and captions for a recaption: a list,
        a JSON list or a single caption. The result has `stored` (how many), and `refused`: row,
        pair_id, reason.

        Example:
            >>> table = pd.DataFrame({"pair_id": audit.pairs.pair_id[:2], "decision": "remove"})
            >>> result = audit.decide(table)
            >>> result.stored, len(result.refused)
            (2, 0)
        """
        return store_table(
            self, table if isinstance(table, pd.DataFrame) else read_frame(Path(table))
        )

    def export(self, format: str, path: str | Path, *, overwrite: bool = False) -> Summary:
        """Write the cleaned data set, the decisions or a report; `format` as of the command.

        Example:
            >>> import tempfile
            >>> target = Path(tempfile.mkdtemp()) / "decisions.csv"
            >>> audit.export("decisions", target).line != "" and target.is_file()
            True
        """
        return export_audit(self, format, Path(path).expanduser(), overwrite=overwrite)

    def _repr_html_(self) -> str:
        """Return the count and the pairs most likely wrong, with pictures, for a notebook."""
        pairs = []
        for pair in top_pairs(self, c.SUSPICION, _SHOWN)[0]:
            caption = html.escape(pair["captions"][0] if pair["captions"] else "")
            reason = html.escape(pair["reason"])
            picture = f'<img src="{pair["picture"]}" style="max-width:100%">'
            pairs.append(
                f'<figure style="width:15em;margin:.5em">{picture}<figcaption>{caption}<br>'
                f"<b>{reason}</b></figcaption></figure>"
            )
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in wrong_lines(self))
        return f'{lines}<div style="display:flex;flex-wrap:wrap">{"".join(pairs)}</div>'

    def progress(self) -> ReviewProgress:
        """Return how many pairs are decided, how many still have a wrong caption (with a 95 %
        interval), and the certificate of the random checks.

        Example:
            >>> progress = audit.progress()
            >>> progress.low <= progress.remaining <= progress.high
            True
        """
        return review_progress(self)

    def incidents(self) -> pd.DataFrame:
        """Return the faults of the pipeline by number: kind, pairs, first, last, cause, repairs.

        first and last are the numbers of pairs in the order of the source, from 1; repairs is the
        number of pairs whose right captions are another pair's.

        Example:
            >>> audit.incidents().columns.tolist()
            ['kind', 'pairs', 'first', 'last', 'cause', 'repairs']
        """
        return read_incidents(self)[0][["kind", "pairs", "first", "last", "cause", "repairs"]]

    def repairs(self, number: int) -> pd.DataFrame:
        """Return the pairs of an incident whose captions can be repaired: pair_id, from_pair_id
        (the pair that has their captions), probability.

        Example:
            >>> faults = audit.incidents()
            >>> [len(audit.repairs(number)) for number in faults.index] == faults.repairs.tolist()
            True
        """
        return repairs(self, number)

    def table(self) -> pd.DataFrame:
        """Return pairs, scores and decisions in one row a pair.

        `filepath` is the picture's file, None if it lies in a shard or table; then come the columns
        of `pairs`, those of `scores`, `wrong` (no caption, all captions, caption, word; empty if
        nothing is probably wrong), `decision` (keep, remove, recaption; NaN if undecided) and
        `note`.

        Example:
            >>> unsure = audit.table().query("decision.isna() and p_wrong > 0.5")
            >>> unsure["filepath"].notna().all().item()
            True
        """
        pairs = self.pairs
        root = self.record.pictures
        files = [
            str(root / image) if (root / image).is_file() else None for image in pairs[c.IMAGE]
        ]
        pairs.insert(1, "filepath", pd.Series(files, dtype=object))
        # all tables have one order
        joined = pd.concat([pairs, self.scores.drop(columns=[c.PAIR_ID])], axis=1)
        parts = joined[c.PARTS].fillna(0.0)
        likely = (joined[c.P_WRONG] >= LIKELY) & (parts.max(axis=1) > 0)
        joined["wrong"] = parts.idxmax(axis=1).map(WRONG_WORDS).where(likely, "")
        decisions = self.decisions[[c.PAIR_ID, "decision", "note"]]
        return joined.merge(decisions, on=c.PAIR_ID, how="left")


def open_audit(name: str) -> AuditFrames:
    """Return a finished audit.

    Args:
        name: the audit's, in the data folder (`data/`, or what the variable CLIPMEM_DATA says).
    """
    audit = AuditFrames.open(name)
    audit.check_finished()
    return audit
