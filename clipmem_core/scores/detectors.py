"""Scores that find wrong captions: misfit and its parts, the scores of swapped captions, scores of
single captions.

Embeddings are one matrix a member, [n_pairs, dim], of any length, and may be memory maps; `trained`
is true where the member trains on the pair, [n_members, n_pairs], and `external` for external
pairs, [n_pairs]. Cosines with external partners are −∞ where an external pair would be compared
with itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from clipmem_core.scores.alignment import unit

_NEIGHBOURS = 10  # nearest external partners that a cosine is compared with
MOST_EXTERNAL = 1_000  # external pairs among which they are searched
MOST_SWAPPED = 20_000  # pairs whose caption is swapped, evenly spaced
LOG_PROBABILITY = (
    1  # place in a trajectory's last axis: training cosine, log-probability of the true partner
)
_CHUNK = 1_024
_CAPTION_CHUNK = 4_096
_GROUPED = 10  # cosines whose maximum is compared first
_SWAP_DRAW = 5  # random stream


def mean_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's in-batch log-probability of the true partner over epochs.

    Args:
        trajectory: training cosine and log-probability (≤ 0, both directions averaged), [n_epochs,
            n_pairs, 2]; NaN where not trained; may be a memory map.

    Returns:
        float64 [n_pairs]; NaN for pairs the member never trained on.
    """
    return nan_mean([epoch[:, LOG_PROBABILITY] for epoch in trajectory])


def learned(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Average `mean_over_epochs` over the members that train on a pair: how early and how well it
    is learned.

    At most 0; near 0 learned at once, far below late or never. Paper: candidates have it from f,
    independents from g.

    Args: one array a member, [n_pairs]; NaN where the member does not train on the pair.
    """
    return nan_mean(log_probabilities)


def misfit(
    learned: np.ndarray, log_probability_out: np.ndarray, *, second: bool = False
) -> np.ndarray:
    """Score how badly a pair's captions fit its image: misfit = −(z(learned) + 2
    z(log_probability_out)).

    Larger is more suspicious; 0 is average. Needs no labels and no further training. The weights
    were chosen on other injected errors than those they were evaluated on (data/results/README.md).

    A pair with one part (a held-out pair has no `learned`, a pair that every member trains on has
    no `log_probability_out`) gets the misfit at the same quantile among the pairs with both; one
    with none is NaN.

    Args:
        learned: mean log-probability in training, [n_pairs]; NaN for held-out pairs.
        log_probability_out: of the true partner among held-out ones, under members that never saw
            the pair, [n_pairs].
        second: whether log_probability_out is of a second round of training, and then weighs 4.
    """
    return _sum_of_z((learned, 1.0), (log_probability_out, 4.0 if second else 2.0))


def _sum_of_z(*parts: tuple[np.ndarray, float]) -> np.ndarray:
    """Return minus the weighted sum of z-scores; a row with one part gets the score at the same
    quantile."""

    def z(values: np.ndarray) -> np.ndarray:
        spread = values.std()
        return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))

    score = np.full(len(parts[0][0]), np.nan)
    both = np.flatnonzero(~np.isnan([values for values, _ in parts]).any(axis=0))
    if len(both):
        score[both] = -sum(weight * z(values[both]) for values, weight in parts)
        for values, _ in parts:
            alone = np.flatnonzero(np.isnan(score) & ~np.isnan(values))
            score[alone] = np.interp(-values[alone], np.sort(-values[both]), np.sort(score[both]))
    return score


def csls(cosine: np.ndarray, by_image: np.ndarray, by_text: np.ndarray) -> np.ndarray:
    """Measure how much closer picture and caption are to each other than to their nearest external
    partners.

    CSLS (Conneau et al., ICLR 2018, equation 3): 2 cos(x, y) − mean cosine of x with the k nearest
    captions − mean cosine of y with the k nearest pictures; k = 10. In [−4, 4], higher is better.
    Theirs searches all pairs; ours only external ones, which no member saw.

    Args:
        cosine: of picture and caption, [n].
        by_image: the picture's with external captions, [n, n_external].
        by_text: the caption's with external pictures, [n, n_external].

    Example:
        >>> csls(np.array([1.0]), np.array([[0.0, 0.5]]), np.array([[0.5, -np.inf]])).tolist()
        [1.25]
    """
    return 2 * cosine - _nearest_mean(by_image) - _nearest_mean(by_text)


def _nearest_mean(cosines: np.ndarray, most: int = _NEIGHBOURS) -> np.ndarray:
    """Return the mean of each row's 10 largest cosines, or of as many as every row has, [n]."""
    n = len(cosines)
    k = min(most, cosines.shape[1])
    width = cosines.shape[1] // _GROUPED
    if width > k:  # the k largest are in the k groups with the largest maxima: a third of the time
        groups = cosines[:, : width * _GROUPED].reshape(n, _GROUPED, width)
        rest = cosines[:, width * _GROUPED :]
        chosen = np.argpartition(groups.max(axis=1), -k, axis=1)[:, None, -k:]
        cosines = np.concatenate(
            [np.take_along_axis(groups, chosen, axis=2).reshape(n, -1), rest], axis=1
        )
    largest = np.partition(cosines, -k, axis=1)[:, -k:]
    if missing := int(np.isinf(largest).sum(axis=1).max(initial=0)):
        largest = np.sort(largest, axis=1)[:, missing:]
    return largest.mean(axis=1)


def log_probability(
    cosine: np.ndarray, by_image: np.ndarray, by_text: np.ndarray, *, logit_scale: float
) -> np.ndarray:
    """Return a member's log-probability of a pair's true partner among the external partners.

    Mean over both directions of the log of the softmax of logit_scale × cosine. At most 0. SigLIP's
    loss has no softmax: this is then that of its scaled cosines, as in the trajectory; a bias would
    cancel.

    Args:
        cosine, by_image, by_text: as for `csls`.
        logit_scale: of the member; NaN where unknown, as is the result then.
    """
    total = np.zeros_like(cosine)
    for cosines in (by_image, by_text):  # scipy's logsumexp takes seven times as long
        top = np.maximum(cosine, cosines.max(axis=1))
        others = np.exp((cosines - top[:, None]) * logit_scale).sum(axis=1)
        beyond = (cosine - top) * logit_scale
        total += beyond - np.log(np.exp(beyond) + others)
    return total / 2


def fit_out(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    external: np.ndarray,
    logit_scales: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Average `csls` and `log_probability` over the members that were not trained on a pair, in one
    pass.

    An external pair is not compared with itself. Of more than 1,000 external pairs 1,000 are used,
    evenly spaced.

    Returns:
        csls_out and log_probability_out, float64 [n_pairs] each; NaN for pairs that every member
        trains on.
    """

    def measure(a: np.ndarray, b: np.ndarray, in_training: np.ndarray, scale: float) -> np.ndarray:
        rows = np.flatnonzero(~in_training)
        values = np.full((2, len(external)), np.nan, dtype=np.float32)
        for part, *cosines in _beside_external(a, b, external, rows):
            values[:, rows[part]] = csls(*cosines), log_probability(*cosines, logit_scale=scale)
        return values

    # The products' own threads would wait for each other
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        fit, sure = nan_mean(list(pool.map(measure, image, text, trained, logit_scales)))
    return fit, sure


def external_used(external: np.ndarray) -> np.ndarray:
    """Return the external pairs that others are compared with: all, or 1,000 evenly spaced; int
    [n]."""
    rows = np.flatnonzero(external)
    return (
        rows
        if len(rows) <= MOST_EXTERNAL
        else rows[np.arange(MOST_EXTERNAL) * len(rows) // MOST_EXTERNAL]
    )


def _beside_external(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for blocks of rows: the slice, own cosine [n], image's cosines with external captions
    [n, n_external], and caption's with external images; −∞ for an external pair's own."""
    partners = external_used(external)
    if len(partners) < 2:
        raise ValueError(
            "external must name at least 2 pairs, since a pair leaves itself out, not "
            f"{len(partners)}"
        )
    images = unit(image[partners]).T
    texts = unit(text[partners]).T
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        a = unit(image[rows[part]])
        b = unit(text[rows[part]])
        by_image = a @ texts
        by_text = b @ images
        place = np.searchsorted(partners, rows[part])
        itself = np.flatnonzero(partners[np.minimum(place, len(partners) - 1)] == rows[part])
        for cosines in (by_image, by_text):
            cosines[itself, place[itself]] = -np.inf
        yield part, np.vecdot(a, b), by_image, by_text


def nan_mean(values: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean over arrays that skips NaN, one array at a time, of their shape; NaN where
    all are NaN."""
    total = np.zeros(())
    count = np.zeros(())
    for value in values:
        finite = ~np.isnan(value)
        total = total + np.where(finite, value, 0.0)
        count = count + finite
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def swapped_csls(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    external: np.ndarray,
    *,
    seed: int,
) -> np.ndarray:
    """Return the `csls_out` that each picture would have with the caption of an external pair,
    drawn at random.

    No member was trained on an external pair, so the members that leave a picture out have seen
    neither: these are positives of a set whose other pairs are unlabelled.

    Returns:
        float64 [n_pairs], NaN for external pairs, those that every member trains on, those not
        among the 20,000 used, and everywhere with fewer than three external pairs.
    """
    donor_rows = external_used(external)
    pairs = np.flatnonzero(~external & ~trained.all(axis=0))
    if len(donor_rows) < 3 or not len(pairs):
        return np.full(len(external), np.nan)
    if len(pairs) > MOST_SWAPPED:
        pairs = pairs[np.arange(MOST_SWAPPED) * len(pairs) // MOST_SWAPPED]
    donors = np.random.default_rng([seed, _SWAP_DRAW]).integers(len(donor_rows), size=len(external))

    def measure(a: np.ndarray, b: np.ndarray, in_training: np.ndarray) -> np.ndarray:
        rows = pairs[~in_training[pairs]]
        values = np.full(len(external), np.nan)
        values[rows] = _swapped(a, b, external, rows, donors[rows])
        return values

    return nan_mean(map(measure, image, text, trained))


def _swapped(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, rows: np.ndarray, donors: np.ndarray
) -> np.ndarray:
    """Return one member's CSLS of pictures with donors' captions, [n_rows]."""
    blocks = _beside_external(image, text, external, external_used(external))
    around = np.concatenate(
        [_nearest_mean(by_text) for _, _, _, by_text in blocks]
    )  # of each donor's caption
    score = np.empty(len(rows))
    for part, _, by_image, _ in _beside_external(image, text, external, rows):
        each = np.arange(len(by_image))
        drawn = donors[part]
        cosine = by_image[each, drawn].copy()
        by_image[each, drawn] = -np.inf  # a pair's own caption is not among its neighbours
        score[part] = 2 * cosine - _nearest_mean(by_image) - around[drawn]
    return score


def similarities(vectors: np.ndarray, image: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the cosine of each caption with its picture, in [−1, 1].

    Args:
        vectors: unit embeddings of captions, [n, dim].
        image: embeddings of pictures of any length, [n_pairs, dim].
        owner: each caption's pair, [n].
    """
    first, last = (int(owner.min()), int(owner.max()) + 1) if len(owner) else (0, 0)
    return np.vecdot(vectors, unit(np.asarray(image[first:last]))[owner - first])


def margins(
    vectors: np.ndarray,
    similarity: np.ndarray,
    owner: np.ndarray,
    image: np.ndarray,
    beside: np.ndarray,
) -> np.ndarray:
    """Return how much closer each caption is to its picture than to the nearest external pictures.

    Half of `csls`: similarity − mean cosine with the 10 nearest external pictures. In [−2, 2].

    Args:
        vectors, image, owner: as for `similarities`.
        similarity: with their pictures, [n].
        beside: rows of the external pairs, [n_beside]; a caption is not compared with its own
            picture.
    """
    pictures = unit(np.asarray(image[beside]))
    margin = np.full(len(vectors), np.nan)
    k = min(_NEIGHBOURS, len(beside) - 1)
    if k < 1:
        return margin
    for start in range(0, len(vectors), _CAPTION_CHUNK):
        part = slice(start, start + _CAPTION_CHUNK)
        cosines = vectors[part] @ pictures.T  # a search among so few pictures takes twice as long
        cosines[owner[part, None] == beside] = -np.inf
        margin[part] = similarity[part] - _nearest_mean(cosines, k)
    return margin


def decoy_scores(
    vectors: np.ndarray,
    scores: np.ndarray,
    first: int,
    decoys: np.ndarray,
    image: np.ndarray,
    owner: np.ndarray,
) -> tuple[slice, np.ndarray]:
    """Return which decoys are among a block of captions, and the similarity and margin of each in
    its place, [n, 2].

    Args:
        vectors: unit embeddings of the captions from number `first` on, [n, dim].
        scores: similarity and margin of these captions with their own pictures, [n, 2].
        decoys: the place and the caption of each decoy, ascending by the caption, [n_decoys, 2].
        image: embeddings of pictures, [n_pairs, dim].
        owner: each caption's pair, [n_captions].
    """
    part = slice(*np.searchsorted(decoys[:, 1], (first, first + len(vectors))))
    place = decoys[part, 0]
    row = decoys[part, 1] - first
    similarity = np.vecdot(vectors[row], unit(np.asarray(image[owner[place]])))
    nearest = (
        scores[row, 0] - scores[row, 1]
    )  # the caption's mean cosine with the nearest external pictures
    return part, np.column_stack([similarity, similarity - nearest])


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
        >>> learned_by_caption(log_probability, np.array([0, 1]), [np.array([0, 2]), np.array([1,
        2])], 3).tolist() [-1.0, 0.0, 0.5]
    """
    total = np.zeros(n_captions)
    count = np.zeros(n_captions)
    for epoch, captions in zip(log_probability, drawn, strict=True):
        value = epoch[rows].astype(np.float64)
        finite = ~np.isnan(value)
        if finite.any():
            total += np.bincount(
                captions[finite], value[finite] - value[finite].mean(), minlength=n_captions
            )
            count += np.bincount(captions[finite], minlength=n_captions)
    return np.divide(total, count, out=np.full(n_captions, np.nan), where=count > 0)
