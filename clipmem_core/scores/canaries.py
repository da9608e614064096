"""Pairs whose caption is known to be wrong, for nothing: a picture with the caption of an external pair.

No member was trained on an external pair, so the members that leave a picture out have seen neither, and their
embeddings give the score that a swapped caption would have got. These are the known positives of a set whose other
pairs are not known to be right or wrong.
"""

from collections.abc import Sequence

import numpy as np

from clipmem_core.scores.detectors import beside_external, external_used, nearest_mean

_SWAP = 5  # random stream of its own
MOST_SWAPPED = 20_000  # pairs that are swapped, evenly spaced: as many tell what swapped captions score
_SAME = 0.999  # cosine from which two captions say the same


def swapped_csls(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    external: np.ndarray,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `csls_out` that each picture would have with the caption of an external pair.

    Args:
        image: one matrix a member, [n_pairs, dim]; may be memory maps.
        text: one matrix a member, [n_pairs, dim].
        trained: true where the member trains on the pair, [n_members, n_pairs].
        external: true for external pairs, [n_pairs].
        seed: start of the draw of whose caption each picture gets.

    Returns:
        With a caption drawn at random, and with the one most like its own (by the first member's text embeddings)
        that does not say the same; float64 [n_pairs] each, NaN for external pairs and those that every member trains
        on, for others where there are more than 20,000, and everywhere with fewer than three external pairs.

    Example:
        >>> member = np.eye(4, 3)
        >>> external = np.array([False, True, True, True])
        >>> at_random, near = swapped_csls([member], [member], np.zeros((1, 4), bool), external, seed=0)
        >>> at_random.shape, bool(np.isnan(at_random[1:]).all())
        ((4,), True)
    """
    found = external_used(external)
    pairs = np.flatnonzero(~external & ~trained.all(axis=0))
    total, count = np.zeros((2, len(external))), np.zeros(len(external))
    if len(found) < 3 or not len(pairs):
        return np.full(len(external), np.nan), np.full(len(external), np.nan)
    if len(pairs) > MOST_SWAPPED:
        pairs = pairs[np.arange(MOST_SWAPPED) * len(pairs) // MOST_SWAPPED]
    donors = np.zeros((2, len(external)), dtype=np.int64)
    donors[0] = np.random.default_rng([seed, _SWAP]).integers(len(found), size=len(external))
    donors[1, pairs] = _nearest(text[0], external, pairs)
    for a, b, own in zip(image, text, trained, strict=True):
        rows = pairs[~own[pairs]]
        if len(rows):
            total[:, rows] += _swapped(a, b, external, rows, donors[:, rows])
            count[rows] += 1
    with np.errstate(invalid="ignore"):
        at_random, near = np.where(count > 0, total / count, np.nan)
    return at_random, near


def _swapped(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, rows: np.ndarray, donors: np.ndarray
) -> np.ndarray:
    """Return one member's CSLS of pictures with donors' captions, [n_kinds, n_rows]."""
    around = _around_captions(image, text, external)
    score = np.empty(donors.shape)
    for part, _, by_image, _ in beside_external(image, text, external, rows):
        every = np.arange(len(by_image))
        for kind, drawn in enumerate(donors[:, part]):
            own = by_image[every, drawn].copy()
            by_image[every, drawn] = -np.inf  # as a pair's own caption is not among those it is held against
            score[kind, part] = 2 * own - nearest_mean(by_image) - around[drawn]
            by_image[every, drawn] = own
    return score


def _around_captions(image: np.ndarray, text: np.ndarray, external: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each external caption with the pictures nearest to it, its own left out."""
    rows = external_used(external)
    blocks = [nearest_mean(by_text) for _, _, _, by_text in beside_external(image, text, external, rows)]
    return np.concatenate(blocks)


def _nearest(text: np.ndarray, external: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return, for each of some pairs, the place among the external pairs of the caption most like its own."""
    nearest = np.zeros(len(rows), dtype=np.int64)
    for part, _, by_text, _ in beside_external(text, text, external, rows):
        nearest[part] = np.where(by_text < _SAME, by_text, -np.inf).argmax(axis=1)
    return nearest
