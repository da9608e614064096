"""An arm of a study beside `none` → how near it comes to the aim: a quarter less memorization at hardly any loss."""

import math
from dataclasses import dataclass

import pandas as pd

from clipmem_core.scores.paired import Difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.compare import difference_of, mean_of
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.store import ARM, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SEED

LESS = 0.25  # of mean candidate clipmem: what one setting should take away
LOSS = 0.05  # of primary utility: what it may cost at most
JUDGED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL)


def percent(share: float) -> str:
    """Return a share in percent, without a break before its sign."""
    return f"{100 * share:.0f}\u00a0%"


AIM = (
    f"at least {percent(LESS)} less mean clipmem, less membership AUROC, and of retrieval at most {percent(LOSS)} lost "
    "at the lower end of the interval"
)


@dataclass(frozen=True)
class Outcome:
    """What an arm did, over the seeds that it and `none` share; NaN where a mean of `none` may as well be 0."""

    n: int
    less: float  # share of mean candidate clipmem that it takes away
    auroc: float  # difference in membership AUROC
    loss: float  # share of retrieval lost, at the lower end of the interval; of one seed at its value

    @property
    def judged(self) -> bool:
        """Tell whether the seeds are enough, and `none` had something to lower and to lose."""
        return self.n >= MIN_REPLICATES and not math.isnan(self.less + self.loss)

    @property
    def reached(self) -> bool:
        """Tell whether it reaches the aim."""
        return self.judged and self.less >= LESS and self.auroc < 0 and self.loss <= LOSS

    @property
    def missed(self) -> float:
        """By how much of a share it misses, at the worse of both ends; below 0 where it does not."""
        return max(LESS - self.less, self.loss - LOSS)


def outcome_of(arms: pd.DataFrame, arm: str) -> Outcome | None:
    """Return what an arm did beside `none`; None where a measure is missing or they share no seed.

    Args:
        arms: arms.parquet, or a part of it.
        arm: the name of one.
    """
    found = {name: difference_of(arms, arm, NONE, name) for name in JUDGED}
    clipmem, auroc, retrieval = (found[name] for name in JUDGED)
    if clipmem is None or auroc is None or retrieval is None:
        return None
    lowest = retrieval.low if retrieval.n > 1 else retrieval.mean
    base = {name: base_of(arms, arm, name) for name in JUDGED}
    return Outcome(clipmem.n, -clipmem.mean / base[CLIPMEM_CANDIDATE], auroc.mean, -lowest / base[RETRIEVAL])


def base_of(arms: pd.DataFrame, arm: str, measure: str) -> float:
    """Return the mean of `none`, over the seeds that an arm has too, that a difference is a share of; NaN where it is
    not above 0, or where the interval over seeds leaves that open."""
    shared = arms[(arms[ARM] == NONE) & arms[SEED].isin(arms.loc[arms[ARM] == arm, SEED])]
    found: Difference | None = mean_of(shared, NONE, measure)
    if found is None or not (found.low if found.n >= MIN_REPLICATES else found.mean) > 0:
        return math.nan
    return found.mean
