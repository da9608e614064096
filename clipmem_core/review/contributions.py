"""What each encoder has to do with memorization: its part of clipmem and what speaks against the split, and UnitMem by
layer, by unit and by paradigm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import paradigms as p
from clipmem_core.audits import unitmem as t
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.audits.verdict import FLAT
from clipmem_core.review.overview import LIMIT, pair_density, sample_points
from clipmem_core.review.tables import ROW, count_pairs_of, fetch_arrow, number
from clipmem_core.scores.seeds import MIN_REPLICATES, over_seeds, seed_interval

IMAGE, TEXT = "image", "text"
PARTS = {IMAGE: c.CLIPMEM_IMAGE, TEXT: c.CLIPMEM_TEXT}
SSLMEM = {IMAGE: c.SSLMEM_IMAGE, TEXT: c.SSLMEM_TEXT}
MEMORIZED = (c.CANDIDATE, c.SCORED)  # the groups whose clipmem is memorization with its sign
NOT_PLANTED = "not planted"
POOR_FIT = 0.5  # mean cosine on held-out pairs below which mapped embeddings are nearer to strange than to their own
Z = 1.96
VARIANTS = {"mean": t.UNITMEM_MEAN, "median": t.UNITMEM_MEDIAN}
MEMBERS = "members"
PARADIGM_NAMES = {p.CLIP: "CLIP", p.SUPERVISED: "supervised", p.SELF_SUPERVISED: "self-supervised"}
SOURCE, DEPTH, LEADS = "source", "depth", "leads"


def load_contributions(audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the contributions of both encoders to the clipmem of every pair that has both.

    Returns:
        The pairs to draw, at most `LIMIT` of them at random: row, clipmem_image, clipmem_text, group, planted, label.
        And x, y and n of the cells with pairs in them, over all pairs; empty where all are drawn.

    Raises:
        InputError: a file of the audit is missing, broken, or does not fit the others.
    """
    points = sample_points(audit, *PARTS.values(), colour_by=[c.GROUP, c.PLANTED, c.LABEL], limit=LIMIT)
    density = pair_density(audit, *PARTS.values()) if len(points) == LIMIT else pd.DataFrame()
    return points, density if len(density) and density["n"].sum() > LIMIT else pd.DataFrame()


def encoder_means(
    audit: Audit, columns: Mapping[str, str] = PARTS, *, by: str, groups: Sequence[str] = c.GROUPS, limit: int = 50
) -> pd.DataFrame:
    """Average a score of each encoder over groups, labels or planted kinds.

    Args:
        audit: a finished audit.
        columns: the score of each encoder, `PARTS` or `SSLMEM`, in cosine units.
        by: `group`, `label` or `planted`.
        groups: only pairs of these.
        limit: the most frequent names, at most so many.

    Returns:
        A row a name and encoder: name, encoder, n, mean, low, high. The interval is mean ± 1.96 standard errors over
        pairs: other pairs would move the mean so far, other members are not in it. Groups come in their order, planted
        kinds before the pairs that are not planted, labels by how many pairs have them. A pair without a label has no
        name; NaN where an encoder has no value.
    """
    count_pairs_of(audit)
    source = SCORES if by == c.GROUP else PAIRS
    named = fetch_arrow(audit.folder / source, f'SELECT {ROW} AS place, CAST("{by}" AS VARCHAR) AS name FROM parquet')
    name = f"coalesce(name, '{NOT_PLANTED}')" if by == c.PLANTED else "name"
    numbers = ", ".join(_aggregates(encoder, column) for encoder, column in columns.items())
    query = f"""
        SELECT {name} AS name, count(*) AS n, {numbers} FROM parquet JOIN named ON {ROW} = place
        WHERE "{c.GROUP}" IN ({", ".join("?" * len(groups))}) AND {name} IS NOT NULL
        GROUP BY 1 ORDER BY n DESC, name LIMIT {limit}
    """
    wide = fetch_arrow(audit.folder / SCORES, query, list(groups), named=named).to_pandas()
    return _tidy(wide.sort_values("name", key=lambda names: names.map(_order_of), kind="stable"), columns)


def _aggregates(encoder: str, column: str) -> str:
    known = f"FILTER (WHERE isfinite({number(column)}))"
    return (
        f"count(*) {known} AS n_{encoder}, avg({number(column)}) {known} AS mean_{encoder}, "
        f"stddev_samp({number(column)}) {known} AS sd_{encoder}"
    )


def _order_of(name: str) -> int:
    return c.GROUPS.index(name) if name in c.GROUPS else len(c.GROUPS) + (name == NOT_PLANTED)


def _tidy(wide: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    rows = []
    for row in wide.to_dict("records"):
        for encoder in columns:
            n, mean, sd = (row[f"{what}_{encoder}"] for what in ("n", "mean", "sd"))
            half = Z * sd / np.sqrt(n) if n >= 2 else np.nan
            rows.append((row["name"], encoder, n, mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["name", "encoder", "n", "mean", "low", "high"])


def map_fit(verdict: Mapping[str, Any]) -> float | None:
    """Return how well the members' spaces map onto each other, as the verdict has it; None where it does not say."""
    fit = verdict.get("encoders", {}).get("fit")
    return float(fit) if isinstance(fit, int | float) else None


def why_no_parts(verdict: Mapping[str, Any]) -> str:
    """Return why an audit has no parts of the encoders, as the verdict has it; empty where it has them."""
    return str(verdict.get("encoders", {}).get("missing") or "")


def doubts(groups: pd.DataFrame, fit: float | None) -> list[str]:
    """Say what speaks against the split into two encoders; nothing where all is well.

    Args:
        groups: as `encoder_means` by group.
        fit: as `map_fit`.
    """
    found = []
    if fit is not None and fit < POOR_FIT:
        found.append(
            f"The map between the members' spaces fits poorly: {fit:.2f}, where 1 is perfect. The two parts still add "
            "up to clipmem, but how it is split between them cannot be believed."
        )
    top = groups[groups["name"].isin(MEMORIZED)]["mean"].sum()
    for row in groups[groups["name"] == c.EXTERNAL].to_dict("records"):
        off, three_errors = abs(row["mean"]), 3 * (row["high"] - row["low"]) / (2 * Z)
        if off > FLAT * abs(top) and off > three_errors:
            found.append(
                f"The null of the {row['encoder']} encoder is not near 0: {row['mean']:+.3f} on external pairs, which "
                "nobody memorized. Read its part against that, not against 0.".replace("-", "−")
            )
    return found


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
    grouped = t.layer_means(units).groupby([t.TOWER, t.LAYER], sort=False)[column]
    own = grouped.agg(mean="mean", low="min", high="max").reset_index().assign(**{SOURCE: MEMBERS})
    tables = [own]
    if references is not None:
        means = t.layer_means(references, by=[t.REFERENCE, t.TOWER, t.LAYER])
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
    means = over_seeds(table, by=[p.PARADIGM, t.LAYER], measures=[column]).drop(columns="measure")
    known = means[means[p.PARADIGM].isin(p.PARADIGMS)]
    last = known[t.LAYER].max()
    depth = (known[t.LAYER] - 1) / (last - 1) if last > 1 else 0.5
    return known.assign(**{DEPTH: depth}).reset_index(drop=True)


def claim_1(table: pd.DataFrame, *, column: str) -> str:
    """Say whether CLIP's UnitMem lies between that of the two other paradigms, as far as the seeds allow.

    Args:
        table: as `read_paradigms`.
        column: unitmem_mean or unitmem_median.
    """
    by_seed = table.groupby([p.PARADIGM, p.SEED])[column].mean().unstack(p.PARADIGM)
    names = [name for name in p.PARADIGMS if name in by_seed]
    listed = ", ".join(f"{PARADIGM_NAMES[name]} {by_seed[name].mean():.3f}" for name in names)
    told = f"Mean UnitMem over the layers: {listed}."
    if len(names) < len(p.PARADIGMS):
        missing = " and ".join(PARADIGM_NAMES[name] for name in p.PARADIGMS if name not in names)
        return f"{told} Claim 1 compares three paradigms: {missing} is not there, or cannot be taught on these pairs."
    complete = by_seed.dropna()
    if len(complete) < MIN_REPLICATES:
        return f"{told} Claim 1 (CLIP lies between the other two): seeds so far: {len(complete)}, too few to say more."
    sides = {}  # of CLIP, on which the interval of the other paradigm over seeds lies; 0 where it holds CLIP's
    for name in (p.SUPERVISED, p.SELF_SUPERVISED):
        low, high = seed_interval((complete[name] - complete[p.CLIP]).to_numpy())
        sides[name] = 1 if low > 0 else -1 if high < 0 else 0
    if 0 in sides.values():
        words = {1: "lies above it", -1: "lies below it", 0: "cannot be told from it"}
        each = " and ".join(f"{PARADIGM_NAMES[name]} {words[side]}" for name, side in sides.items())
        place = f"the seeds leave it open, since {each}"
    elif len(set(sides.values())) == 2:
        place = "so it does here"
    else:
        place = f"here it lies {'below' if 1 in sides.values() else 'above'} both"
    return f"{told} Claim 1 (CLIP lies between the other two): {place}."


def ranked_units(
    units: pd.DataFrame, *, column: str, member: str = "", tower: str = "", layer: int = 0
) -> pd.DataFrame:
    """Return the pairs that set a unit off most, each with the unit that stands out most for it, the highest first.

    Args:
        units: as `read_units`; silent ones have no UnitMem and are left out.
        column: unitmem_mean or unitmem_median, by which they are ordered; of equal ones the larger margin first.
        member: only its units; empty takes all.
        tower: only this encoder's; empty takes both.
        layer: only this layer's, from 1; 0 takes all.

    Returns:
        Their rows, and `leads`: how many units of the same member the same pair sets off most.
    """
    fired = units[units[column].notna()]
    leads = fired.groupby([c.MEMBER, t.ROW], sort=False)[t.UNIT].transform("size")
    chosen = fired.assign(**{LEADS: leads})
    for name, value in ((c.MEMBER, member), (t.TOWER, tower), (t.LAYER, layer)):
        chosen = chosen[chosen[name] == value] if value else chosen
    margin = chosen["max"] - chosen["second"]
    order = np.lexsort((chosen[t.UNIT], -margin, -chosen[column]))
    return chosen.iloc[order].drop_duplicates(t.ROW).reset_index(drop=True)
