"""The rows of a study → each arm beside the reference arm: means, paired differences, intervals over seeds."""

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.scores.seeds import Difference, paired_difference
from clipmem_core.studies.store import (
    ARM,
    CLIPMEM_CANDIDATE,
    CLIPMEM_EXTERNAL,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SAMPLES_SEEN,
    SECONDS,
    SEED,
)

TEXT_LEAD = "text_minus_image"
# Nobody trains on external pairs: what f aligns them better than g is an offset between the two, not memorization.
CLIPMEM_NET = "clipmem_net"
MEASURES = (
    *(CLIPMEM_CANDIDATE, CLIPMEM_NET, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, TEXT_LEAD),
    *(RETRIEVAL, "linear_probe", "zero_shot", SAMPLES_SEEN, SECONDS, PEAK_MB),
)
COLUMNS = [ARM, "measure", "n", "value", "difference", "low", "high", "p_value", "detectable"]


def with_lead(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with how far the text encoder's contribution leads the image encoder's, and with the mean
    clipmem of candidates beyond that of external pairs."""
    found = table.assign(**{TEXT_LEAD: table[c.CLIPMEM_TEXT] - table[c.CLIPMEM_IMAGE]})
    if CLIPMEM_EXTERNAL in found:
        found[CLIPMEM_NET] = found[CLIPMEM_CANDIDATE] - found[CLIPMEM_EXTERNAL]
    return found


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare every arm with the reference arm, seed by seed.

    Args:
        table: arms.parquet, or a part of it.
        reference: the name of the reference arm.

    Returns:
        One row an arm and measure: n seeds that both have, `value` the arm's mean over them, `difference` to the
        reference with its 95 % interval, p value and smallest detectable difference; of the reference itself, whose
        difference is none, `low` and `high` are empty. Arms without a seed in common are left out.
    """
    table = with_lead(table)
    arms = list(dict.fromkeys(table[ARM]))
    measures = [name for name in MEASURES if name in table and table[name].notna().any()]
    rows = [_row(table, arm, reference, measure) for arm in arms for measure in measures]
    return pd.DataFrame([row for row in rows if row], columns=COLUMNS)


def mean_of(table: pd.DataFrame, arm: str, measure: str) -> Difference | None:
    """Return the mean of a measure over an arm's seeds with its interval; None where there is no seed."""
    values = table.loc[table[ARM] == arm, measure].dropna()
    return paired_difference(values.tolist(), np.zeros(len(values)).tolist()) if len(values) else None


def difference_of(table: pd.DataFrame, arm: str, reference: str, measure: str) -> Difference | None:
    """Return the paired difference of two arms in a measure; None where they share no seed."""
    sides = [table.loc[table[ARM] == name].set_index(SEED)[measure].dropna() for name in (arm, reference)]
    shared = sides[0].index.intersection(sides[1].index)
    return paired_difference(*(side.loc[shared].tolist() for side in sides)) if len(shared) else None


def front(points: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the arms that no other beats, from left to right: none has less of x and as much of y, or more.

    Args:
        points: one row an arm, its name in the column `arm`; rows without x or y are passed over.
        x: the column of which less is better.
        y: the column of which more is better.

    Example:
        >>> points = pd.DataFrame({"arm": ["none", "a", "b"], "clipmem": [0.3, 0.2, 0.25], "recall": [0.5, 0.4, 0.3]})
        >>> front(points, "clipmem", "recall")
        ['a', 'none']
    """
    known = points.dropna(subset=[x, y]).sort_values([x, y], ascending=[True, False], kind="stable")
    # Of those with the same x the best y comes first, so that an arm is beaten by one before it or by none.
    found, best, at = [], -np.inf, np.nan
    for arm, left, up in known[[ARM, x, y]].itertuples(index=False, name=None):
        if up > best or (up == best and left == at):
            found.append(str(arm))
            best, at = up, left
    return found


def _row(table: pd.DataFrame, arm: str, reference: str, measure: str) -> dict[str, object]:
    found = difference_of(table, arm, reference, measure)
    if found is None:
        return {}
    seeds = table.loc[table[ARM] == reference, SEED]
    value = table.loc[(table[ARM] == arm) & table[SEED].isin(seeds), measure].mean()
    row = {ARM: arm, "measure": measure, "n": found.n, "value": value, "difference": found.mean}
    if arm == reference:
        return row
    return row | {"low": found.low, "high": found.high, "p_value": found.p_value, "detectable": found.detectable}
