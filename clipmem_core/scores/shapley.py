"""The part that each encoder has in clipmem: Shapley values from members mapped into one space.

The embeddings of two members live in different spaces. R is the orthogonal map from one to the other, fitted on both
modalities of pairs whose membership is the same in both. With h(a, b) = alignment of a's image encoder with b's text
encoder, f mapped by R to g, the two-player Shapley values are exact:

    image = ½[h(f,g) − h(g,g) + h(f,f) − h(g,f)]      text = ½[h(g,f) − h(g,g) + h(f,f) − h(f,g)]

Their sum is clipmem, and a misfit of R that hurts both hybrids alike cancels. The decomposition is ours,
not the paper's. h is bilinear in the means (μ, ν) of a and of b, so its mean over all in–out pairs of members is h of
the two sides' mean embeddings: linear in members, not quadratic.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, EXTERNAL, SHARED
from clipmem_core.config import InputError
from clipmem_core.scores.alignment import external_means, leave_out
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.membership import Membership

_FIT_CHUNK, _CHUNK = 8_192, 4_096  # rows at a time: of a fit, of the parts
_THREADS = 2  # chunks worked on side by side
_HELD_OUT_DRAW = 4  # a random stream of its own
_TIE = 1e-10  # relative weight of the identity where the rows leave the map open


def procrustes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the orthogonal map R that minimises ‖source R − target‖.

    Directions that the rows say nothing about are mapped as near to the identity as they can be.

    Args:
        source: [n_rows, dim].
        target: the same rows in the other space, [n_rows, dim].

    Returns:
        R, [dim, dim], float64.

    Raises:
        ValueError: the matrices differ in shape.

    Example:
        >>> procrustes(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])).round(6) + 0.0
        array([[0., 1.],
               [1., 0.]])
    """
    if source.shape != target.shape:
        raise ValueError(f"source and target must have one shape, not {source.shape} and {target.shape}")
    return _orthogonal(source.astype(np.float64).T @ target.astype(np.float64))


def map_fit(source: np.ndarray, target: np.ndarray, rotation: np.ndarray) -> float:
    """Return the mean cosine of mapped rows with their targets: 1 a perfect map, near 0 no better than chance.

    Args:
        source: rows that the map was not fitted on, [n_rows, dim].
        target: the same rows in the other space, [n_rows, dim].
        rotation: the map, [dim, dim].
    """
    mapped = source @ rotation
    lengths = np.linalg.norm(mapped, axis=1) * np.linalg.norm(target, axis=1)
    products = np.einsum("nd,nd->n", mapped, target)
    return float(np.divide(products, lengths, out=np.zeros(len(lengths)), where=lengths > 0).mean())


def contributions(
    image: Sequence[np.ndarray], text: Sequence[np.ndarray], sides: Sides
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Split every pair's clipmem into the part of the image encoder and the part of the text encoder.

    Cosine units; positive: that encoder memorized the pair; the parts add up to clipmem. Paper: f mapped to g on all
    shared pairs, seed by seed, then averaged. Ensemble: every member mapped to the first on all external pairs;
    averages over all in–out pairs of members are inner products of means, linear in members. How well such a map
    fits is measured apart: one fitted on half of these pairs, held against the other half.

    Args:
        image: μ_I of each member, [n_pairs, dim]; may be memory maps.
        text: μ_T of each member, [n_pairs, dim].
        sides: which members count as in and out; its seed also draws the half that is held out to measure the fit.

    Returns:
        A table with clipmem_image and clipmem_text, one row a pair, and for each mapped member the fit of its map:
        the mean cosine over a half of the pairs, mapped as the other half has it.

    Raises:
        ValueError: as many matrices as members, all with a row for each pair, are wanted.
        InputError: members embed in different widths, or there are fewer than two pairs to fit a map on.
    """
    membership, paper = sides.membership, sides.protocol == "paper"
    _check(image, text, membership)
    fitted_on = _fitted_on(membership, SHARED if paper else EXTERNAL, sides.seed)
    # The members that share a space: those of a seed of the paper's, or all
    comparisons = sides.replicates if paper else [np.arange(len(membership.members))]
    parts, fits = np.zeros((2, len(sides.external))), dict[str, float]()
    for rows in comparisons:
        reference = int(rows[~sides.inside[rows, 0]][0]) if paper else int(rows[0])
        turned: list[np.ndarray | None] = []
        for row in rows.tolist():
            rotation = None
            if row != reference:
                pair = (image[row], text[row]), (image[reference], text[reference])
                rotation, fits[membership.members[row]] = _fit(*pair, fitted_on)
            turned.append(rotation)
        matrices = [image[row] for row in rows.tolist()], [text[row] for row in rows.tolist()]
        parts += _hybrid_parts(*matrices, turned, sides.inside[rows], sides.external) / len(comparisons)
    return pd.DataFrame({CLIPMEM_IMAGE: parts[0], CLIPMEM_TEXT: parts[1]}), fits


def _fitted_on(membership: Membership, group: str, seed: int) -> np.ndarray:
    """Return the rows of the group in random order."""
    rows = np.flatnonzero(membership.group == group)
    if len(rows) < 2:
        raise InputError(f"the parts of the encoders need at least 2 {group} pairs, found {len(rows)}: add some")
    return np.random.default_rng([seed, _HELD_OUT_DRAW]).permutation(rows)


def _fit(
    source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], rows: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the map fitted on both modalities of all rows, and how one of the first half fits the other half."""
    half, held_out = np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])
    crossed = _crossed(source, target, half)
    rotation = _orthogonal(crossed)
    total = 0.0
    for start in range(0, len(held_out), _FIT_CHUNK):
        some = held_out[start : start + _FIT_CHUNK]
        total += sum(len(some) * map_fit(a[some], b[some], rotation) for a, b in zip(source, target, strict=True))
    return _orthogonal(crossed + _crossed(source, target, held_out)), total / (2 * len(held_out))


def _crossed(
    source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], rows: np.ndarray
) -> np.ndarray:
    """Return the sum over rows and modalities of the products of source and target, [dim, dim], float64."""
    crossed = np.zeros((source[0].shape[1],) * 2)
    for start in range(0, len(rows), _FIT_CHUNK):
        some = rows[start : start + _FIT_CHUNK]
        for a, b in zip(source, target, strict=True):
            crossed += a[some].astype(np.float64).T @ b[some].astype(np.float64)
    return crossed


def _orthogonal(crossed: np.ndarray) -> np.ndarray:
    # With fewer rows than dimensions the complement is open, and rounding would choose: the identity breaks the tie.
    tie = _TIE * np.linalg.norm(crossed) * np.eye(len(crossed))
    left, _, right = np.linalg.svd(crossed + tie)
    return left @ right


def _check(image: Sequence[np.ndarray], text: Sequence[np.ndarray], membership: Membership) -> None:
    if not len(image) == len(text) == len(membership.members):
        wanted = len(membership.members)
        raise ValueError(f"image and text must hold {wanted} members, not {len(image)} and {len(text)}")
    rows = sorted({len(matrix) for matrix in (*image, *text)})
    if rows != [len(membership.group)]:
        raise ValueError(f"image and text must have {len(membership.group)} rows, not {rows}")
    widths = sorted({matrix.shape[1] for matrix in (*image, *text)})
    if len(widths) > 1:
        raise InputError(
            f"the parts of the encoders need members that embed in one width, not in {widths}: score those apart"
        )


@dataclass(frozen=True)
class _Mapped:
    """The members of one comparison in their common space; a map is None where a member is at home in it."""

    image: Sequence[np.ndarray]
    text: Sequence[np.ndarray]
    maps: Sequence[np.ndarray | None]
    nu_image: np.ndarray  # [n_members, dim], mapped
    nu_text: np.ndarray
    external: np.ndarray  # [n_pairs]


def _hybrid_parts(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    maps: Sequence[np.ndarray | None],
    inside: np.ndarray,
    external: np.ndarray,
) -> np.ndarray:
    """Compute the two-player Shapley values of clipmem, averaged over all in–out pairs of members.

    Args:
        image: μ_I of each member, [n_pairs, dim].
        text: μ_T of each member, [n_pairs, dim].
        maps: orthogonal map of each member to the common space, [dim, dim], or None for the identity.
        inside: true where the member is on the `in` side, [n_members, n_pairs].
        external: true for external pairs, [n_pairs].

    Returns:
        Image and text part, [2, n_pairs], in cosine units; they add up to clipmem.
    """
    nu_image, nu_text = [], []
    for a, b, rotation in zip(image, text, maps, strict=True):
        means = external_means(a, b, external)
        nu_image.append(_turned(means[0], rotation))
        nu_text.append(_turned(means[1], rotation))
    mapped = _Mapped(image, text, maps, np.stack(nu_image), np.stack(nu_text), external)
    parts = np.empty((2, len(external)))

    def measure(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        parts[:, rows] = _parts_of(mapped, rows, inside[:, rows])

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(measure, range(0, len(external), _CHUNK)))
    return parts


def _parts_of(mapped: _Mapped, rows: slice, inside: np.ndarray) -> np.ndarray:
    """Return both parts for a chunk of rows, [2, n_rows]."""
    with np.errstate(invalid="ignore"):  # a pair without members on one side has no clipmem: NaN
        weights = np.stack([side / side.sum(axis=0) for side in (inside, ~inside)])
    shape = (2, inside.shape[1], mapped.nu_image.shape[1])  # [in and out, n_rows, dim]
    mean_image, mean_text = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    clipmem = np.zeros(inside.shape[1])
    for member, rotation in enumerate(mapped.maps):
        image, text = _turned(mapped.image[member][rows], rotation), _turned(mapped.text[member][rows], rotation)
        for side in (0, 1):
            share = weights[side, member].astype(np.float32)[:, None]
            mean_image[side] += share * image
            mean_text[side] += share * text
        alone = np.zeros_like(weights[0])
        alone[member] = 1.0
        clipmem += (weights[0, member] - weights[1, member]) * _aligned(mapped, rows, image, text, alone, alone)
    f_g, g_f = (
        _aligned(mapped, rows, mean_image[a], mean_text[b], weights[a], weights[b]) for a, b in ((0, 1), (1, 0))
    )
    return np.stack([clipmem + (f_g - g_f), clipmem - (f_g - g_f)]) / 2


def _aligned(
    mapped: _Mapped,
    rows: slice,
    image: np.ndarray,
    text: np.ndarray,
    image_weights: np.ndarray,
    text_weights: np.ndarray,
) -> np.ndarray:
    """Return h of image and text embeddings, [n_rows]; weights [n_members, n_rows] mix ν from the members' own."""
    positive = np.einsum("nd,nd->n", image, text).astype(np.float64)
    negative_text = np.einsum("nm,mn->n", image @ mapped.nu_text.T, text_weights)
    negative_image = np.einsum("nm,mn->n", text @ mapped.nu_image.T, image_weights)
    external, n_external = mapped.external[rows], int(mapped.external.sum())
    negatives = (
        np.where(external, leave_out(negative, positive, n_external), negative)
        for negative in (negative_text, negative_image)
    )
    return positive - sum(negatives)


def _turned(vectors: np.ndarray, rotation: np.ndarray | None) -> np.ndarray:
    """Return vectors in the common space, in their own precision."""
    return vectors if rotation is None else vectors @ rotation.astype(vectors.dtype)
