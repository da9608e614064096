"""The log of decisions → one small number a pair: what was decided of it last. Read on from where it was read to."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import PAIR_ID
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, open_review
from clipmem_core.review.tables import CAPTION_KEY, ROW, Version, count_pairs_of, fetch_columns

UNDECIDED_CODE = 0
CODES = {None: UNDECIDED_CODE, KEEP: 1, REMOVE: 2, RECAPTION: 3}
KEPT = 4  # audits in memory, 1 byte a pair


@dataclass(frozen=True)
class Decided:
    """What was decided of each pair, one of `CODES`: int8 [n_pairs], not to be written to.

    It is what the `log`, a path and what tells a new file there from an old one, said up to its `entry`.
    """

    version: Version
    log: tuple[str, int]
    entry: int
    codes: np.ndarray

    @property
    def moment(self) -> tuple[str, int, int]:
        """What changes whenever somebody decides; whatever was made from the codes is kept under that."""
        return *self.log, self.entry


_kept: dict[Audit, Decided] = {}
_turn = threading.Lock()


def decided(audit: Audit, version: Version) -> Decided:
    """Return what has been decided of the pairs of an audit until now."""
    review = open_review(audit)
    with _turn:
        log, position = (str(review.path), _inode(review.path)), review.position()
        known = _kept.pop(audit, None)
        if known is None or (known.version, known.log) != (version, log) or position < known.entry:
            known = Decided(version, log, 0, np.zeros(count_pairs_of(audit, version), np.int8))
        if position > known.entry:
            known = _read_on(audit, known, review.entries_after(known.entry))
        _kept[audit] = known
        if len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
    return known


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _read_on(audit: Audit, known: Decided, entries: list[tuple[str, str | None, int, int]]) -> Decided:
    """Apply entries of the log in their order, but those on other pairs or captions: they are other audits'."""
    ids, decisions, numbers, judged = zip(*entries, strict=True)
    given = [pa.array([CODES[decision] for decision in decisions], pa.int8()), pa.array(numbers), pa.array(judged)]
    asked = pa.table([pa.array(ids), *given], ["asked_id", "code", "entry", "judged"])
    last = "SELECT asked_id, judged, max(entry) AS newest, arg_max(code, entry) AS code FROM asked GROUP BY ALL"
    query = f"""
        SELECT {ROW}, code FROM parquet JOIN ({last}) ON "{PAIR_ID}" = asked_id
        WHERE judged = 0 OR judged = {CAPTION_KEY} ORDER BY newest
    """
    found = fetch_columns(audit.folder / PAIRS, query, asked=asked)
    codes = known.codes.copy()
    codes[found[ROW]] = found["code"]  # of two of a pair the later one stays
    codes.flags.writeable = False
    return replace(known, entry=numbers[-1], codes=codes)
