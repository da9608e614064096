"""What each encoder memorizes: its part of clipmem, and UnitMem of its units.

Parts of clipmem: Shapley values from members mapped into one space. R is the orthogonal map from
one member's space to another's, fitted on both modalities of pairs whose membership is the same in
both. With h(a, b) = alignment of a's image encoder with b's text encoder, f mapped by R to g, the
two-player Shapley values are exact:

    image = ½[h(f,g) − h(g,g) + h(f,f) − h(g,f)]      text = ½[h(g,f) − h(g,g) + h(f,f) − h(f,g)]

Their sum is clipmem, and an error of R that hurts both hybrids equally cancels. The decomposition
is ours, not the paper's. h is bilinear in the means (μ, ν) of a and of b, so its mean over all
in–out pairs of members is h of the mean embeddings of both: linear in members, not quadratic.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy  # scipy.stats is loaded when it is used

from clipmem_core.errors.misfit import divide_or_nan, in_threads
from clipmem_core.scores.alignment import held_out_means, leave_out, pair_components
from clipmem_core.scores.membership import InOut, in_minus_out
from clipmem_core.utils import draws
from clipmem_core.utils.columns import ALIGNMENT, CLIPMEM_IMAGE, CLIPMEM_TEXT, HELD_OUT, SHARED
from clipmem_core.utils.embeddings import unit

# Pairs in memory at a time: of a fit, of the parts
_FIT_CHUNK = 8_192
_CHUNK = 1_024
_TIE = 1e-8  # relative weight of the identity in the fit of a map

Embeddings = tuple[np.ndarray, np.ndarray]  # of images and of texts


def contributions(
    image: Sequence[np.ndarray], text: Sequence[np.ndarray], in_out: InOut
) -> tuple[pd.DataFrame, float | None]:
    """Split every pair's clipmem into the part of the image encoder and the part of the text
    encoder.

    Cosine units; positive: that encoder memorized the pair; the parts add up to clipmem. Paper: f
    mapped to g on all shared pairs, seed by seed, then averaged. Ensemble: every member mapped to
    the first on all held-out pairs. The fit of a map is measured separately, fitted on half of
    these pairs and evaluated on the other half.

    Args:
        image, text: μ_I and μ_T of each member, [n_pairs, dim]; may be memory maps.
        in_out: which members count as in and out; its seed also draws the held-out half.

    Returns:
        clipmem_image and clipmem_text of each pair, and the fit of the maps: mean cosine over the
        held-out half; None for a single member.
    """
    membership = in_out.membership
    paper = in_out.protocol == "paper"
    rows = np.flatnonzero(membership.group == (SHARED if paper else HELD_OUT))
    rows = draws.rng(in_out.seed, "rotation").permutation(rows)
    embeddings = list(zip(image, text, strict=True))
    # The members that share a space: those of a seed of the paper's, or all
    comparisons = in_out.replicates if paper else [np.arange(len(membership.members))]
    parts = np.zeros((2, len(membership.group)))
    fits = list[float]()
    for members in comparisons:
        inside = in_out.inside[members]
        compared = [embeddings[member] for member in members]
        reference = int(paper)  # g, or the first member
        rotations = np.stack([np.eye(image[0].shape[1], dtype=np.float32)] * len(members))
        for position, member in enumerate(compared):
            if position != reference:
                rotations[position], fit = _fit(member, compared[reference], rows)
                fits.append(fit)
        alignments = [pair_components(*member, in_out.held_out)[ALIGNMENT] for member in compared]
        clipmem = in_minus_out(alignments, inside)
        difference = _hybrid_difference(compared, rotations, inside, in_out.held_out)
        parts += np.stack([clipmem + difference, clipmem - difference]) / (2 * len(comparisons))
    table = pd.DataFrame({CLIPMEM_IMAGE: parts[0], CLIPMEM_TEXT: parts[1]})
    return table, float(np.mean(fits)) if fits else None


def compare_parts(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    in_out: InOut,
    groups: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Compare the mean part of each encoder over groups of pairs.

    The interval is over members and pairs: the variance of a mean is the sum of the jackknife
    variance over members (replicates of the paper's protocol), each left out in turn, and of the
    variance over pairs. Since pairs differ by the same members too, it is rather too wide.

    Args:
        image, text, in_out: as of `contributions`.
        groups: by name, true for its pairs, [n_pairs] each.

    Returns:
        group, n, image, text, difference (text − image), low and high of it (95 %); NaN below two
        pairs.
    """
    membership = in_out.membership
    members = np.arange(len(membership.members))
    drops = in_out.replicates if in_out.protocol == "paper" else np.split(members, len(members))
    tables = []
    for drop in [members[:0], *(drops if len(drops) > 2 else [])]:
        kept = np.setdiff1d(members, drop)
        names = tuple(membership.members[at] for at in kept)
        part = replace(membership, members=names, trained=membership.trained[kept])
        embeddings = [image[at] for at in kept], [text[at] for at in kept]
        tables.append(contributions(*embeddings, replace(in_out, membership=part))[0])
    parts = tables[0]
    difference, *left_out = (table[CLIPMEM_TEXT] - table[CLIPMEM_IMAGE] for table in tables)
    rows = []
    for name, in_group in groups.items():
        chosen = in_group & np.isfinite(difference)
        n = int(chosen.sum())
        mean = difference[chosen].mean()
        variance = difference[chosen].var() / n if n else np.nan
        if left_out:
            again = pd.Series([each[chosen].mean() for each in left_out])
            variance += (len(again) - 1) * again.var(ddof=0)
        half = scipy.stats.norm.ppf(0.975) * np.sqrt(variance)
        means = parts.loc[chosen, [CLIPMEM_IMAGE, CLIPMEM_TEXT]].mean()
        rows.append((name, n, *map(float, [*means, mean, mean - half, mean + half])))
    return pd.DataFrame(rows, columns=["group", "n", "image", "text", "difference", "low", "high"])


def _fit(source: Embeddings, target: Embeddings, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the map fitted on both modalities of all rows, [dim, dim], and the fit of one of the
    first half on the other half: mean cosine."""
    half, held_out = map(np.sort, np.array_split(rows, [len(rows) // 2]))
    crossed, crossed_held_out = (
        sum(a.T @ b for a, b in _blocks(source, target, part)) for part in (half, held_out)
    )
    rotation = _procrustes(crossed)
    cosines = [np.vecdot(unit(a @ rotation), unit(b)) for a, b in _blocks(source, target, held_out)]
    return _procrustes(crossed + crossed_held_out), float(np.concatenate(cosines).mean())


def _blocks(
    source: Embeddings, target: Embeddings, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of rows of source and target, of images and of texts, float64 [n, dim] each."""
    for start in range(0, len(rows), _FIT_CHUNK):
        some = rows[start : start + _FIT_CHUNK]
        for a, b in zip(source, target, strict=True):
            yield a[some].astype(np.float64), b[some].astype(np.float64)


def _procrustes(crossed: np.ndarray) -> np.ndarray:
    """Return the orthogonal map R that minimises ‖source R − target‖, from sourceᵀ target."""
    # With fewer rows than dimensions the solution is not unique: the identity breaks the tie.
    tie = _TIE * np.linalg.norm(crossed) * np.eye(len(crossed))
    left, _, right = np.linalg.svd(crossed + tie)
    return left @ right


def _hybrid_difference(
    members: Sequence[Embeddings], rotations: np.ndarray, inside: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    """Return h(f, g) − h(g, f), averaged over all pairs of a member f that is in and a member g
    that is out.

    Args:
        members: μ_I and μ_T of each, [n_pairs, dim].
        rotations: each member's map to the common space, float32 [n_members, dim, dim].
        inside: true where the member is in, [n_members, n_pairs].
        held_out: true for held-out pairs, [n_pairs].

    Returns:
        float64 [n_pairs]; NaN where all or no members are in.
    """
    nu = np.array([held_out_means(*member, held_out) for member in members]) @ rotations
    n_held_out = int(held_out.sum())
    difference = np.empty(len(held_out))

    def measure(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        is_in = inside[:, rows]
        # A pair that all or no members are in has no clipmem: NaN
        with np.errstate(invalid="ignore"):
            shares = np.stack([chosen / chosen.sum(axis=0) for chosen in (is_in, ~is_in)])
        shares = shares.astype(np.float32)  # [in and out, n_members, n]
        mean_image, mean_text = (
            np.einsum(
                "smn,mnd->snd",
                shares,
                np.stack([member[modality][rows] for member in members]) @ rotations,
            )
            for modality in (0, 1)
        )
        nu_image, nu_text = (shares.swapaxes(1, 2) @ nu[:, modality] for modality in (0, 1))

        def h(a: int, b: int) -> np.ndarray:
            """Align the mean image embeddings under members a with the mean text embeddings under
            members b, [n]; 0: in, 1: out."""
            positive = np.vecdot(mean_image[a], mean_text[b]).astype(np.float64)
            negatives = np.vecdot(mean_image[a], nu_text[b]) + np.vecdot(mean_text[b], nu_image[a])
            left_out = leave_out(negatives, 2 * positive, n_held_out)
            return positive - np.where(held_out[rows], left_out, negatives)

        difference[rows] = h(0, 1) - h(1, 0)

    in_threads(measure, range(0, len(held_out), _CHUNK))
    return difference


class UnitTally:
    """UnitMem = (μ_max − μ_rest) / (μ_max + μ_rest) of every unit, from activations that come batch
    by batch, in memory that depends only on the number of units.

    The definition of "Localizing Memorization in SSL Vision Encoders" (Wang et al., NeurIPS 2024):
    μ_max is the largest of the pairs' mean activations, μ_rest the mean of those of the other
    pairs. In [0, 1]: 1 is a unit that fires for one pair alone, 0 one that fires equally for all.

    UnitMem is bounded where activations are not negative, as those of the paper's ReLU networks; a
    transformer's GELU goes down to −0.17. So activations below 0 count as 0, token by token, before
    any mean.
    """

    def __init__(self, n_units: int) -> None:
        self.count = 0
        self.total = np.zeros(n_units)
        self.highest = np.zeros(n_units)
        self.row = np.full(n_units, -1, dtype=np.int64)

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Count a batch of pairs. Of equal activations the pair with the smaller number counts.

        Args:
            rows: the pairs, int64 [n]; each comes once in all batches.
            values: mean activations, those below 0 counted as 0, float32 [n, n_units].
        """
        self.count += len(rows)
        self.total += values.sum(axis=0, dtype=np.float64)
        seen = np.vstack([self.highest, values])
        seen_rows = np.vstack([self.row, np.broadcast_to(rows[:, None], values.shape)])
        self.highest = seen.max(axis=0)
        at_highest = seen == self.highest
        self.row = seen_rows.min(axis=0, where=at_highest, initial=np.iinfo(np.int64).max)

    def scores(self) -> pd.DataFrame:
        """Return a row a unit: unitmem_mean (NaN for a silent unit), and row (the pair with the
        largest activation; -1 for a silent unit)."""
        rest = np.clip((self.total - self.highest) / (self.count - 1), 0, self.highest)
        values = divide_or_nan(self.highest - rest, self.highest + rest)
        return pd.DataFrame({"unitmem_mean": values, "row": self.row})
