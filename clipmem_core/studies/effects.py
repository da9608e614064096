"""Each arm of a study beside its reference: paired differences over splits, and the criterion of success.

Seeds that share a split are averaged first: they say nothing of other pairs. A study from before splits varied has one,
and its intervals are over training seeds. A setting succeeds with a quarter less memorization at hardly any loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import FIELDS
from clipmem_core.scores.seeds import MIN_REPLICATES, Difference, holm, paired_difference
from clipmem_core.studies.arm import NONE
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
    SPLIT,
)

TEXT_LEAD = "text_minus_image"
# Nobody trains on external pairs: what f aligns them better than g is an offset between the two, not memorization.
CLIPMEM_NET = "clipmem_net"
MEASURES = (
    *(CLIPMEM_CANDIDATE, CLIPMEM_NET, MEMBERSHIP_AUROC, c.ATTACK_AUROC, c.ATTACK_TPR),
    *(c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, TEXT_LEAD),
    *(RETRIEVAL, "retrieval_rare", "retrieval_other", "linear_probe", "zero_shot", SAMPLES_SEEN, SECONDS, PEAK_MB),
)
COLUMNS = [
    *(ARM, "measure", "n", "value", "difference", "low", "high", "p_value", "detectable"),
    *("arms", "low_of_all", "high_of_all", "p_of_all"),
]

LESS = 0.25  # of mean candidate clipmem: what one setting should take away
LOSS = 0.05  # of primary utility: what it may cost at most
JUDGED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL)
# Arms that leave out only tokens that no trained pair has, which `none` reads as the random vectors they began as: the
# plan's, and one that a person added.
UNTRAINED = ("forget-untrained", "text_forget_df-1")


def percent(share: float) -> str:
    """Return a share in percent, without a break before its sign."""
    return f"{100 * share:.0f}\u00a0%"


AIM = (
    f"at least {percent(LESS)} less mean clipmem, less membership AUROC, and of retrieval at most {percent(LOSS)} "
    "lost, each at the worse end of its interval"
)


def replicates(table: pd.DataFrame) -> str:
    """Return what intervals of a study are over: its splits, or the training seeds of the only one."""
    return c.SPLITS if SPLIT in table else c.ONE_SPLIT


def counted(n: int, table: pd.DataFrame) -> str:
    """Return so many of what intervals are over.

    Example:
        >>> counted(1, pd.DataFrame({"split": [0]})), counted(3, pd.DataFrame())
        ('1 split', '3 seeds')
    """
    return f"{n} {'split' if SPLIT in table else 'seed'}{'s' if n > 1 else ''}"


def with_lead(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with how far the text encoder's contribution leads the image encoder's, and with the mean
    clipmem of candidates beyond that of external pairs."""
    found = table.assign(**{TEXT_LEAD: table[c.CLIPMEM_TEXT] - table[c.CLIPMEM_IMAGE]})
    if CLIPMEM_EXTERNAL in found:
        found[CLIPMEM_NET] = found[CLIPMEM_CANDIDATE] - found[CLIPMEM_EXTERNAL]
    return found


def names_of(table: pd.DataFrame) -> list[str]:
    """Return the arms of a table, each once, as they come."""
    return list(dict.fromkeys(table[ARM]))


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare every arm with the reference arm, seed by seed.

    Args:
        table: arms.parquet, or a part of it.
        reference: the name of the reference arm.

    Returns:
        One row an arm and measure: n splits (of one split, seeds) that both have, `value` the arm's mean over them,
        `difference` to the reference with its 95 % interval, p value and smallest detectable difference; of the
        reference itself, whose difference is none, `low` and `high` are empty. Then the same corrected for how many
        `arms` are compared in this measure: ends of simultaneous 95 % intervals (Bonferroni's t, which holds however
        arms depend on each other), and Holm's p. Arms without a seed in common are left out.
    """
    table = with_lead(table)
    compared = [name for name in names_of(table) if name != reference]
    seeds = table[SEED].isin(table.loc[table[ARM] == reference, SEED]).to_numpy()
    known = {name: _seen(table, name) for name in MEASURES if name in table and table[name].notna().any()}
    rows = []
    for arm in names_of(table):
        for measure, seen in known.items():
            found = _paired(seen, arm, reference)
            if found is not None:
                value = pd.Series(seen.values[(seen.arms == arm) & seeds]).mean()
                rest = [np.nan] * 4 if arm == reference else [found.low, found.high, found.p_value, found.detectable]
                of_all = [np.nan] * 2 if arm == reference else list(found.of_all(len(compared)))
                rows.append([arm, measure, found.n, value, found.mean, *rest, len(compared), *of_all])
    found_all = pd.DataFrame(rows, columns=COLUMNS[:-1])
    corrected = found_all.groupby("measure", sort=False)["p_value"].transform(lambda p: holm(p.to_numpy()))
    return found_all.assign(**{COLUMNS[-1]: corrected.astype(float)})


def mean_of(table: pd.DataFrame, arm: str, measure: str) -> Difference | None:
    """Return the mean of a measure over an arm's splits with its interval; None where there is no seed."""
    seen = _seen(table, measure)
    values = seen.by_split((seen.arms == arm) & ~np.isnan(seen.values))
    return paired_difference(values.tolist(), np.zeros(len(values)).tolist()) if len(values) else None


def difference_of(table: pd.DataFrame, arm: str, reference: str, measure: str) -> Difference | None:
    """Return the paired difference of two arms in a measure; None where they share no seed."""
    return _paired(_seen(table, measure), arm, reference)


class _Seen(NamedTuple):
    """A measure as arrays, a row an arm and seed: pandas takes milliseconds to pick an arm's."""

    arms: np.ndarray
    seeds: np.ndarray
    splits: np.ndarray  # of a study with one split the seeds
    values: np.ndarray  # float64, NaN where there is none

    def by_split(self, rows: np.ndarray) -> np.ndarray:
        """Return the means of some rows by split, in the order of the splits."""
        splits, values = self.splits[rows], self.values[rows]
        if len(np.unique(splits)) == len(splits):
            return values[np.argsort(splits)]
        return pd.Series(values).groupby(splits).mean().to_numpy()


def _seen(table: pd.DataFrame, measure: str) -> _Seen:
    arms, seeds, splits = (table[name].to_numpy() for name in (ARM, SEED, SPLIT if SPLIT in table else SEED))
    return _Seen(arms, seeds, splits, table[measure].to_numpy(dtype=np.float64))


def _paired(seen: _Seen, arm: str, reference: str) -> Difference | None:
    sides = [(seen.arms == name) & ~np.isnan(seen.values) for name in (arm, reference)]
    shared = np.isin(seen.seeds, np.intersect1d(*(seen.seeds[side] for side in sides)))
    if not shared.any():
        return None
    return paired_difference(*(seen.by_split(side & shared).tolist() for side in sides))


def by_split(table: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Return a row a split of each thing that `by` tells apart, the means of measures over its seeds; of a study with
    one split the table."""
    return table.groupby([*by, SPLIT], sort=False)[list(measures)].mean().reset_index() if SPLIT in table else table


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


@dataclass(frozen=True)
class Outcome:
    """What an arm did, over the splits (of one split, the seeds) that it and its reference share; each at the end of
    its interval that is worse, of one at its value. NaN where a mean of the reference may as well be 0."""

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


def outcome_of(arms: pd.DataFrame, arm: str, *, of_all: bool = False) -> Outcome | None:
    """Return what an arm did beside what it is judged against; None where a measure is missing or they share no seed.

    Args:
        arms: arms.parquet, or a part of it.
        arm: the name of one.
        of_all: by simultaneous intervals over all arms of the table, which hold for the best of many too.
    """
    reference = judged_against(arms, arm)
    clipmem, auroc, retrieval = (difference_of(arms, arm, reference, name) for name in JUDGED)
    if clipmem is None or auroc is None or retrieval is None:
        return None
    many = len(names_of(arms)) - 1 if of_all else 1
    most, auroc_most = (one.of_all(many)[1] if one.n > 1 else one.mean for one in (clipmem, auroc))
    lowest = retrieval.of_all(many)[0] if retrieval.n > 1 else retrieval.mean
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
    found = mean_of(shared, reference, measure)
    if found is None or not (found.low if found.n >= MIN_REPLICATES else found.mean) > 0:
        return math.nan
    return found.mean
