"""An arm of a study beside what it is judged against → how near it comes to the aim: a quarter less memorization at
hardly any loss."""

import math
from dataclasses import dataclass

import pandas as pd

from clipmem_core.columns import ONE_SPLIT
from clipmem_core.config import FIELDS
from clipmem_core.scores.seeds import Difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.compare import difference_of, differences, mean_of
from clipmem_core.studies.mitigations import NONE, UNTRAINED
from clipmem_core.studies.store import ARM, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SEED

LESS = 0.25  # of mean candidate clipmem: what one setting should take away
LOSS = 0.05  # of primary utility: what it may cost at most
JUDGED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL)


def percent(share: float) -> str:
    """Return a share in percent, without a break before its sign."""
    return f"{100 * share:.0f}\u00a0%"


AIM = (
    f"at least {percent(LESS)} less mean clipmem, less membership AUROC, and of retrieval at most {percent(LOSS)} "
    f"lost, each at the worse end of its interval over {ONE_SPLIT}"
)


@dataclass(frozen=True)
class Outcome:
    """What an arm did, over the seeds that it and its reference share; each at the end of its interval that is worse,
    of one seed at its value. NaN where a mean of the reference may as well be 0."""

    n: int
    less: float  # share of mean candidate clipmem that it takes away
    auroc: float  # difference in membership AUROC
    loss: float  # share of retrieval lost

    @property
    def judged(self) -> bool:
        """Tell whether the seeds are enough, and the reference had something to lower and to lose."""
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
    """Return what an arm did beside what it is judged against; None where a measure is missing or they share no seed.

    Args:
        arms: arms.parquet, or a part of it.
        arm: the name of one.
    """
    reference = judged_against(arms, arm)
    found = {name: difference_of(arms, arm, reference, name) for name in JUDGED}
    clipmem, auroc, retrieval = (found[name] for name in JUDGED)
    if clipmem is None or auroc is None or retrieval is None:
        return None
    most, auroc_most = (one.high if one.n > 1 else one.mean for one in (clipmem, auroc))
    lowest = retrieval.low if retrieval.n > 1 else retrieval.mean
    less, lost = (base_of(arms, arm, name, reference) for name in (CLIPMEM_CANDIDATE, RETRIEVAL))
    return Outcome(clipmem.n, -most / less, auroc_most, -lowest / lost)


def judged_against(arms: pd.DataFrame, arm: str) -> str:
    """Return the reference that an arm is judged against: `none`, or, of an arm that leaves tokens out, the one that
    leaves out only what nobody trained, where the study has it."""
    reference = untrained_of(arms)
    return reference if reference and arm in leaving_out(arms) else NONE


def untrained_of(arms: pd.DataFrame) -> str:
    """Return the arm that leaves out only tokens that no trained pair has; empty where it has no row."""
    return next((name for name in UNTRAINED if (arms[ARM] == name).any()), "")


def leaving_out(arms: pd.DataFrame) -> list[str]:
    """Return the arms that leave tokens out, never read or forgotten, but for the one that `untrained_of` returns."""
    rare = [name for name, own in FIELDS.items() if own.part == "vocabulary"]
    fields = arms.reindex(columns=rare).apply(pd.to_numeric, errors="coerce")
    return [str(arm) for arm in arms.loc[(fields > 0).any(axis=1), ARM].unique() if arm not in UNTRAINED]


def all_differences(arms: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare every arm with the reference arm as `differences` does, and those that are judged against another with
    that one too.

    Args:
        arms: arms.parquet.
        reference: of the study.

    Returns:
        The rows of `differences`, with the arm that each was compared with in the column reference.
    """
    found = [differences(arms, reference).assign(reference=reference)]
    if other := untrained_of(arms):
        compared = differences(arms[arms[ARM].isin([other, *leaving_out(arms)])], other).assign(reference=other)
        found.append(compared[compared[ARM] != other])
    return pd.concat(found, ignore_index=True)


def base_of(arms: pd.DataFrame, arm: str, measure: str, reference: str = NONE) -> float:
    """Return the mean of the reference, over the seeds that an arm has too, that a difference is a share of; NaN where
    it is not above 0, or where the interval over seeds leaves that open."""
    shared = arms[(arms[ARM] == reference) & arms[SEED].isin(arms.loc[arms[ARM] == arm, SEED])]
    found: Difference | None = mean_of(shared, reference, measure)
    if found is None or not (found.low if found.n >= MIN_REPLICATES else found.mean) > 0:
        return math.nan
    return found.mean
