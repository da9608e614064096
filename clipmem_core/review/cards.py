"""All that a page shows of some pairs, from both tables of an audit and the log of decisions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import (
    CAPTIONS,
    GROUP,
    IMAGE,
    LABEL,
    PAIR_ID,
    PLANTED,
)
from clipmem_core.config import InputError
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import fetch_numbered, number, other_pairs
from clipmem_core.scores.table import BY_NAME, CARD, EXPORT, PAIR, ROW, scores_in

SHOWN = tuple(dict.fromkeys(name for place in (CARD, ROW, PAIR, EXPORT) for name in scores_in(place)))
_UNSEARCHED = Selection()


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
    columns = [f'"{column}"' for column in (PAIR_ID, IMAGE, CAPTIONS, LABEL, PLANTED)]
    pairs = fetch_numbered(audit.folder / PAIRS, columns, rows)
    _check(audit, rows, scores, pairs)
    decisions = open_review(audit).decisions([pairs[row][0] for row in rows])
    matches = _matches(audit, selection)
    return [_card(row, pairs[row], scores[row], names, matches.get(row), decisions.get(pairs[row][0])) for row in rows]


def _check(audit: Audit, rows: Sequence[int], scores: dict[int, Any], pairs: dict[int, Any]) -> None:
    for row in rows:
        if row not in scores and row not in pairs:
            raise InputError(f"audit {audit.name!r} has no row {row}: open the pair from the gallery again")
        if row not in scores or row not in pairs or scores[row][0] != pairs[row][0]:
            raise other_pairs(audit)


def _matches(audit: Audit, selection: Selection) -> dict[int, float]:
    if not selection.searched:
        return {}
    from clipmem_core.review.search import hits

    rows, match = hits(audit, selection)
    return dict(zip(rows.tolist(), match.tolist(), strict=True))


def _card(
    row: int,
    pair: tuple[Any, ...],
    score: tuple[Any, ...],
    names: Sequence[str],
    match: float | None,
    decision: Decision | None,
) -> PairCard:
    pair_id, image, captions, label, planted = pair
    numbers = {name: _finite(value) for name, value in zip(names, score[2:], strict=True)}
    texts = tuple(str(caption) for caption in captions or ())
    return PairCard(row, pair_id, image, texts, label, planted, score[1], numbers, match, decision)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
