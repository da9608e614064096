"""How well the other members of an arm tell what one of them was trained on: columns of arms.parquet.

The attack of a seed takes the arm's members of all its other seeds as shadows. Where every seed draws its own split, a
shadow is trained on most pairs and not on some; where seeds share one split, all f are trained on the same pairs and
all g on others, so that what f and g differ in by the other pairs of their groups helps the attack too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.prepare import membership_of, sides_of
from clipmem_core.audits.store import Audit, read_embeddings
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, Shadows, attack, roc
from clipmem_core.studies.store import ARM, ATTACK_SHADOWS

COLUMNS = (*c.ATTACK_METRICS.values(), ATTACK_SHADOWS)
FEWEST_SEEDS = 2


@dataclass(frozen=True, eq=False)
class Trained:
    """An f and a g of an arm: the audit they are in, their number there, and the pairs that arms are compared on."""

    audit: Audit
    number: int
    compared: np.ndarray  # bool [n_pairs]


def stale(rows: pd.DataFrame) -> list[str]:
    """Return the arms of a table whose members were attacked with fewer shadows than there are now, or not at all."""
    shadows = rows.reindex(columns=[ARM, ATTACK_SHADOWS])
    counts = shadows.groupby(ARM, sort=False)[ATTACK_SHADOWS].agg(["size", "min", "count"])
    old = (counts["min"] != 2 * (counts["size"] - 1)) | (counts["count"] < counts["size"])
    return [str(arm) for arm in counts.index[old & (counts["size"] >= FEWEST_SEEDS)]]


def attack_arm(seeds: Sequence[Trained]) -> list[dict[str, float]]:
    """Attack f and g of each seed of an arm with those of its other seeds.

    Args:
        seeds: all that are done, of the same pairs in the same order; at least two.

    Returns:
        The columns of each seed's row: the mean of f and g as the target, NaN where a number cannot be told, and how
        many shadows there were.
    """
    alignments, sides = [], []
    for seed in seeds:
        names = (f"f-{seed.number}", f"g-{seed.number}")
        membership = membership_of(seed.audit.membership[[c.PAIR_ID, c.GROUP, *names]])
        own = sides_of(seed.audit, seed.audit.record.config, membership)
        sides.append(own)
        for name in names:
            alignments.append(pair_terms(*read_embeddings(seed.audit.member(name)), own.external)[c.ALIGNMENT])
    judged = [
        np.isin(own.membership.group, c.SCORED_GROUPS) & seed.compared for own, seed in zip(sides, seeds, strict=True)
    ]
    shadows = Shadows(
        trained=np.concatenate([own.membership.trained for own in sides]),
        judged=np.repeat(judged, 2, axis=0),
        external=np.repeat([own.external for own in sides], 2, axis=0),
        replicate=np.repeat(np.arange(len(seeds)), 2),
        seed=sides[0].seed,
    )
    told = [roc(one, BAVARIA) for one in attack(alignments, shadows, attacks=(BAVARIA,))]
    return [
        {c.ATTACK_METRICS[measure]: (f[measure] + g[measure]) / 2 for measure in c.ATTACK_METRICS}
        | {ATTACK_SHADOWS: len(alignments) - 2}
        for f, g in zip(told[::2], told[1::2], strict=True)
    ]
