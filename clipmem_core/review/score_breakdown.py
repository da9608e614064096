"""Details of scores: terms of a pair by member, suggested captions, the part of each encoder,
UnitMem by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import unit_tables as t
from clipmem_core.audit.store import MEMBERSHIP, PAIRS, Audit, read_embeddings
from clipmem_core.audit.verdict import FLAT
from clipmem_core.config import InputError
from clipmem_core.review import search as s
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.queries import cached, fetch_all, fetch_numbered, number_sql
from clipmem_core.scores.alignment import external_means, terms_of
from clipmem_core.scores.membership import Sides
from clipmem_core.scores.seeds import MIN_REPLICATES, over_seeds, seed_interval

_TRAINED = "trained"
SIDE = "side"
IN = "in"
OUT = "out"
SHORTLIST = 2000  # pairs that all members score in an audit of more than ALL_UP_TO pairs
# required lead over the tenth best pair, and size of the audit
LEAD = 0.55
BEHIND = 10
LEAST = 1000
QUALITY = (
    "With injected errors, 9 of 10 such suggestions matched on photographs, 19 of 22 on "
    "textbook figures."
)
_MORE = 4  # growth of the batches of captions that are read until `BEHIND` of them differ


@dataclass(frozen=True)
class Suggestion:
    """A caption of another pair, its pair's mean cosine with the picture, and how far its score is
    above the tenth."""

    row: int
    caption: str
    cosine: float
    lead: float


@dataclass(frozen=True)
class Suggested:
    """Members that did not train on a pair, the mean cosine of each of its captions, and suggested
    captions."""

    members: tuple[str, ...] = ()
    cosines: tuple[float, ...] = ()
    choices: tuple[Suggestion, ...] = ()


def suggested_captions(audit: Audit, row: int) -> Suggested:
    """Return captions of other pairs for a picture, by the members that did not train on it, the
    best first.

    The score of another pair is the mean cosine of this picture with its captions plus that with
    its picture; of its captions the one with the highest similarity_out is suggested. Only pairs
    that lead the tenth by `LEAD` are suggested, and none in an audit of fewer than `LEAST` pairs;
    for these `QUALITY` was measured, see data/results/suggestions.csv.
    """
    membership = _sides_at(audit, row).membership
    members = [
        name
        for name, saw in zip(membership.members, membership.trained[:, row], strict=True)
        if not saw
    ]
    if not members:
        return Suggested()
    text, image = _mean_cosines(audit, members, row, len(membership.group))
    (current,) = _captions(audit, [row])
    cosines = tuple(float(text[row]) if fit is None else fit for _, fit in current)
    score = text + image
    score[row] = np.nan
    ranked = _different(audit, {caption for caption, _ in current}, score)
    if len(ranked) < BEHIND or len(score) < LEAST:
        return Suggested(tuple(members), cosines)
    lead = score - score[ranked[-1][0]]
    choices = (
        Suggestion(at, caption, float(text[at]), float(lead[at])) for at, caption in ranked[:3]
    )
    return Suggested(
        tuple(members), cosines, tuple(choice for choice in choices if choice.lead >= LEAD)
    )


def _mean_cosines(audit: Audit, members: Sequence[str], row: int, n_pairs: int) -> np.ndarray:
    """Return mean cosines of a picture with captions and pictures, [2, n_pairs]; NaN outside a
    shortlist."""

    def total(names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        cosines = []
        for name in names:
            image, text = read_embeddings(audit.member(name))
            picture = s.vector_at(image, row)
            cosines.append([vectors.cosines(picture, rows) for vectors in (text, image)])
        return np.asarray(cosines, dtype=np.float64).sum(axis=0)

    rows = np.arange(n_pairs)
    if n_pairs > s.ALL_UP_TO:
        rows = np.union1d(s.top_k(total(members[:1], rows).sum(axis=0), SHORTLIST), [row])
    means = np.full((2, n_pairs), np.nan)
    means[:, rows] = total(members, rows) / len(members)
    return means


def _different(audit: Audit, excluded: set[str], score: np.ndarray) -> list[tuple[int, str]]:
    """Return the rows of the `BEHIND` highest scores with different captions, none of them
    excluded."""
    size = BEHIND + _MORE
    while True:
        rows = s.top_k(score, size).tolist()
        ranked = dict[str, int]()
        for row, captions in zip(rows, _captions(audit, rows), strict=True):
            if captions:
                best = max(captions, key=lambda each: -math.inf if each[1] is None else each[1])
                ranked.setdefault(best[0], row)
        different = [(row, caption) for caption, row in ranked.items() if caption not in excluded]
        if len(different) >= BEHIND or len(rows) < size:
            return different[:BEHIND]
        size *= _MORE


def _captions(audit: Audit, rows: Sequence[int]) -> list[list[tuple[str, float | None]]]:
    """Return the captions of pairs, each with its similarity_out if single captions have scores."""
    ids = fetch_numbered(audit.folder / PAIRS, [c.PAIR_ID], rows)
    table = listed_scores(audit, [ids[row][0] for row in rows]).set_index(c.PAIR_ID)
    captions = []
    for row in rows:
        pair = table.loc[ids[row][0]]
        texts = pair[OWN_CAPTIONS]
        fits = pair.get(LISTED[c.SIMILARITY_OUT])
        fits = fits if isinstance(fits, list) else [None] * len(texts)
        captions.append([(str(text), fit) for text, fit in zip(texts, fits, strict=True)])
    return captions


def member_terms(audit: Audit, row: int) -> pd.DataFrame:
    """Return the terms of one pair by member in cosine units, with whether it trained on it, and
    its side (in, out)."""
    sides = _sides_at(audit, row)
    membership = sides.membership
    external = sides.external
    rows = []
    for name in membership.members:
        mean_image, mean_text = _external_means(audit, name)
        embeddings = read_embeddings(audit.member(name))
        image, text = (s.vector_at(vectors, row).astype(np.float64) for vectors in embeddings)
        products = np.array(
            [
                [image @ text],
                [image @ mean_text],
                [mean_image @ text],
                [image @ image],
                [text @ text],
            ]
        )
        terms = terms_of(products, np.flatnonzero([external[row]]), int(external.sum()))
        rows.append({term: float(terms[term][0]) for term in c.TERMS})
    side = np.where(sides.inside[:, row], IN, OUT).tolist()
    facts = pd.DataFrame(
        {c.MEMBER: membership.members, _TRAINED: membership.trained[:, row], SIDE: side}
    )
    return facts.join(pd.DataFrame(rows))


def _files(audit: Audit, member: str) -> list[Path]:
    return [s.embeddings_path(audit, member, by) for by in s.EMBEDDINGS]


@cached(64, MEMBERSHIP, paths=_files)
def _external_means(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean embeddings of the external pictures and captions, ν_I and ν_T."""
    return external_means(*read_embeddings(audit.member(member)), s.read_sides(audit).external)


def _sides_at(audit: Audit, row: int) -> Sides:
    sides = s.read_sides(audit)
    if not 0 <= row < len(sides.external):
        raise InputError(f"audit {audit.name!r} has no row {row}, only {len(sides.external):,}")
    return sides


PARTS = {"image": c.CLIPMEM_IMAGE, "text": c.CLIPMEM_TEXT}
SSLMEM = {"image": c.SSLMEM_IMAGE, "text": c.SSLMEM_TEXT}
NOT_INJECTED = "not injected"
POOR_FIT = (
    0.5  # mean cosine on held-out pairs; below it a mapped embedding is closer to other pairs
)
Z = 1.96
MEMBERS = "members"
PARADIGM_NAMES = {t.CLIP: "CLIP", t.SUPERVISED: "supervised", t.SELF_SUPERVISED: "self-supervised"}
SOURCE = "source"
DEPTH = "depth"


def encoder_means(
    audit: Audit,
    columns: Mapping[str, str] = PARTS,
    *,
    by: str = c.GROUP,
    groups: Sequence[str] = c.GROUPS,
    limit: int = 50,
) -> pd.DataFrame:
    """Average the scores of encoders, `PARTS` or `SSLMEM`, over groups, labels or injected kinds of
    pairs of `groups`.

    Returns name, encoder, n, mean, low and high (± 1.96 standard errors over pairs) of the most
    frequent names.
    """
    selected = [
        f'"{c.GROUP}"',
        *(f'{number_sql(column)} AS "{encoder}"' for encoder, column in columns.items()),
    ]
    names = [f'CAST("{by}" AS VARCHAR) AS name']
    scores = (
        fetch_all(audit, [*selected, *names])
        if by == c.GROUP
        else fetch_all(audit, selected, names)
    )
    if by == c.INJECTED:
        scores["name"] = scores["name"].fillna(NOT_INJECTED)
    scores = scores[scores[c.GROUP].isin(groups)]
    counts = scores["name"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    places = {name: place for place, name in enumerate(c.GROUPS)} | {
        NOT_INJECTED: len(c.GROUPS) + 1
    }
    names = sorted(counts.index[:limit], key=lambda name: places.get(name, len(c.GROUPS)))
    by_name = scores.groupby("name")[list(columns)].agg(["count", "mean", "sem"]).reindex(names)
    means = by_name.rename_axis(columns=["encoder", ""]).stack(0, future_stack=True).reset_index()
    half = Z * means.pop("sem")
    return means.rename(columns={"count": "n"}).assign(
        low=means["mean"] - half, high=means["mean"] + half
    )


def doubts(groups: pd.DataFrame, fit: float | None) -> list[str]:
    """Return a sentence for each reason to doubt the split into two encoders."""
    sentences = []
    if fit is not None and fit < POOR_FIT:
        sentences.append(
            f"The map between the members' spaces fits poorly: {fit:.2f} of 1. Do not rely on "
            "the split."
        )
    top = groups[groups["name"].isin(c.TARGET_GROUPS)]["mean"].sum()
    for row in groups[groups["name"] == c.EXTERNAL].to_dict("records"):
        off = abs(row["mean"])
        three_errors = 3 * (row["high"] - row["low"]) / (2 * Z)
        if off > FLAT * abs(top) and off > three_errors:
            sentences.append(
                f"The null of the {row['encoder']} encoder is not near 0: {row['mean']:+.3f} on "
                "external pairs, which "
                "nobody memorized. Read its part against that, not against 0.".replace("-", "−")
            )
    return sentences


def tower_layers(units: pd.DataFrame, references: pd.DataFrame | None) -> pd.DataFrame:
    """Return tower, source (`members` or a reference), layer, mean, and the lowest and highest
    member's UnitMem."""
    grouped = t.layer_means(units).groupby([t.TOWER, t.LAYER], sort=False)[t.UNITMEM_MEAN]
    tables = [
        grouped.agg(mean="mean", low="min", high="max").reset_index().assign(**{SOURCE: MEMBERS})
    ]
    if references is not None:
        means = t.layer_means(references, by=[t.REFERENCE, t.TOWER, t.LAYER])
        tables.append(
            means.rename(columns={t.REFERENCE: SOURCE, t.UNITMEM_MEAN: "mean"}).assign(
                low=np.nan, high=np.nan
            )
        )
    columns = [t.TOWER, SOURCE, t.LAYER, "mean", "low", "high"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def paradigm_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return paradigm, layer, depth (0 the first layer, 1 the last), n (seeds), mean, low and high
    of UnitMem."""
    means = over_seeds(table, by=[t.PARADIGM, t.LAYER], measure=t.UNITMEM_MEAN)
    means = means[means[t.PARADIGM].isin(t.PARADIGMS)]
    last = means[t.LAYER].max()
    depth = (means[t.LAYER] - 1) / (last - 1) if last > 1 else 0.5
    return means.assign(**{DEPTH: depth}).reset_index(drop=True)


def claim_1(table: pd.DataFrame) -> str:
    """Say whether CLIP's UnitMem lies between that of the two other paradigms, as far as the seeds
    allow."""
    by_seed = table.groupby([t.PARADIGM, t.SEED])[t.UNITMEM_MEAN].mean().unstack(t.PARADIGM)
    names = [name for name in t.PARADIGMS if name in by_seed]
    listed = ", ".join(f"{PARADIGM_NAMES[name]} {by_seed[name].mean():.3f}" for name in names)
    start = f"Mean UnitMem over the layers: {listed}. Claim 1 (CLIP lies between the other two):"
    if missing := [PARADIGM_NAMES[name] for name in t.PARADIGMS if name not in names]:
        return f"{start} {' and '.join(missing)} is missing, or cannot be trained on these pairs."
    complete = by_seed.dropna()
    if len(complete) < MIN_REPLICATES:
        return f"{start} seeds so far: {len(complete)}, too few to say more."
    others = (t.SUPERVISED, t.SELF_SUPERVISED)
    intervals = [seed_interval((complete[name] - complete[t.CLIP]).to_numpy()) for name in others]
    sides = [
        1 if low > 0 else -1 if high < 0 else 0 for low, high in intervals
    ]  # of CLIP; 0: the interval holds it
    if 0 in sides:
        same = " and ".join(
            PARADIGM_NAMES[name] for name, side in zip(others, sides, strict=True) if side == 0
        )
        return f"{start} the seeds leave it open, since {same} does not differ from CLIP."
    place = {0: "so it does here", 2: "here it lies below both", -2: "here it lies above both"}[
        sum(sides)
    ]
    return f"{start} {place}."
