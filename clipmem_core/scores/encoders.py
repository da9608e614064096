"""Turns mean embeddings of several members into the part each encoder has in clipmem, and each encoder's own SSLMem.

The embeddings of two members live in different spaces. R is the orthogonal map from one to the other, fitted on both
modalities of pairs whose membership is the same in both. With h(a, b) = alignment of a's image encoder with b's text
encoder, f mapped by R to g, the two-player Shapley values are exact:

    image = ½[h(f,g) − h(g,g) + h(f,f) − h(g,f)]      text = ½[h(g,f) − h(g,g) + h(f,f) − h(f,g)]

Their sum is clipmem, and a misfit of R that hurts both hybrids alike cancels. The decomposition is ours,
not the paper's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, EXTERNAL, SHARED, SSLMEM_IMAGE, SSLMEM_TEXT
from clipmem_core.config import InputError
from clipmem_core.scores.hybrids import hybrid_parts
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.sides import in_side, replicate_rows, side_means

_CHUNK = 8_192
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
    image: Sequence[np.ndarray], text: Sequence[np.ndarray], membership: Membership, *, protocol: str, seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Split every pair's clipmem into the part of the image encoder and the part of the text encoder.

    Cosine units; positive: that encoder memorized the pair; the parts add up to clipmem. Paper: f mapped to g on all
    shared pairs, seed by seed, then averaged. Ensemble: every member mapped to the first on all external pairs;
    averages over all in–out pairs of members are inner products of means, linear in members. How well such a map
    fits is measured apart: one fitted on half of these pairs, held against the other half.

    Args:
        image: μ_I of each member, [n_pairs, dim]; may be memory maps.
        text: μ_T of each member, [n_pairs, dim].
        membership: who trains on what.
        protocol: `ensemble` or `paper`.
        seed: start of the labelling of external pairs, and of the half that is held out to measure the fit.

    Returns:
        A table with clipmem_image and clipmem_text, one row a pair, and for each mapped member the fit of its map:
        the mean cosine over a half of the pairs, mapped as the other half has it.

    Raises:
        ValueError: as many matrices as members, all with a row for each pair, are wanted.
        InputError: members embed in different widths, or there are fewer than two pairs to fit a map on.
    """
    _check(image, text, membership)
    inside = in_side(membership, protocol=protocol, seed=seed)
    replicates = replicate_rows(membership.members, protocol=protocol)
    comparisons = replicates if protocol == "paper" else [np.arange(len(membership.members))]
    fitted_on = _fitted_on(membership, SHARED if protocol == "paper" else EXTERNAL, seed)
    external = membership.group == EXTERNAL

    parts = np.zeros((2, len(external)))
    fits: dict[str, float] = {}
    for rows in comparisons:
        reference = int(rows[~inside[rows, 0]][0]) if protocol == "paper" else int(rows[0])
        maps: list[np.ndarray | None] = [None] * len(rows)
        for position, row in enumerate(rows.tolist()):
            if row != reference:
                pair = (image[row], text[row]), (image[reference], text[reference])
                maps[position], fits[membership.members[row]] = _fit(*pair, fitted_on)
        matrices = [image[row] for row in rows.tolist()], [text[row] for row in rows.tolist()]
        parts += hybrid_parts(*matrices, maps, inside[rows], external) / len(comparisons)
    return pd.DataFrame({CLIPMEM_IMAGE: parts[0], CLIPMEM_TEXT: parts[1]}), fits


def sslmem(
    image_square: Sequence[np.ndarray],
    text_square: Sequence[np.ndarray],
    membership: Membership,
    *,
    n_views: int | np.ndarray,
    n_captions: int | np.ndarray,
    protocol: str,
    seed: int,
) -> pd.DataFrame:
    """Measure how much closer each encoder alone holds the views (or captions) of a pair that it trained on.

    SSLMem (ICLR 2024) with d = 1 − cosine: E d under out minus E d under in, in [−2, 2], positive memorized. The mean
    pairwise cosine of n unit vectors with mean μ is (n‖μ‖² − 1) / (n − 1).

    Args:
        image_square: ‖μ_I‖² of each member, [n_pairs], as `pair_terms` returns it.
        text_square: ‖μ_T‖² of each member, [n_pairs].
        membership: who trains on what.
        n_views: views behind each μ_I, one number or [n_pairs].
        n_captions: captions behind each μ_T, one number or [n_pairs].
        protocol: `ensemble` or `paper`; in and out are those of alignment.
        seed: start of the random labelling of external pairs.

    Returns:
        A table with sslmem_image and sslmem_text, one row a pair; NaN with fewer than two views or captions.
    """
    inside = in_side(membership, protocol=protocol, seed=seed)
    columns = {}
    for name, squares, count in ((SSLMEM_IMAGE, image_square, n_views), (SSLMEM_TEXT, text_square, n_captions)):
        mean_in, mean_out = side_means([_mean_cosine(square, count) for square in squares], inside)
        columns[name] = mean_in - mean_out
    return pd.DataFrame(columns)


def _mean_cosine(square: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    n = np.broadcast_to(np.asarray(count, dtype=np.float64), square.shape)
    return np.divide(n * square - 1, n - 1, out=np.full(square.shape, np.nan), where=n >= 2)


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
    for start in range(0, len(held_out), _CHUNK):
        some = held_out[start : start + _CHUNK]
        total += sum(len(some) * map_fit(a[some], b[some], rotation) for a, b in zip(source, target, strict=True))
    return _orthogonal(crossed + _crossed(source, target, held_out)), total / (2 * len(held_out))


def _crossed(
    source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], rows: np.ndarray
) -> np.ndarray:
    """Return the sum over rows and modalities of the products of source and target, [dim, dim], float64."""
    crossed = np.zeros((source[0].shape[1],) * 2)
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
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
