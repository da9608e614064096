"""All that a page shows of some pairs, from both tables of an audit and the log of decisions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, GROUP, IMAGE, LABEL, PAIR_ID, PLANTED
from clipmem_core.config import InputError
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import fetch_numbered, number, other_pairs
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
    """Return what is shown of some pairs, in the order given.

    Args:
        audit: a finished audit.
        rows: their numbers.
        selection: names the further score to show, its order's, and the search that `match` is of.

    Raises:
        InputError: there is no such row, or a file is missing or broken, or the tables list other pairs.
    """
    names = list(dict.fromkeys([*SHOWN, *([selection.order] if selection.order in BY_NAME else [])]))
    scores = fetch_numbered(audit.folder / SCORES, [f'"{PAIR_ID}"', f'"{GROUP}"', *map(number, names)], rows)
    pairs = fetch_numbered(audit.folder / PAIRS, [f'"{column}"' for column in _FROM_PAIRS], rows)
    for row in rows:
        if row not in scores and row not in pairs:
            raise InputError(f"audit {audit.name!r} has no row {row}: open the pair from the gallery again")
        if row not in scores or row not in pairs or scores[row][0] != pairs[row][0]:
            raise other_pairs(audit)
    decisions = open_review(audit).decisions([pairs[row][0] for row in rows])
    found, match = hits(audit, selection) if selection.searched else (np.empty(0), np.empty(0))
    matches = dict(zip(found.tolist(), match.tolist(), strict=True))
    shown = []
    for row in rows:
        (pair_id, image, captions, label, planted), (_, group, *values) = pairs[row], scores[row]
        numbers = dict(zip(names, map(_finite, values), strict=True))
        texts = tuple(str(caption) for caption in captions or ())
        own = (row, pair_id, image, texts, label, planted, group, numbers)
        shown.append(PairCard(*own, matches.get(row), decisions.get(pair_id)))
    return shown


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
