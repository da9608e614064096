"""UnitMem by layer beside what it is read against, the units that stand out most, and what claim 1 comes to."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from clipmem_core.audits import unitmem_tables as t
from clipmem_core.audits.unitmem_tables import layer_means
from clipmem_core.columns import MEMBER
from clipmem_core.scores.seeds import over_seeds, seed_interval
from clipmem_core.scores.uncertainty import MIN_REPLICATES

VARIANTS = {"mean": t.UNITMEM_MEAN, "median": t.UNITMEM_MEDIAN}
MEMBERS = "members"
PARADIGM_NAMES = {t.CLIP: "CLIP", t.SUPERVISED: "supervised", t.SELF_SUPERVISED: "self-supervised"}
SOURCE, DEPTH, LEADS = "source", "depth", "leads"


def tower_layers(units: pd.DataFrame, references: pd.DataFrame | None, *, column: str) -> pd.DataFrame:
    """Return UnitMem by layer of both encoders, and of the references.

    Args:
        units: as `read_units`.
        references: as `read_units` of `REFERENCES`.
        column: unitmem_mean or unitmem_median.

    Returns:
        tower, source (`members`, or the name of a reference), layer, mean, low and high: of the members their mean, the
        lowest and the highest one; of a reference the value alone.
    """
    grouped = layer_means(units).groupby([t.TOWER, t.LAYER], sort=False)[column]
    own = grouped.agg(mean="mean", low="min", high="max").reset_index().assign(**{SOURCE: MEMBERS})
    tables = [own]
    if references is not None:
        means = layer_means(references, by=[t.REFERENCE, t.TOWER, t.LAYER])
        tables.append(means.rename(columns={t.REFERENCE: SOURCE, column: "mean"}).assign(low=np.nan, high=np.nan))
    columns = [t.TOWER, SOURCE, t.LAYER, "mean", "low", "high"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def paradigm_layers(table: pd.DataFrame, *, column: str) -> pd.DataFrame:
    """Return UnitMem by layer of each paradigm over its seeds.

    Args:
        table: as `read_paradigms`.
        column: unitmem_mean or unitmem_median.

    Returns:
        paradigm, layer, depth (0 the first layer, 1 the last), n (seeds), mean, low and high: an interval where there
        are three seeds or more.
    """
    means = over_seeds(table, by=[t.PARADIGM, t.LAYER], measures=[column]).drop(columns="measure")
    known = means[means[t.PARADIGM].isin(t.PARADIGMS)]
    last = known[t.LAYER].max()
    depth = (known[t.LAYER] - 1) / (last - 1) if last > 1 else 0.5
    return known.assign(**{DEPTH: depth}).reset_index(drop=True)


def claim_1(table: pd.DataFrame, *, column: str) -> str:
    """Say whether CLIP's UnitMem lies between that of the two other paradigms, as far as the seeds allow.

    Args:
        table: as `read_paradigms`.
        column: unitmem_mean or unitmem_median.
    """
    by_seed = table.groupby([t.PARADIGM, t.SEED])[column].mean().unstack(t.PARADIGM)
    names = [name for name in t.PARADIGMS if name in by_seed]
    listed = ", ".join(f"{PARADIGM_NAMES[name]} {by_seed[name].mean():.3f}" for name in names)
    told = f"Mean UnitMem over the layers: {listed}."
    if len(names) < len(t.PARADIGMS):
        missing = " and ".join(PARADIGM_NAMES[name] for name in t.PARADIGMS if name not in names)
        return f"{told} Claim 1 compares three paradigms: {missing} is not there, or cannot be taught on these pairs."
    complete = by_seed.dropna()
    if len(complete) < MIN_REPLICATES:
        return f"{told} Claim 1 (CLIP lies between the other two): seeds so far: {len(complete)}, too few to say more."
    sides = {name: _sign(complete[name] - complete[t.CLIP]) for name in (t.SUPERVISED, t.SELF_SUPERVISED)}
    return f"{told} Claim 1 (CLIP lies between the other two): {_place(sides)}."


def _place(sides: Mapping[str, int]) -> str:
    """Return where CLIP lies, by the side of it on which the others do."""
    words = {1: "lies above it", -1: "lies below it", 0: "cannot be told from it"}
    each = " and ".join(f"{PARADIGM_NAMES[name]} {words[side]}" for name, side in sides.items())
    if 0 in sides.values():
        return f"the seeds leave it open, since {each}"
    if len(set(sides.values())) == 2:
        return "so it does here"
    return f"here it lies {'below' if 1 in sides.values() else 'above'} both"


def _sign(differences: pd.Series) -> int:
    """Return the side of 0 on which the interval over seeds lies; 0 where it holds 0."""
    low, high = seed_interval(differences.to_numpy())
    return 1 if low > 0 else -1 if high < 0 else 0


def ranked_units(
    units: pd.DataFrame, *, column: str, member: str = "", tower: str = "", layer: int = 0, once: bool = False
) -> pd.DataFrame:
    """Return units, those that stand out most first; silent ones have no UnitMem and are left out.

    Args:
        units: as `read_units`.
        column: unitmem_mean or unitmem_median, by which they are ordered; of equal ones the larger margin first.
        member: only its units; empty takes all.
        tower: only this encoder's; empty takes both.
        layer: only this layer's, from 1; 0 takes all.
        once: of the units that one pair sets off, only the first.

    Returns:
        Their rows, and `leads`: how many units of the same member the same pair sets off most.
    """
    fired = units[units[column].notna()]
    leads = fired.groupby([MEMBER, t.ROW], sort=False)[t.UNIT].transform("size")
    chosen = fired.assign(**{LEADS: leads})
    for name, value in ((MEMBER, member), (t.TOWER, tower), (t.LAYER, layer)):
        chosen = chosen[chosen[name] == value] if value else chosen
    margin = chosen["max"] - chosen["second"]
    order = np.lexsort((chosen[t.UNIT], -margin, -chosen[column]))
    ranked = chosen.iloc[order]
    return (ranked.drop_duplicates(t.ROW) if once else ranked).reset_index(drop=True)
