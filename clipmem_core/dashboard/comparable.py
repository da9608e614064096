"""The audits there are → those that can be compared with each other, and how they compare, found once."""

import functools
from typing import Any

import pandas as pd

from clipmem_core.audits.settings import flat
from clipmem_core.audits.store import SCORES, Audit, is_name, list_audits
from clipmem_core.columns import PAIR_ID
from clipmem_core.config import InputError, as_dict
from clipmem_core.review.compare import Comparison, compare
from clipmem_core.review.tables import Version, fetch_arrow, version_of

CHANGED = 96  # pairs that changed most


def finished_audits() -> list[Audit]:
    """Return every finished audit, the newest first."""
    return [audit for audit in list_audits() if is_name(audit.name) and audit.finished]


def partners(one: Audit, audits: list[Audit]) -> list[Audit]:
    """Return the audits that have pairs of an audit in them; those of the very same data set come first.

    An audit that is broken is none, unless it is of the same data set.
    """
    others = [audit for audit in audits if audit.name != one.name]
    same = [audit for audit in others if same_data_set(one, audit)]
    return same + [audit for audit in others if audit not in same and _shares_pairs(one, audit)]


def same_data_set(one: Audit, other: Audit) -> bool:
    """Tell whether two audits are of one version of one data set."""
    first, second = _fingerprint(one), _fingerprint(other)
    return first is not None and first == second


def _fingerprint(audit: Audit) -> Any:
    try:
        return audit.record.dataset_fingerprint
    except InputError:
        return None


def _shares_pairs(one: Audit, other: Audit) -> bool:
    try:
        return _share_pairs(one, version_of(one), other, version_of(other))
    except InputError:
        return False


@functools.lru_cache(maxsize=256)
def _share_pairs(one: Audit, version_one: Version, other: Audit, version_other: Version) -> bool:
    theirs = fetch_arrow(other.folder / SCORES, f'SELECT "{PAIR_ID}" FROM parquet')
    query = f'SELECT "{PAIR_ID}" FROM parquet JOIN theirs USING ("{PAIR_ID}") LIMIT 1'
    return fetch_arrow(one.folder / SCORES, query, theirs=theirs).num_rows > 0


def compared(one: Audit, other: Audit, column: str) -> Comparison:
    """Return how a score compares between two audits.

    Raises:
        InputError: they share no pair, or a file of either is missing or broken.
    """
    for audit in (one, other):
        settings_of(audit)
    return _compared(one, version_of(one), other, version_of(other), column)


@functools.lru_cache(maxsize=4)
def _compared(one: Audit, version_one: Version, other: Audit, version_other: Version, column: str) -> Comparison:
    return compare(one, other, column=column, limit=CHANGED)


def settings_of(audit: Audit) -> dict[str, Any]:
    """Return the settings that an audit ran with, by the names of their flags.

    Raises:
        InputError: its config.json is missing or broken.
    """
    return flat(as_dict(audit.record.config))


def differing_fields(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    first, second = settings_of(one), settings_of(other)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    rows = [(name, *(_shown(settings.get(name)) for settings in (first, second))) for name in names]
    return pd.DataFrame(rows, columns=["setting", "first", "second"], dtype=str)


def _shown(value: Any) -> str:
    return "–" if value in (None, "") else str(value)
