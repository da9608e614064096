"""Turns input rows into pairs and a quarantine: several rows of one picture become several captions of one pair.

Every input row ends in exactly one of the two, so that rows = rows that made pairs + quarantined rows. An empty entry
in a list of captions counts as a row of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from clipmem_core import columns as names
from clipmem_core.config import InputError
from clipmem_core.pairs.readers.rows import Row, Rows
from clipmem_core.pairs.readers.text import as_name, is_missing, printable, tidy
from clipmem_core.pairs.references import file_faults, normal_reference

_PLANTED = {names.MISCAPTION, names.VAGUE, names.DUPLICATE, names.ATYPICAL}
_EMPTY = "caption is empty"


@dataclass(slots=True)
class _Pair:
    pair_id: str
    label: str | None = None
    planted: str | None = None
    captions: dict[str, None] = field(default_factory=dict)  # a set that keeps its order


def merge_rows(rows: Rows) -> tuple[int, pd.DataFrame, pd.DataFrame]:
    """Check and merge rows.

    Returns:
        How many rows there were, the pairs in order of first appearance, and the quarantine.
    """
    checked = [clean for row in rows.rows for clean in _clean(row)]
    if rows.files:
        faults = file_faults(rows.root, dict.fromkeys(row.image for row in checked if not row.reason))
        checked = [
            row if row.reason or row.image not in faults else _refused(row, faults[row.image]) for row in checked
        ]
    pairs, refused = _merge(checked)
    return len(checked), _pair_table(pairs), _quarantine_table(refused)


def _clean(row: Row) -> Iterator[Row]:
    """Yield the row with clean values, captions as a list; where it holds empty captions beside others, these apart."""
    if row.reason:
        yield row
        return
    try:
        image = normal_reference(_reference(row.image))
        captions = _captions(row.captions)
    except InputError as error:
        yield _refused(row, str(error))
        return
    kept = [caption for caption in captions if caption]
    pair_id = as_name(row.pair_id)
    if kept:
        yield Row(row.source, image, kept, as_name(row.label), pair_id, as_name(row.planted))
    for _ in range(len(captions) - len(kept) if kept else 1):
        yield Row(row.source, image, pair_id=pair_id, reason=_EMPTY)


def _reference(image: Any) -> str:
    if is_missing(image):
        raise InputError("image reference is missing")
    if not isinstance(image, str):
        raise InputError(f"image reference is not text but {type(image).__name__}")
    if not (image := image.replace("\0", "").strip()):
        raise InputError("image reference is empty")
    return image


def _captions(value: Any) -> list[str]:
    """Return the tidied captions, empty ones included."""
    if is_missing(value):
        raise InputError("caption is missing")
    entries = value if isinstance(value, list) else [value]
    return [_caption(entry) for entry in entries]


def _caption(entry: Any) -> str:
    if is_missing(entry):
        return ""
    if not isinstance(entry, str):
        raise InputError(f"caption is not text but {type(entry).__name__}")
    return tidy(entry)


def _refused(row: Row, reason: str) -> Row:
    return row._replace(reason=reason)


def _merge(rows: Iterable[Row]) -> tuple[dict[str, _Pair], list[Row]]:
    """Gather rows by picture. An id belongs to the first picture that bears it; other pictures' rows are refused."""
    pairs: dict[str, _Pair] = {}
    owners: dict[str, str] = {}
    refused = []
    for row in rows:
        if row.reason:
            refused.append(row)
            continue
        pair_id = row.pair_id or row.image
        owner = owners.setdefault(pair_id, row.image)
        if owner != row.image:
            refused.append(_refused(row, f"id {pair_id!r} already belongs to {owner!r}"))
            continue
        _add(pairs.setdefault(row.image, _Pair(pair_id)), row)
    return pairs, refused


def _add(pair: _Pair, row: Row) -> None:
    pair.captions.update(dict.fromkeys(row.captions))
    pair.label = pair.label or row.label
    pair.planted = pair.planted or (row.planted if row.planted in _PLANTED else None)


def _pair_table(pairs: dict[str, _Pair]) -> pd.DataFrame:
    values = {
        names.PAIR_ID: [pair.pair_id for pair in pairs.values()],
        names.IMAGE: list(pairs),
        names.CAPTIONS: [list(pair.captions) for pair in pairs.values()],
        names.LABEL: [pair.label for pair in pairs.values()],
        names.PLANTED: [pair.planted for pair in pairs.values()],
    }
    return pd.DataFrame(values, dtype=object)


def _quarantine_table(rows: list[Row]) -> pd.DataFrame:
    values = {
        names.SOURCE: [printable(row.source) for row in rows],
        names.PAIR_ID: [_named(row) for row in rows],
        names.REASON: [printable(row.reason) for row in rows],
    }
    return pd.DataFrame(values, dtype=object)


def _named(row: Row) -> str | None:
    """Return the id a refused row would have had: the given one, else its picture's path."""
    image = tidy(row.image) if isinstance(row.image, str) and not is_missing(row.image) else None
    return as_name(row.pair_id) or image or None
