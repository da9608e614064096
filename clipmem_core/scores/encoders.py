"""What each encoder memorizes: its part of clipmem, and UnitMem of its units.

Parts of clipmem: Shapley values from members mapped into one space. R is the orthogonal map from
one member's space to another's, fitted on both modalities of pairs whose membership is the same in
both. With h(a, b) = alignment of a's image encoder with b's text encoder, f mapped by R to g, the
two-player Shapley values are exact:

    image = ½[h(f,g) − h(g,g) + h(f,f) − h(g,f)]      text = ½[h(g,f) − h(g,g) + h(f,f) − h(f,g)]

Their sum is clipmem, and an error of R that hurts both hybrids alike cancels. The decomposition is
ours, not the paper's. h is bilinear in the means (μ, ν) of a and of b, so its mean over all in–out
pairs of members is h of the two sides' mean embeddings: linear in members, not quadratic.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, EXTERNAL, SHARED
from clipmem_core.io import InputError
from clipmem_core.scores.alignment import external_means, leave_out, unit
from clipmem_core.scores.membership import Sides

BINS = 512  # of a unit's histogram, a power of two
# rows at a time: of a fit, of the parts
_FIT_CHUNK = 8_192
_CHUNK = 4_096
_HELD_OUT_DRAW = 4  # random stream
_TIE = 1e-10  # relative weight of the identity in the fit of a map

Embeddings = tuple[np.ndarray, np.ndarray]  # of images and of texts


def contributions(
    image: Sequence[np.ndarray], text: Sequence[np.ndarray], sides: Sides
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Split every pair's clipmem into the part of the image encoder and the part of the text
    encoder.

    Cosine units; positive: that encoder memorized the pair; the parts add up to clipmem. Paper: f
    mapped to g on all shared pairs, seed by seed, then averaged. Ensemble: every member mapped to
    the first on all external pairs. The fit of a map is measured separately, fitted on half of
    these pairs and evaluated on the other half.

    Args:
        image, text: μ_I and μ_T of each member, [n_pairs, dim]; may be memory maps.
        sides: which members count as in and out; its seed also draws the held-out half.

    Returns:
        clipmem_image and clipmem_text of each pair, and each mapped member's fit: mean cosine over
        the held-out half.
    """
    membership = sides.membership
    paper = sides.protocol == "paper"
    widths = sorted({matrix.shape[1] for matrix in (*image, *text)})
    if len(widths) > 1:
        raise InputError(
            f"the encoders' parts need members that embed in one width, not {widths}: score "
            "those apart"
        )
    group = SHARED if paper else EXTERNAL
    rows = np.flatnonzero(membership.group == group)
    if len(rows) < 2:
        raise InputError(
            f"the parts of the encoders need at least 2 {group} pairs, found {len(rows)}: add some"
        )
    fitted_on = np.random.default_rng([sides.seed, _HELD_OUT_DRAW]).permutation(rows)
    # The members that share a space: those of a seed of the paper's, or all
    comparisons = sides.replicates if paper else [np.arange(len(membership.members))]
    parts = np.zeros((2, len(sides.external)))
    fits = dict[str, float]()
    for rows in comparisons:
        reference = int(rows[~sides.inside[rows, 0]][0]) if paper else int(rows[0])
        mapped: list[tuple[Embeddings, np.ndarray | None]] = []
        for row in rows.tolist():
            rotation = None
            if row != reference:
                pair = (image[row], text[row]), (image[reference], text[reference])
                rotation, fits[membership.members[row]] = _fit(*pair, fitted_on)
            mapped.append(((image[row], text[row]), rotation))
        parts += _hybrid_parts(mapped, sides.inside[rows], sides.external) / len(comparisons)
    return pd.DataFrame({CLIPMEM_IMAGE: parts[0], CLIPMEM_TEXT: parts[1]}), fits


def _fit(source: Embeddings, target: Embeddings, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the map fitted on both modalities of all rows, and the fit of one of the first half on
    the other half."""
    half = np.sort(rows[: len(rows) // 2])
    held_out = np.sort(rows[len(rows) // 2 :])
    crossed = _crossed(source, target, half)
    rotation = _procrustes(crossed)
    total = 0.0
    for start in range(0, len(held_out), _FIT_CHUNK):
        some = held_out[start : start + _FIT_CHUNK]
        for a, b in zip(source, target, strict=True):
            total += float(np.vecdot(unit(a[some] @ rotation), unit(b[some])).sum())
    return _procrustes(crossed + _crossed(source, target, held_out)), total / (2 * len(held_out))


def _crossed(source: Embeddings, target: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Return the sum over rows and modalities of the products of source and target, [dim, dim],
    float64."""
    crossed = np.zeros((source[0].shape[1],) * 2)
    for start in range(0, len(rows), _FIT_CHUNK):
        some = rows[start : start + _FIT_CHUNK]
        for a, b in zip(source, target, strict=True):
            crossed += a[some].astype(np.float64).T @ b[some].astype(np.float64)
    return crossed


def _procrustes(crossed: np.ndarray) -> np.ndarray:
    """Return the orthogonal map R that minimises ‖source R − target‖, from sourceᵀ target."""
    # With fewer rows than dimensions the solution is not unique: the identity breaks the tie.
    tie = _TIE * np.linalg.norm(crossed) * np.eye(len(crossed))
    left, _, right = np.linalg.svd(crossed + tie)
    return left @ right


def _hybrid_parts(
    members: Sequence[tuple[Embeddings, np.ndarray | None]],
    inside: np.ndarray,
    external: np.ndarray,
) -> np.ndarray:
    """Return image and text part, [2, n_pairs]: the Shapley values averaged over all in–out pairs
    of members.

    Args: `members` are μ_I and μ_T of each, [n_pairs, dim], and its map to the common space, None
    for the identity.
    """
    means = [[_turned(nu, turn) for nu in external_means(*own, external)] for own, turn in members]
    nu_image, nu_text = (np.stack(side) for side in zip(*means, strict=True))  # [n_members, dim]
    n_external = int(external.sum())
    parts = np.empty((2, len(external)))

    def h(
        rows: slice, image: np.ndarray, text: np.ndarray, weights: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Align image and text embeddings, [n_rows]; weights [n_members, n_rows] mix ν from the
        members' own."""
        positive = np.einsum("nd,nd->n", image, text).astype(np.float64)
        negative_text = np.einsum("nm,mn->n", image @ nu_text.T, weights[1])
        negative_image = np.einsum("nm,mn->n", text @ nu_image.T, weights[0])
        negatives = (
            np.where(external[rows], leave_out(negative, positive, n_external), negative)
            for negative in (negative_text, negative_image)
        )
        return positive - sum(negatives)

    def measure(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        is_in = inside[:, rows]
        with np.errstate(
            invalid="ignore"
        ):  # a pair without members on one side has no clipmem: NaN
            weights = np.stack([side / side.sum(axis=0) for side in (is_in, ~is_in)])
        shape = (2, is_in.shape[1], nu_image.shape[1])  # [in and out, n_rows, dim]
        mean_image = np.zeros(shape, dtype=np.float32)
        mean_text = np.zeros(shape, dtype=np.float32)
        clipmem = np.zeros(is_in.shape[1])
        for member, ((images, texts), turn) in enumerate(members):
            image = _turned(images[rows], turn)
            text = _turned(texts[rows], turn)
            for side in (0, 1):
                share = weights[side, member].astype(np.float32)[:, None]
                mean_image[side] += share * image
                mean_text[side] += share * text
            alone = np.zeros_like(weights[0])
            alone[member] = 1.0
            clipmem += (weights[0, member] - weights[1, member]) * h(
                rows, image, text, (alone, alone)
            )
        f_g, g_f = (
            h(rows, mean_image[a], mean_text[b], (weights[a], weights[b]))
            for a, b in ((0, 1), (1, 0))
        )
        parts[:, rows] = np.stack([clipmem + (f_g - g_f), clipmem - (f_g - g_f)]) / 2

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, range(0, len(external), _CHUNK)))
    return parts


def _turned(vectors: np.ndarray, rotation: np.ndarray | None) -> np.ndarray:
    """Return vectors in the common space, in their own precision."""
    return vectors if rotation is None else vectors @ rotation.astype(vectors.dtype)


def unitmem(highest: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return UnitMem = (μ_max − μ_rest) / (μ_max + μ_rest), the definition of "Localizing
    Memorization in SSL Vision Encoders" (Wang et al., NeurIPS 2024).

    In [0, 1]: 1 is a unit that fires for one pair alone, 0 one that fires alike for all.

    Args:
        highest: the largest of the pairs' mean activations, at least 0, [n_units]; NaN results from
            0.
        rest: mean (the paper) or median (its code) of those of the other pairs, at least 0,
            [n_units].
    """
    highest = np.asarray(highest, np.float64)
    rest = np.asarray(rest, np.float64)
    total = highest + rest
    return np.divide(highest - rest, total, out=np.full(total.shape, np.nan), where=total > 0)


class UnitTally:
    """Streams activations batch by batch, in memory that depends only on the number of units.

    UnitMem is bounded where activations are not negative, as those of the paper's ReLU networks; a
    transformer's GELU goes down to −0.17. So activations below 0 count as 0 (token by token, before
    any mean), and `clipped` is the share that this leaves out.

    The mean variant is exact. The median is read from a histogram of 512 bins over [0, 2^e), the
    least power of two above the unit's largest activation. When that grows, neighbouring bins are
    merged, so that the order of batches changes nothing. UnitMem by the median is off by
    `median_error` at most, about 0.004; zeros are counted separately.
    """

    def __init__(self, n_units: int) -> None:
        self.count = 0
        self.total = np.zeros(n_units)
        self.below = np.zeros(n_units)
        self.highest = np.zeros(n_units, np.float32)
        self.second = np.zeros(n_units, np.float32)
        self.row = np.full(n_units, -1, dtype=np.int64)
        self.zeros = np.zeros(n_units, dtype=np.int64)
        self.histogram = np.zeros((n_units, BINS), dtype=np.int32)

    def add(self, rows: np.ndarray, values: np.ndarray, below: np.ndarray) -> None:
        """Count a batch of pairs `rows`, int64 [n], each of which comes once.

        Args: mean activations, those below 0 counted as 0, and the mean absolute value of what that
            left out, float32
        [n, n_units] each.
        """
        if not len(rows):
            return
        values = values.astype(np.float32, copy=False)
        self.count += len(rows)
        self.total += values.sum(axis=0, dtype=np.float64)
        self.below += below.sum(axis=0, dtype=np.float64)
        before = np.frexp(self.highest)[1]
        self._rank(rows, values)
        self._widen(before)
        self.zeros += (values == 0).sum(axis=0)
        places = self._bin(values) + np.arange(values.shape[1]) * BINS
        # The type matters: a weight of another than the histogram's takes a hundred times as long.
        np.add.at(
            self.histogram.reshape(-1),
            places.reshape(-1),
            (values > 0).astype(np.int32).reshape(-1),
        )

    def _rank(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Store the two largest activations, and of equal ones the pair with the smaller number."""
        order = np.argsort(rows, kind="stable")
        ranked = values[order]
        best = ranked.argmax(axis=0)
        units = np.arange(values.shape[1])
        high = ranked[best, units]
        row = np.asarray(rows)[order][best]
        ranked[best, units] = 0
        self.second = np.maximum(
            np.minimum(self.highest, high), np.maximum(self.second, ranked.max(axis=0))
        )
        tied = (high == self.highest) & (high > 0) & (row < self.row)
        self.row = np.where((high > self.highest) | tied, row, self.row)
        self.highest = np.maximum(self.highest, high)

    def _widen(self, before: np.ndarray) -> None:
        """Double the range of units that outgrew theirs, merging bins two by two."""
        doublings = np.minimum(np.frexp(self.highest)[1] - before, int(np.log2(BINS)))
        for turn in range(max(0, doublings.max(initial=0))):
            units = np.flatnonzero(doublings > turn)
            folded = self.histogram[units].reshape(len(units), BINS // 2, 2).sum(axis=2)
            self.histogram[units, : BINS // 2] = folded
            self.histogram[units, BINS // 2 :] = 0

    def _bin(self, values: np.ndarray) -> np.ndarray:
        """Return the bin of activations [..., n_units]; scaling by a power of two is exact."""
        return (values * np.ldexp(float(BINS), -np.frexp(self.highest)[1])).astype(np.int64)

    def scores(self) -> pd.DataFrame:
        """Return UnitMem from the counts, a row a unit.

        unitmem_mean (the paper's; exact), unitmem_median (by its code), median_error (its largest
        possible error), max (activation on the pair with the largest), second (the next one),
        rest_mean, rest_median, clipped (share of the activation, in absolute value, that was below
        0), and row (the pair behind `max`; -1 for a silent unit).
        """
        highest = self.highest.astype(np.float64)
        total = self.below + self.total
        rest_mean = np.maximum(self.total - highest, 0) / (self.count - 1)
        rest_median, spread = self._rest_median()
        median = unitmem(highest, rest_median)
        ends = [unitmem(highest, np.clip(rest_median + s, 0, highest)) for s in (-spread, spread)]
        columns = {
            "unitmem_mean": unitmem(highest, np.minimum(rest_mean, highest)),
            "unitmem_median": median,
            "median_error": np.maximum(ends[0] - median, median - ends[1]),
            "max": highest,
            "second": self.second.astype(np.float64),
            "rest_mean": rest_mean,
            "rest_median": rest_median,
            "clipped": np.divide(self.below, total, out=np.zeros(len(highest)), where=total > 0),
            "row": self.row,
        }
        return pd.DataFrame(columns)

    def _rest_median(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the median over all pairs but the one behind `max`, and its largest error,
        [n_units] each."""
        others = self.histogram.copy()
        fired = np.flatnonzero(self.highest > 0)
        others[fired, self._bin(self.highest)[fired]] -= 1
        reached = others.cumsum(axis=1, dtype=np.int32)
        width = np.ldexp(1 / BINS, np.frexp(self.highest)[1])
        median = np.zeros(len(width))
        spread = np.zeros(len(width))
        for place in ((self.count - 2) // 2, (self.count - 1) // 2):
            # Zeros come first; a place beyond them is that of a value in some bin.
            above = self.zeros <= place
            middle = (reached <= (place - self.zeros)[:, None]).sum(axis=1) + 0.5
            median += np.where(above, middle * width, 0.0) / 2
            spread += np.where(above, width / 2, 0.0) / 2
        return np.minimum(median, self.highest), np.where(self.highest > 0, spread, 0.0)
