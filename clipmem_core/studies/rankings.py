"""Which pairs a study takes out of training first, by each way to rank them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.scores.table import REMOVAL, scores_in
from clipmem_core.training.draws import draw_keys, hashed

RANDOM = "random"
# What the pairs to take out first have: the highest value (1) or the lowest (−1).
DIRECTIONS = {name: score.direction for name, score in scores_in(REMOVAL).items()}


@dataclass(frozen=True)
class Removal:
    """Take n of the shared pairs out of the training of f and g, the first of a ranking."""

    by: str  # a column of DIRECTIONS, or random
    n: int

    def __post_init__(self) -> None:
        if self.by not in (*DIRECTIONS, RANDOM):
            raise ValueError(f"by must be one of {', '.join((*DIRECTIONS, RANDOM))}, not {self.by!r}")


def taken_out(removal: Removal, scores: pd.DataFrame, pool: np.ndarray, *, seed: int) -> frozenset[str]:
    """Return the ids of the pairs that a removal takes out; equal scores are ordered by chance.

    A random removal draws from the same pairs as the others, those with scores, and a larger one holds a smaller.

    Args:
        removal: how many, and by what.
        scores: scores.parquet of an audit in which the pool was scored.
        pool: ids that may be taken out, [n_pool].
        seed: of what is left to chance.

    Raises:
        ValueError: fewer pairs have a score than are to be taken out.
    """
    value = c.CLIPMEM if removal.by == RANDOM else removal.by
    found = scores.loc[scores[c.PAIR_ID].isin(pool), [c.PAIR_ID, value]].dropna()
    if len(found) < removal.n:
        raise ValueError(f"{removal.n} pairs are to be taken out by {removal.by}, and {len(found)} have a score")
    chance = hashed(draw_keys(found[c.PAIR_ID].tolist()), seed)
    rank = np.zeros(len(found)) if removal.by == RANDOM else -DIRECTIONS[removal.by] * found[value].to_numpy()
    order = np.lexsort([chance, rank])
    return frozenset(found[c.PAIR_ID].to_numpy()[order[: removal.n]])
