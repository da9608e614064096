"""What scores are made of: one pair's terms member by member and the captions that members without it suggest; the part
of each encoder in clipmem; UnitMem by layer, by unit and by paradigm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import paradigms as p
from clipmem_core.audits import unitmem as t
from clipmem_core.audits.prepare import sides_of
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, SCORES, Audit, read_array
from clipmem_core.audits.verdict import FLAT
from clipmem_core.config import InputError
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.overview import LIMIT, pair_density, sample_points
from clipmem_core.review.search import (
    ALL_UP_TO,
    EMBEDDINGS,
    cosines,
    embeddings_path,
    normalized,
    top_k,
    vectors_at,
    vectors_of,
)
from clipmem_core.review.tables import ROW, count_pairs_of, fetch_arrow, fetch_columns, fetch_numbered, kept, number
from clipmem_core.scores.alignment import external_means, terms_of
from clipmem_core.scores.membership import Membership, Sides
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.scores.seeds import MIN_REPLICATES, over_seeds, seed_interval

TRAINED, SIDE = "trained", "side"
IN, OUT = "in", "out"
SHORTLIST = 2000  # pairs that all members look at in an audit of more than ALL_UP_TO pairs
LEAD, BEHIND, LEAST = 0.55, 10, 1000  # a suggestion leads the tenth best by so much, in an audit of so many pairs
QUALITY = "With injected errors, 9 of 10 such suggestions matched on photographs, 19 of 22 on textbook figures."
_MORE = 4  # captions are looked at in batches that grow by this factor, until enough of them differ


@dataclass(frozen=True)
class Suggestion:
    """A caption of another pair, its pair's mean cosine with the picture, and how far its score is above the tenth."""

    row: int
    caption: str
    cosine: float
    lead: float


@dataclass(frozen=True)
class Suggested:
    """The members that never saw a pair, the mean cosine of each of its own captions, and captions of other pairs."""

    members: tuple[str, ...] = ()
    own: tuple[float, ...] = ()
    choices: tuple[Suggestion, ...] = ()

    @property
    def worst(self) -> int:
        """The place of the pair's own caption that fits worst."""
        return int(np.nanargmin(self.own)) if np.isfinite(self.own).any() else 0


def suggested_captions(audit: Audit, row: int, *, k: int = 3) -> Suggested:
    """Return single captions of other pairs that members which never saw a pair would give it.

    A pair is scored by the mean cosines of its captions and of its own picture with this picture. Of each pair the
    caption that fits its own picture best is taken. Only those that lead the tenth by `LEAD` are suggested: of these
    `QUALITY` is true, see data/results/suggestions.csv. Below `LEAST` pairs, none is.

    Returns:
        Captions that the pair does not have, each once, the highest score first.
    """
    membership = _membership_at(audit, row)
    others = [name for name, saw in zip(membership.members, membership.trained[:, row], strict=True) if not saw]
    if not others:
        return Suggested()
    text, image = _mean_cosines(audit, others, row, len(membership.group))
    (own,) = _captions(audit, [row])
    fits = tuple(float(text[row]) if fit is None else fit for _, fit in own)
    score = text + image
    score[row] = np.nan
    ranked = _different(audit, {caption for caption, _ in own}, score)
    if len(ranked) < BEHIND or len(score) < LEAST:
        return Suggested(tuple(others), fits)
    lead = score - score[ranked[-1][0]]
    found = (Suggestion(at, caption, float(text[at]), float(lead[at])) for at, caption in ranked[:k])
    return Suggested(tuple(others), fits, tuple(each for each in found if each.lead >= LEAD))


def _mean_cosines(audit: Audit, members: Sequence[str], row: int, n_pairs: int) -> np.ndarray:
    """Return the mean cosines of a pair's picture with each pair's captions and picture in some members' spaces.

    Above `ALL_UP_TO` pairs only the pair itself and the `SHORTLIST` pairs that are the closest in the space of the
    audit's first member are looked at; NaN for the others.

    Returns:
        float64 [2, n_pairs]: captions, picture.
    """
    full = n_pairs <= ALL_UP_TO
    total = np.zeros((2, n_pairs))
    for name in members if full else audit.record.members[:1]:
        image_path, text_path = _checked_files(audit, name, n_pairs)
        picture = vectors_at(image_path, [row])[0]
        total += [cosines(text_path, picture), cosines(image_path, picture)]
    if full:
        return total / len(members)
    near = np.union1d(top_k(total.sum(axis=0), SHORTLIST), [row])
    found = np.full((2, n_pairs), np.nan)
    found[:, near] = 0.0
    for name in members:
        image, text = vectors_of(audit, name, near.tolist())
        picture = normalized(image[np.searchsorted(near, row)])
        found[:, near] += np.array([_unit_rows(text) @ picture, _unit_rows(image) @ picture]) / len(members)
    return found


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _different(audit: Audit, seen: set[str], score: np.ndarray) -> list[tuple[int, str]]:
    """Return the rows of the highest scores, `BEHIND` at most, each with a caption that is not among those seen."""
    size = BEHIND + _MORE
    while True:
        rows, ranked = top_k(score, size).tolist(), dict[str, int]()
        for place, captions in zip(rows, _captions(audit, rows), strict=True):
            if captions:
                best = max(captions, key=lambda each: -math.inf if each[1] is None else each[1])
                ranked.setdefault(best[0], place)
        found = [(place, caption) for caption, place in ranked.items() if caption not in seen]
        if len(found) >= BEHIND or len(rows) < size:
            return found[:BEHIND]
        size *= _MORE


def _captions(audit: Audit, rows: Sequence[int]) -> list[list[tuple[str, float | None]]]:
    """Return the captions of pairs, each with its similarity_out where single captions have scores."""
    ids = fetch_numbered(audit.folder / PAIRS, [c.PAIR_ID], rows)
    table = listed_scores(audit, [ids[row][0] for row in rows]).set_index(c.PAIR_ID)
    found = []
    for row in rows:
        own = table.loc[ids[row][0]]
        captions, fits = own[OWN_CAPTIONS], own.get(LISTED[c.SIMILARITY_OUT])
        fits = fits if isinstance(fits, list) else [None] * len(captions)
        found.append([(str(caption), fit) for caption, fit in zip(captions, fits, strict=True)])
    return found


def mean_terms(audit: Audit, row: int) -> dict[str, float | None]:
    """Return one pair's row of the scores: every column but its id and group, None where there is no number."""
    found = fetch_numbered(audit.folder / SCORES, [number(column) for column in BY_NAME], [row])
    if row not in found:
        raise InputError(f"audit {audit.name!r} has no row {row} in its scores")
    values = zip(BY_NAME, found[row], strict=True)
    return {column: float(value) if math.isfinite(value) else None for column, value in values}


def member_terms(audit: Audit, row: int) -> pd.DataFrame:
    """Measure one pair under every member, as the scores do.

    Returns:
        One row a member: member, trained (on this pair), side (`in` or `out`: what it counts as in clipmem, by the
        audit's protocol), positive, negative_text, negative_image, alignment, similarity, in cosine units. The mean
        alignment of `in` less that of `out` is the pair's clipmem.
    """
    membership = _membership_at(audit, row)
    inside = _inside(audit)[:, row]
    table = pd.DataFrame([_terms(audit, name, membership, row) for name in membership.members])
    table.insert(0, c.MEMBER, list(membership.members))
    table.insert(1, TRAINED, membership.trained[:, row])
    table.insert(2, SIDE, np.where(inside, IN, OUT).tolist())
    return table


def _files(audit: Audit, member: str) -> list[Path]:
    return [embeddings_path(audit, member, by) for by in EMBEDDINGS]


def _terms(audit: Audit, member: str, membership: Membership, row: int) -> dict[str, float]:
    """Return the terms of one member's alignment with one pair; see scores/alignment.py."""
    _checked_files(audit, member, len(membership.group))
    external = _external(audit)
    mean_image, mean_text = _external_means(audit, member)
    image, text = (vectors[0].astype(np.float64) for vectors in vectors_of(audit, member, [row]))
    products = np.array([[image @ text], [image @ mean_text], [mean_image @ text], [image @ image], [text @ text]])
    terms = terms_of(products, np.flatnonzero([row in external]), len(external))
    shown = (c.POSITIVE, c.NEGATIVE_TEXT, c.NEGATIVE_IMAGE, c.ALIGNMENT, c.SIMILARITY)
    return {term: float(terms[term][0]) for term in shown}


@kept(8, MEMBERSHIP)
def _external(audit: Audit) -> list[int]:
    """Return the rows of the external pairs that centre alignments."""
    return np.flatnonzero(sides_of(audit, audit.record.config, _membership(audit)).external).tolist()


@kept(64, MEMBERSHIP, paths=_files)
def _external_means(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ν_I and ν_T."""
    external = _external(audit)
    image, text = vectors_of(audit, member, external)
    try:
        return external_means(image, text, np.ones(len(external), dtype=bool))
    except ValueError as error:
        raise InputError(f"member {member} cannot be compared ({error}): delete the audit and run it again") from None


def _checked_files(audit: Audit, member: str, n_pairs: int) -> list[Path]:
    """Return a member's files of embeddings, after a check that they are of these pairs."""
    paths = _files(audit, member)
    for path in paths:
        if (found := len(read_array(path, shared=True))) != n_pairs:
            raise InputError(f"{path} has {found:,} rows and the audit {n_pairs:,}: delete it and run the audit again")
    return paths


def _membership_at(audit: Audit, row: int) -> Membership:
    membership = _membership(audit)
    if not 0 <= row < len(membership.group):
        raise InputError(f"audit {audit.name!r} has no row {row}, only {len(membership.group):,}")
    return membership


@kept(2, MEMBERSHIP)
def _membership(audit: Audit) -> Membership:
    """Read who trains on what, but for the pairs' ids, which are most of the file."""
    path = audit.folder / MEMBERSHIP
    columns = fetch_columns(path, f"SELECT * EXCLUDE ({c.PAIR_ID}, {ROW}) FROM parquet")
    group = columns.pop(c.GROUP, np.empty(0))
    if not columns or not len(group):
        raise InputError(f"{path} names no groups or no members: delete the audit's folder and run it again")
    return Membership(group, tuple(columns), np.stack(list(columns.values())).astype(bool))


@kept(2, MEMBERSHIP)
def _inside(audit: Audit) -> np.ndarray:
    """Return which members count as `in` for each pair, [n_members, n_pairs]."""
    membership, config = _membership(audit), audit.record.config
    return Sides(membership, config.protocol, config.seed).inside


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
    known = {column: f"FILTER (WHERE isfinite({number(column)}))" for column in columns.values()}
    numbers = ", ".join(
        f"count(*) {known[column]} AS n_{encoder}, avg({number(column)}) {known[column]} AS mean_{encoder}, "
        f"stddev_samp({number(column)}) {known[column]} AS sd_{encoder}"
        for encoder, column in columns.items()
    )
    query = f"""
        SELECT {name} AS name, count(*) AS n, {numbers} FROM parquet JOIN named ON {ROW} = place
        WHERE "{c.GROUP}" IN ({", ".join("?" * len(groups))}) AND {name} IS NOT NULL
        GROUP BY 1 ORDER BY n DESC, name LIMIT {limit}
    """
    wide = fetch_arrow(audit.folder / SCORES, query, list(groups), named=named).to_pandas()
    places = {name: place for place, name in enumerate(c.GROUPS)} | {NOT_PLANTED: len(c.GROUPS) + 1}
    order = [places.get(name, len(c.GROUPS)) for name in wide["name"]]
    rows = []
    for row in wide.iloc[np.argsort(order, kind="stable")].to_dict("records"):
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
    """Say what speaks against the split into two encoders; nothing where all is well."""
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
    """Say whether CLIP's UnitMem lies between that of the two other paradigms, as far as the seeds allow."""
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
