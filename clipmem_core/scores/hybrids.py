"""Turns mapped members into the image and the text part of clipmem, a chunk of rows at a time.

h(a, b) = alignment of a's image encoder with b's text encoder is bilinear in the means (μ, ν) of a and of b. So its
mean over all in–out pairs of members is h of the two sides' mean embeddings: linear in members, not quadratic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.scores.alignment import external_means, leave_out

_CHUNK = 4_096


@dataclass(frozen=True)
class _Mapped:
    """The members of one comparison in their common space; a map is None where a member is at home in it."""

    image: Sequence[np.ndarray]
    text: Sequence[np.ndarray]
    maps: Sequence[np.ndarray | None]
    nu_image: np.ndarray  # [n_members, dim], mapped
    nu_text: np.ndarray
    external: np.ndarray  # [n_pairs]


def hybrid_parts(
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
    for start in range(0, len(external), _CHUNK):
        rows = slice(start, start + _CHUNK)
        parts[:, rows] = _parts_of(mapped, rows, inside[:, rows])
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
