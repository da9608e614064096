"""Scores that find wrong captions: misfit and its parts, the scores of swapped captions, scores of
single captions.

Embeddings are one matrix a member, [n_pairs, dim], of any length, and may be memory maps; `trained`
is true where the member trains on the pair, [n_members, n_pairs], and `held-out` for held-out
pairs, [n_pairs]. Cosines with held-out partners are −∞ where a held-out pair would be compared
with itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import scipy  # scipy.stats is loaded when it is used
from threadpoolctl import threadpool_limits

from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.ragged import Ragged

_NEIGHBOURS = 10  # nearest held-out partners that a cosine is compared with
_MOST_HELD_OUT = 1_000  # held-out pairs among which they are searched
_OUT_WEIGHT = 6.0  # of fit_out against learned
# Index in the last axis of a trajectory: training cosine, log-probability of the true partner
LOG_PROBABILITY = 1
_CHUNK = 1_024
# A member's scores of a caption or decoy; learned is NaN for a caption that no epoch drew
CAPTION_SCORES = np.dtype([(name, np.float32) for name in ("similarity", "margin", "learned")])
# Caption number `caption` replaces number `place`; `similar`: drawn by features, else at random
DECOY = np.dtype([("place", np.int64), ("caption", np.int64), ("similar", np.bool_)])


def evenly_spaced(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the values, evenly spaced.

    Args:
        values: [n, ...].
        most: how many.

    Example:
        >>> evenly_spaced(np.arange(7), 3).tolist()
        [0, 2, 4]
    """
    return values if len(values) <= most else values[np.arange(most) * len(values) // most]


def mean_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's in-batch log-probability of the true partner over epochs.

    `learned` is the mean of this over the members that train on a pair (≤ 0). Higher: learned
    earlier. With the paper's protocol candidates have it from f, independents from g.

    Args:
        trajectory: training cosine and log-probability (≤ 0, both directions averaged), [n_epochs,
            n_pairs, 2]; NaN where not trained; may be a memory map.

    Returns:
        float64 [n_pairs]; NaN for pairs the member never trained on.
    """
    return nan_mean(trajectory[:, :, LOG_PROBABILITY])


def misfit(
    learned: np.ndarray, fit_out: np.ndarray, fit_second: np.ndarray | None = None
) -> np.ndarray:
    """Score how badly a pair's captions fit its image: misfit = −(z(learned) + 6 z(fit_out)).

    Larger is more suspicious; 0 is average. Needs no labels and no further training. The weights
    were chosen on other injected errors than those they were evaluated on (data/results/README.md).

    A pair with one part (a held-out pair has no `learned`, a pair that every member trains on has
    no `fit_out`) gets the misfit at the same quantile among the pairs with both; one with none is
    NaN.

    Args:
        learned: mean log-probability in training, [n_pairs]; NaN for held-out pairs.
        fit_out: how well the caption fits, by members that never saw the pair and by the towers,
            [n_pairs].
        fit_second: the same after a second round of training, [n_pairs]; where any pair has it, it
            takes the place of fit_out.

    Returns:
        float64 [n_pairs].
    """
    out = fit_out
    if fit_second is not None and np.isfinite(fit_second).any():
        out = fit_second
    score = np.full(len(learned), np.nan)
    both = np.isfinite(learned) & np.isfinite(out)
    if not both.any():
        return score
    z = scipy.stats.zscore
    score[both] = -(z(learned[both]) + _OUT_WEIGHT * z(out[both]))
    for part in (learned, out):
        single = np.isnan(score) & np.isfinite(part)
        score[single] = np.interp(-part[single], np.sort(-part[both]), np.sort(score[both]))
    return score


def csls(cosine: np.ndarray, by_image: np.ndarray, by_text: np.ndarray) -> np.ndarray:
    """Measure how much closer picture and caption are to each other than to their nearest held-out
    partners.

    CSLS (Conneau et al., ICLR 2018, equation 3): 2 cos(x, y) − mean cosine of x with the k nearest
    captions − mean cosine of y with the k nearest pictures; k = 10. In [−4, 4], higher is better.
    Theirs searches all pairs; ours only held-out ones, which no member saw.

    Args:
        cosine: of picture and caption, [n].
        by_image: the picture's with held-out captions, [n, n_held_out].
        by_text: the caption's with held-out pictures, [n, n_held_out].

    Returns:
        [n].

    Example:
        >>> csls(np.array([1.0]), np.array([[0.0, 0.5]]), np.array([[0.5, -np.inf]])).tolist()
        [1.25]
    """
    return 2 * cosine - mean_of_nearest(by_image) - mean_of_nearest(by_text)


def mean_of_nearest(cosines: np.ndarray) -> np.ndarray:
    """Return the mean of each row's 10 largest cosines, or of as many finite ones as every row has.

    Args: [n, n_held_out]; −∞ for a pair's own partner. Returns: [n].
    """
    k = np.isfinite(cosines).sum(axis=1).min(initial=_NEIGHBOURS)
    return np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)


def csls_out(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    held_out: np.ndarray,
) -> np.ndarray:
    """Average `csls` over the members that were not trained on a pair.

    A held-out pair is not compared with itself. Of more than 1,000 held-out pairs 1,000 are used,
    evenly spaced.

    Args:
        image, text: embeddings of each member, [n_pairs, dim].
        trained: true where the member trains on the pair, [n_members, n_pairs].
        held_out: true for held-out pairs, at least two, [n_pairs].

    Returns:
        float64 [n_pairs]; NaN for pairs that every member trains on.
    """

    def measure(a: np.ndarray, b: np.ndarray, in_training: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(~in_training)
        values = np.full(len(held_out), np.nan, dtype=np.float32)
        for part, *cosines in HeldOut.of(a, b, held_out).compared(a, b, rows):
            values[rows[part]] = csls(*cosines)
        return values

    return nan_mean(in_threads(measure, image, text, trained))


def in_threads(measure: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    """Return `map(measure, *arguments)`, computed in two threads."""
    # The products' own threads would wait for each other
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        return list(pool.map(measure, *arguments))


class HeldOut(NamedTuple):
    """The held-out pairs that others are compared with, under one member: all, or 1,000 evenly
    spaced."""

    rows: np.ndarray  # int64 [n_held_out]
    images: np.ndarray  # unit embeddings, [n_held_out, dim]
    texts: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, text: np.ndarray, held_out: np.ndarray) -> "HeldOut":
        """Return those of a member.

        Args: its embeddings of all pairs, [n_pairs, dim]; true for held-out pairs, [n_pairs].
        """
        rows = evenly_spaced(np.flatnonzero(held_out), _MOST_HELD_OUT)
        return cls(rows, unit(image[rows]), unit(text[rows]))

    def compared(
        self, image: np.ndarray, text: np.ndarray, rows: np.ndarray, own: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield for blocks of rows: the slice, cosine of picture and caption [n], the picture's
        cosines with held-out captions and the caption's with held-out pictures, [n, n_held_out]
        each; −∞ for a held-out pair with itself.

        Args: embeddings, [n_all, dim]; rows of them, [n]; the number of the pair of each row, if it
        is not the row, [n].
        """
        own = rows if own is None else own
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            a = unit(image[rows[part]])
            b = unit(text[rows[part]])
            itself = own[part, None] == self.rows
            by_image = np.where(itself, -np.inf, a @ self.texts.T)
            by_text = np.where(itself, -np.inf, b @ self.images.T)
            yield part, np.vecdot(a, b), by_image, by_text


def nan_mean(values: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean over arrays that skips NaN, one array at a time.

    Args: arrays of one shape. Returns: float64 of that shape; NaN where all are NaN.
    """
    total = np.zeros(())
    count = np.zeros(())
    for value in values:
        finite = ~np.isnan(value)
        total = total + np.where(finite, value, 0.0)
        count = count + finite
    return divide_or_nan(total, count)


def divide_or_nan(total: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return total / by, NaN where `by` is not above 0.

    Args: arrays of one shape. Returns: float64 of that shape.
    """
    return np.divide(total, by, out=np.full(total.shape, np.nan), where=by > 0)


def swapped_csls(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    held_out: np.ndarray,
    swaps: np.ndarray,
) -> np.ndarray:
    """Return the `csls_out` that each picture would have with the caption of a held-out pair.

    No member was trained on a held-out pair, so the members that leave a picture out have seen
    neither: these are positives of a set whose other pairs are unlabelled.

    Args:
        image, text, trained, held_out: as for `csls_out`.
        swaps: the held-out pairs whose captions each pair gets, [n_pairs, n_swaps].

    Returns:
        float64 [n_pairs, n_swaps]; NaN for held-out pairs, those that every member trains on, and
        those without swaps.
    """
    pairs = np.flatnonzero(~held_out & ~trained.all(axis=0) & (swaps[:, 0] >= 0))

    def measure(a: np.ndarray, b: np.ndarray, in_training: np.ndarray) -> np.ndarray:
        beside = HeldOut.of(a, b, held_out)
        values = np.full(swaps.shape, np.nan)
        rows = pairs[~in_training[pairs]]
        for column, sources in enumerate(swaps.T):
            captions = unit(b[sources[rows]])
            near = mean_of_nearest_pictures(captions, sources[rows], beside)
            for part, _, by_image, _ in beside.compared(a, b, rows):
                cosine = np.vecdot(unit(a[rows[part]]), captions[part])
                same = sources[rows[part], None] == beside.rows
                others = np.where(same, -np.inf, by_image)  # not a neighbour of the picture
                values[rows[part], column] = 2 * cosine - mean_of_nearest(others) - near[part]
        return values

    return nan_mean(in_threads(measure, image, text, trained))


def mean_of_nearest_pictures(vectors: np.ndarray, own: np.ndarray, beside: HeldOut) -> np.ndarray:
    """Return the mean cosine of captions with the 10 nearest held-out pictures, [n].

    Args: unit embeddings of the captions, [n, dim]; the number of the pair of each, with whose
    picture it is not compared, [n]; at least two held-out pairs.
    """
    nearest = np.empty(len(vectors), vectors.dtype)
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        itself = own[part, None] == beside.rows
        cosines = np.where(itself, -np.inf, vectors[part] @ beside.images.T)
        nearest[part] = mean_of_nearest(cosines)
    return nearest


def caption_scores(
    vectors: np.ndarray,
    first: int,
    owner: np.ndarray,
    decoys: np.ndarray,
    image: np.ndarray,
    beside: HeldOut,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similarity and margin of a block of captions, and of the decoys among them.

    Similarity, in [−1, 1], is the cosine with the caption's picture, or of a decoy with the picture
    of the caption that it replaces. Margin, in [−2, 2], half of `csls`: similarity − mean cosine
    with the 10 nearest held-out pictures.

    Args:
        vectors: unit embeddings of the captions from number `first` on, [n, dim].
        owner: each caption's pair, [n_captions].
        decoys: `DECOY` [n_decoys], ascending by caption.
        image: embeddings of pictures of any length, [n_pairs, dim].
        beside: held-out pairs; a caption is not compared with its own picture.

    Returns:
        Rows of `CAPTION_SCORES` [n_captions + n_decoys], similarity and margin, [n] each.
    """
    block = np.arange(first, first + len(vectors))
    some = np.arange(*np.searchsorted(decoys["caption"], (first, first + len(vectors))))
    texts = np.append(block, decoys["caption"][some]) - first
    pictures = owner[np.append(block, decoys["place"][some])]
    similarity = np.vecdot(vectors[texts], unit(image[pictures]))
    nearest = mean_of_nearest_pictures(vectors, owner[block], beside)
    return np.append(block, len(owner) + some), similarity, similarity - nearest[texts]


def fit_beside(
    vectors: np.ndarray, units: Ragged, image: np.ndarray, own: np.ndarray, beside: HeldOut
) -> np.ndarray:
    """Return similarity and margin of captions, and the `csls` of their pair, [n_captions, 3].

    Args:
        vectors: unit embeddings of captions, [n_captions, dim].
        units: the captions of each pair.
        image: embedding of each pair's picture, [n_pairs, dim].
        own: the number of each pair among those of `beside`; −1: another, [n_pairs].
        beside: held-out pairs.
    """
    owner = units.owner
    similarity = np.vecdot(vectors, unit(image[owner]))
    nearest = mean_of_nearest_pictures(vectors, own[owner], beside)
    blocks = beside.compared(image, units.mean(vectors), np.arange(len(units)), own)
    fit = np.concatenate([csls(*cosines) for _, *cosines in blocks])
    return np.column_stack([similarity, similarity - nearest, fit[owner]])


def learned_by_caption(
    log_probability: np.ndarray, rows: np.ndarray, drawn: Sequence[np.ndarray], n_captions: int
) -> np.ndarray:
    """Average the log-probability of training over the epochs in which each caption was drawn.

    Epochs differ in level, and captions in the epochs that drew them: each epoch's mean is
    subtracted first.

    Args:
        log_probability: of each pair's partner in its batch, [n_epochs, n_pairs]; NaN where not
            trained.
        rows: the pairs that the member trains on, [n_rows].
        drawn: the caption that each of them had in each epoch, one array an epoch, [n_rows].
        n_captions: of all pairs.

    Returns:
        [n_captions], larger is learned earlier and better, 0 is average; NaN for captions that were
        never drawn.

    Example:
        >>> log_probability = np.array([[-4.0, -2.0], [-1.0, -1.0]])
        >>> drawn = [np.array([0, 2]), np.array([1, 2])]
        >>> learned_by_caption(log_probability, np.array([0, 1]), drawn, 3).tolist()
        [-1.0, 0.0, 0.5]
    """
    total = np.zeros(n_captions)
    count = np.zeros(n_captions)
    for values, captions in zip(log_probability[:, rows].astype(np.float64), drawn, strict=True):
        finite = np.isfinite(values)
        off = values - values[finite].mean() if finite.any() else values
        total += np.bincount(captions[finite], off[finite], n_captions)
        count += np.bincount(captions[finite], minlength=n_captions)
    return divide_or_nan(total, count)
