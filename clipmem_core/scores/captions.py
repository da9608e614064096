"""Numbers of single captions: how well each fits its picture, and how well it was learned."""

from collections.abc import Sequence

import numpy as np

from clipmem_core.scores.detectors import NEIGHBOURS

_CHUNK = 4_096
_ODD = 4.0  # robust standard deviations


def similarities(vectors: np.ndarray, image: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the cosine of each caption with its picture, in [−1, 1].

    Args:
        vectors: unit embeddings of captions, [n, dim].
        image: embeddings of pictures of any length, [n_pairs, dim].
        owner: each caption's pair, [n].

    Example:
        >>> similarities(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0]]), np.array([0, 0])).tolist()
        [1.0, 0.0]
    """
    first, last = (int(owner.min()), int(owner.max()) + 1) if len(owner) else (0, 0)
    return np.vecdot(vectors, _unit(np.asarray(image[first:last]))[owner - first])


def margins(
    vectors: np.ndarray, similarity: np.ndarray, owner: np.ndarray, image: np.ndarray, beside: np.ndarray
) -> np.ndarray:
    """Return how much closer each caption is to its picture than to the external pictures nearest to it.

    Half of CSLS (Conneau et al., ICLR 2018): similarity − mean cosine with the 10 nearest of some pictures. In [−2, 2].

    Args:
        vectors: unit embeddings of captions, [n, dim].
        similarity: with their pictures, [n].
        owner: each caption's pair, [n].
        image: embeddings of pictures of any length, [n_pairs, dim].
        beside: the external pairs, [n_beside]; a caption of one of them is not held against its own picture.
    """
    pictures, margin = _unit(np.asarray(image[beside])), np.full(len(vectors), np.nan)
    k = min(NEIGHBOURS, len(beside) - 1)
    if k < 1:
        return margin
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines = vectors[part] @ pictures.T
        cosines[owner[part, None] == beside] = -np.inf
        margin[part] = similarity[part] - np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)
    return margin


def learned_by_caption(
    log_probability: np.ndarray, rows: np.ndarray, drawn: Sequence[np.ndarray], n_captions: int
) -> np.ndarray:
    """Average the log-probability of training over the epochs in which each caption was drawn.

    Epochs differ in level, and captions in the epochs that they were drawn in: each epoch's mean is taken off first.

    Args:
        log_probability: of each pair's partner in its batch, [n_epochs, n_pairs]; NaN where not trained.
        rows: the pairs that the member trains on, [n_rows].
        drawn: the caption that each of them had in each epoch, one array an epoch, [n_rows].
        n_captions: of all pairs.

    Returns:
        [n_captions], larger is learned earlier and better, 0 is average; NaN for captions that were never drawn.

    Example:
        >>> log_probability = np.array([[-4.0, -2.0], [-1.0, -1.0]])
        >>> learned_by_caption(log_probability, np.array([0, 1]), [np.array([0, 2]), np.array([1, 2])], 3).tolist()
        [-1.0, 0.0, 0.5]
    """
    total, count = np.zeros(n_captions), np.zeros(n_captions)
    for epoch, captions in zip(log_probability, drawn, strict=True):
        value = epoch[rows].astype(np.float64)
        known = ~np.isnan(value)
        if known.any():
            total += np.bincount(captions[known], value[known] - value[known].mean(), minlength=n_captions)
            count += np.bincount(captions[known], minlength=n_captions)
    return np.divide(total, count, out=np.full(n_captions, np.nan), where=count > 0)


def gaps(margin: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return how far each caption's margin lies below the mean of its pair's others; NaN where it has no others.

    Args:
        margin: of each caption, [n_captions]; NaN is passed over.
        owner: each caption's pair, from 0, [n_captions].

    Example:
        >>> gaps(np.array([1.0, 1.0, 0.0, 0.5]), np.array([0, 0, 0, 1])).tolist()
        [-0.5, -0.5, 1.0, nan]
    """
    known = ~np.isnan(margin)
    values = np.where(known, margin, 0.0)
    others = np.bincount(owner, values)[owner] - values
    count = np.bincount(owner, known)[owner] - known
    mean = np.divide(others, count, out=np.full(len(margin), np.nan), where=count > 0)
    return mean - margin


def odd_captions(gap: np.ndarray) -> np.ndarray:
    """Tell which captions fit so much worse than the others of their pair that they are probably wrong.

    Those whose gap is more than 4 robust standard deviations (1.4826 × the median distance from the median; Rousseeuw &
    Croux, JASA 1993) above the median of all captions.

    Args:
        gap: of each caption, [n_captions]; NaN is no odd one.

    Example:
        >>> odd_captions(np.array([0.1, -0.1, 0.0, 0.2, -0.2, 3.0, np.nan])).tolist()
        [False, False, False, False, False, True, False]
    """
    if not np.isfinite(gap).any():
        return np.zeros(len(gap), dtype=bool)
    middle = np.nanmedian(gap)
    return gap > middle + _ODD * 1.4826 * np.nanmedian(np.abs(gap - middle))


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
