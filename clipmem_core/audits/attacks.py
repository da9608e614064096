"""The attacks on the members of an audit: a metric of each member, and rows of the verdict with their intervals."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.scoring import RESAMPLED, Evidence, records
from clipmem_core.scores.attacks import (
    BAVARIA,
    COLUMNS,
    FEWEST,
    MEASURES,
    Shadows,
    attack,
    attack_table,
    roc,
    shadows_of,
)

MOST_ATTACKED = 1_000_000  # pairs; of more, as many are drawn at random
_DRAW = 7  # a random stream of its own
DRAWS = (100, 300)  # of pairs, for an interval: as many as `RESAMPLED` allows


def attack_members(evidence: Evidence) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Attack every member with the others.

    Returns:
        Rows of utility.parquet, the default attack's measures of each member that has them, and rows of the verdict,
        as `attack_table` has them, each attack's values or why there are none.
    """
    sides, members = evidence.sides, evidence.sides.membership.members
    if len(members) < FEWEST:
        missing = f"needs at least {FEWEST} members, a target and a shadow on either side, not {len(members)}"
        rows = pd.DataFrame({"attack": BAVARIA, "measure": MEASURES, "targets": 0, "missing": missing})
        return pd.DataFrame(columns=c.UTILITY_COLUMNS), records(rows.reindex(columns=COLUMNS))
    found = attack(evidence.alignments, _of_some(shadows_of(sides)))
    draws = int(np.clip(RESAMPLED // sum(len(one.rows) for one in found), *DRAWS))
    metrics = [
        (name, c.ATTACK_METRICS[measure], value)
        for name, one in zip(members, found, strict=True)
        for measure, value in roc(one, BAVARIA).items()
        if not np.isnan(value)
    ]
    table = attack_table(found, n_boot=draws, seed=sides.seed)
    return pd.DataFrame(metrics, columns=c.UTILITY_COLUMNS), records(table)


def _of_some(shadows: Shadows) -> Shadows:
    """Return the shadows, attacked on no more pairs than `MOST_ATTACKED`."""
    judged = np.flatnonzero(shadows.judged.all(axis=0))
    if len(judged) <= MOST_ATTACKED:
        return shadows
    drawn = np.random.default_rng([shadows.seed, _DRAW]).choice(judged, MOST_ATTACKED, replace=False)
    some = np.zeros(shadows.judged.shape[1], bool)
    some[drawn] = True
    return dataclasses.replace(shadows, judged=np.broadcast_to(some, shadows.judged.shape))
