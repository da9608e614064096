"""Scores in parts: terms of a pair by member, clipmem by encoder."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipmem_core.audit.store import MEMBERSHIP, Audit, read_embeddings
from clipmem_core.audit.verdict import FLAT
from clipmem_core.columns import (
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    EXTERNAL,
    GROUP,
    GROUPS,
    INJECTED,
    MEMBER,
    SSLMEM_IMAGE,
    SSLMEM_TEXT,
    TARGET_GROUPS,
    TERMS,
)
from clipmem_core.review import search as s
from clipmem_core.review.queries import cached, fetch_all, number_sql
from clipmem_core.scores.alignment import external_means, terms_of

PARTS = {"image": CLIPMEM_IMAGE, "text": CLIPMEM_TEXT}
SSLMEM = {"image": SSLMEM_IMAGE, "text": SSLMEM_TEXT}
NOT_INJECTED = "not injected"
# mean cosine on held-out pairs; below it a mapped embedding is closer to other pairs
_POOR_FIT = 0.5
_Z = 1.96


def member_terms(audit: Audit, row: int) -> pd.DataFrame:
    """Return the terms of one pair by member in cosine units, and the member's side (in, out)."""
    sides = s.read_sides(audit)
    membership = sides.membership
    external = sides.external
    rows = []
    for name in membership.members:
        mean_image, mean_text = _external_means(audit, name)
        embeddings = read_embeddings(audit.member(name))
        image, text = (vectors[[row]][0].astype(np.float64) for vectors in embeddings)
        products = [image @ text, image @ mean_text, mean_image @ text, image @ image, text @ text]
        terms = terms_of(np.array(products)[:, None], external[[row]], int(external.sum()))
        rows.append({term: float(terms[term][0]) for term in TERMS})
    table = pd.DataFrame(rows)
    table.insert(0, MEMBER, membership.members)
    table.insert(1, "side", np.where(sides.inside[:, row], "in", "out"))
    return table


@cached(
    64,
    MEMBERSHIP,
    paths=lambda audit, member: [s.embeddings_path(audit, member, by) for by in s.EMBEDDINGS],
)
def _external_means(audit: Audit, member: str) -> np.ndarray:
    """Return the mean embeddings of the external pictures and captions, ν_I and ν_T."""
    return external_means(*read_embeddings(audit.member(member)), s.read_sides(audit).external)


def encoder_means(
    audit: Audit,
    columns: Mapping[str, str] = PARTS,
    *,
    by: str = GROUP,
    groups: Sequence[str] = GROUPS,
    limit: int = 50,
) -> pd.DataFrame:
    """Average the scores of encoders, `PARTS` or `SSLMEM`, over groups, labels or injected kinds of
    pairs of `groups`.

    Returns name, encoder, n, mean, low and high (± 1.96 standard errors over pairs) of the most
    frequent names.
    """
    selected = [f'{number_sql(column)} AS "{encoder}"' for encoder, column in columns.items()]
    pairs = [] if by == GROUP else [f'CAST("{by}" AS VARCHAR) AS "{by}"']
    scores = fetch_all(audit, [f'"{GROUP}"', *selected], pairs)
    scores = scores[scores[GROUP].isin(groups)]
    scores["name"] = scores[by].fillna(NOT_INJECTED) if by == INJECTED else scores[by]
    counts = scores["name"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    places = {name: place for place, name in enumerate(GROUPS)}
    places[NOT_INJECTED] = len(GROUPS) + 1
    names = sorted(counts.index[:limit], key=lambda name: places.get(name, len(GROUPS)))
    by_name = scores.groupby("name")[list(columns)].agg(["count", "mean", "sem"]).reindex(names)
    means = by_name.rename_axis(columns=["encoder", ""]).stack(0, future_stack=True).reset_index()
    half = _Z * means.pop("sem")
    means = means.rename(columns={"count": "n"})
    return means.assign(low=means["mean"] - half, high=means["mean"] + half)


def encoder_doubts(groups: pd.DataFrame, fit: float | None) -> list[str]:
    """Return a sentence for each reason to doubt the split into two encoders."""
    sentences = []
    if fit is not None and fit < _POOR_FIT:
        sentences.append(
            f"The map between the members' spaces fits poorly: {fit:.2f} of 1. Do not rely on "
            "the split."
        )
    top = groups[groups["name"].isin(TARGET_GROUPS)]["mean"].sum()
    for row in groups[groups["name"] == EXTERNAL].to_dict("records"):
        off = abs(row["mean"])
        three_errors = 3 * (row["high"] - row["low"]) / (2 * _Z)
        if off > FLAT * abs(top) and off > three_errors:
            mean = f"{row['mean']:+.3f}".replace("-", "−")
            sentences.append(
                f"The null of the {row['encoder']} encoder is not near 0: {mean} on external "
                "pairs, which nobody memorized. Read its part against that, not against 0."
            )
    return sentences
