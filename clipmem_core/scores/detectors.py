"""Scores that find wrong captions, from training trajectories, similarities and neighbours; larger is worse."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

NEIGHBOURS = 10  # nearest external partners that a cosine is held against
MOST_EXTERNAL = 1_000  # external pairs among which they are looked for
_CHUNK = 1_024
FOLDS = 5  # of the classifier of labels
MOST_LABELLED = 20_000  # pairs that it is fitted on
_SURE = 1e-6  # a probability is held this far from 0 and 1: float16 rounds those of a trajectory to them
LOG_PROBABILITY = 1  # place in a trajectory's last axis: training cosine, log-probability of the true partner


def mean_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's in-batch log-probability of the true partner over all epochs that have it.

    Args:
        trajectory: training cosine and log-probability (≤ 0, both directions averaged), [n_epochs, n_pairs, 2]; NaN
            where not trained; may be a memory map.

    Returns:
        float64 [n_pairs]; NaN for pairs the member never trained on.

    Example:
        >>> mean_over_epochs(np.array([[[0.1, -3.0], [0.2, np.nan]], [[0.3, -1.0], [0.2, np.nan]]]))
        array([-2., nan])
    """
    return _known_mean([epoch[:, LOG_PROBABILITY] for epoch in trajectory])


def learned(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Average `mean_over_epochs` over the members that train on a pair: how early and how well it is learned.

    At most 0; near 0 learned at once, far below late or never. Paper: candidates take it from f, independents from g.

    Args:
        log_probabilities: one array a member, [n_pairs]; NaN where the member does not train on the pair.

    Returns:
        float64 [n_pairs]; NaN for pairs that no member trains on.

    Raises:
        ValueError: there is no member.

    Example:
        >>> learned([np.array([-1.0, np.nan]), np.array([-3.0, np.nan])])
        array([-2., nan])
    """
    if len(log_probabilities) == 0:
        raise ValueError("log_probabilities must hold at least one member, not none")
    return _known_mean(log_probabilities)


def margin_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's margin of the true partner over all epochs that have it (area under the margin).

    After Pleiss et al. (NeurIPS 2020, equation 1), with an in-batch softmax: the margin is the logit of the true
    partner less the logsumexp (theirs: the largest) of the others' logits, which is log p − log(1 − p) of the
    probability p in the trajectory. p is there as the geometric mean of both directions. Above 0: closer to its own
    partner than to all others in the batch together; far below: held back, as by a wrong caption.

    Args:
        trajectory: as for `mean_over_epochs`, [n_epochs, n_pairs, 2].

    Returns:
        float64 [n_pairs], in logits, within ±13.9; NaN for pairs the member never trained on.

    Example:
        >>> half = np.log(0.5)
        >>> margin_over_epochs(np.array([[[0.1, half]], [[0.1, half]]])).round(6) + 0.0
        array([0.])
    """
    margins = []
    for epoch in trajectory:
        p = np.clip(np.exp(epoch[:, LOG_PROBABILITY].astype(np.float64)), _SURE, 1 - _SURE)
        margins.append(np.log(p) - np.log1p(-p))
    return _known_mean(margins)


def misfit(learned: np.ndarray, log_probability_out: np.ndarray, *, second: bool = False) -> np.ndarray:
    """Score how badly a pair's captions fit its image: misfit = −(z(learned) + 2 z(log_probability_out)).

    Larger is more suspicious; 0 is average. Two views that fail differently: what is learned late, and what members
    that never saw the pair would not choose. Needs no labels and no further training. The weights were chosen on other
    plantings than those they were judged by (data/results/README.md).

    A pair with one part is scored by that part, on the same scale: a held-out pair has no `learned`, a pair that every
    member trains on has no `log_probability_out`. Its score is the misfit that has the same quantile among the pairs
    with both parts.

    Args:
        learned: mean log-probability in training, [n_pairs]; NaN for held-out pairs.
        log_probability_out: of the true partner among held-out ones, under members that never saw the pair, [n_pairs].
        second: whether log_probability_out is of a second round of training, and then weighs 4: `learned`, of the
            first, tells the less the more captions are wrong.

    Returns:
        [n_pairs]; NaN where both parts are missing, and everywhere if no pair has both.

    Example:
        >>> misfit(np.array([-1.0, -3.0, np.nan]), np.array([-0.5, -4.5, -2.5]))
        array([-3.,  3.,  0.])
    """
    return _sum_of_z((learned, 1.0), (log_probability_out, 4.0 if second else 2.0))


def caption_misfit(learned: np.ndarray, margin_out: np.ndarray) -> np.ndarray:
    """Score how badly one of several captions fits its image: −(z(learned) + z(margin_out)); else as `misfit`.

    Args:
        learned: of each caption, [n_captions]; NaN for captions of held-out pairs and those that no epoch drew.
        margin_out: how much closer it is to its picture than to the nearest held-out ones, [n_captions].
    """
    return _sum_of_z((learned, 1.0), (margin_out, 1.0))


def _sum_of_z(*parts: tuple[np.ndarray, float]) -> np.ndarray:
    """Return minus the weighted sum of z-scores; a row with one part gets the score at the same quantile."""
    score = np.full(len(parts[0][0]), np.nan)
    both = np.flatnonzero(~np.isnan([values for values, _ in parts]).any(axis=0))
    if len(both):
        score[both] = -sum(weight * _z(values[both]) for values, weight in parts)
        for values, _ in parts:
            alone = np.flatnonzero(np.isnan(score) & ~np.isnan(values))
            score[alone] = np.interp(-values[alone], np.sort(-values[both]), np.sort(score[both]))
    return score


def csls(own: np.ndarray, by_image: np.ndarray, by_text: np.ndarray) -> np.ndarray:
    """Measure how much closer picture and caption are to each other than to the external partners nearest to them.

    CSLS (Conneau et al., ICLR 2018, equation 3): 2 cos(x, y) − mean cosine of x with the k captions nearest to it
    − mean cosine of y with the k pictures nearest to it; k = 10. In [−4, 4]; 0 where any near caption fits as well,
    higher is better. Theirs looks for neighbours among everything; ours among external pairs, which no member saw.

    Args:
        own: cosine of picture and caption, [n].
        by_image: the picture's with external captions, [n, n_external]; −∞ where an external pair would meet itself.
        by_text: the caption's with external pictures, [n, n_external].

    Example:
        >>> csls(np.array([1.0]), np.array([[0.0, 0.5]]), np.array([[0.5, -np.inf]])).tolist()
        [1.25]
    """
    return 2 * own - nearest_mean(by_image) - nearest_mean(by_text)


def nearest_mean(cosines: np.ndarray) -> np.ndarray:
    """Return the mean of each row's 10 largest cosines, or of as many as every row has, [n]."""
    k = min(NEIGHBOURS, int(np.isfinite(cosines).sum(axis=1).min()))
    return np.partition(cosines, -k, axis=1)[:, -k:].mean(axis=1)


def log_probability(own: np.ndarray, by_image: np.ndarray, by_text: np.ndarray, *, logit_scale: float) -> np.ndarray:
    """Measure how sure a member is of a pair's true partner among the external partners.

    Mean over both directions of the log of the softmax of logit_scale × cosine, over the pair's own partner and those
    of the external pairs. At most 0; near 0 is sure. SigLIP's loss has no softmax: this is then that of its scaled
    cosines, as in the trajectory; a bias would cancel.

    Args:
        own: cosine of picture and caption, [n].
        by_image: the picture's with external captions, [n, n_external]; −∞ where an external pair would meet itself.
        by_text: the caption's with external pictures, [n, n_external].
        logit_scale: what the member multiplies cosines by; NaN where it is not known, as is the result then.

    Example:
        >>> log_probability(np.array([1.0]), np.array([[1.0]]), np.array([[-np.inf]]), logit_scale=9.0).round(2)
        array([-0.35])
    """
    total = np.zeros_like(own)
    for cosines in (by_image, by_text):  # scipy's logsumexp takes seven times as long
        top = np.maximum(own, cosines.max(axis=1))
        others = np.exp((cosines - top[:, None]) * logit_scale).sum(axis=1)
        beyond = (own - top) * logit_scale
        total += beyond - np.log(np.exp(beyond) + others)
    return total / 2


def fit_out(
    image: Sequence[np.ndarray],
    text: Sequence[np.ndarray],
    trained: np.ndarray,
    external: np.ndarray,
    logit_scales: Sequence[float],
    *,
    threads: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """Average `csls` and `log_probability` over the members that were not trained on a pair, in one pass.

    Low where members that never saw the pair find captions, or pictures, that fit as well. An external pair is not held
    against itself. Of more than 1,000 external pairs 1,000 are taken, evenly spaced.

    Args:
        image: one matrix a member, of any length, [n_pairs, dim]; may be memory maps.
        text: one matrix a member, [n_pairs, dim].
        trained: true where the member trains on the pair, [n_members, n_pairs].
        external: true for external pairs, [n_pairs]; at least two.
        logit_scales: what each member multiplies cosines by, NaN where it is not known.
        threads: members worked on side by side; the result does not depend on it.

    Returns:
        csls_out and log_probability_out, float64 [n_pairs] each; NaN for pairs that every member trains on.

    Raises:
        ValueError: the matrices differ in shape, or there are fewer than two external pairs.

    Example:
        >>> alone = np.zeros((1, 3), bool)
        >>> fit, sure = fit_out([np.eye(3)], [np.eye(3)], alone, np.array([False, True, True]), [1.0])
        >>> fit.tolist(), sure.round(2).tolist()
        ([2.0, 2.0, 2.0], [-0.55, -0.31, -0.31])
    """

    def measure(a: np.ndarray, b: np.ndarray, own: np.ndarray, scale: float) -> np.ndarray:
        rows = np.flatnonzero(~own)
        values = np.full((2, len(external)), np.nan, dtype=np.float32)
        for part, *cosines in beside_external(a, b, external, rows):
            values[:, rows[part]] = csls(*cosines), log_probability(*cosines, logit_scale=scale)
        return values

    # The products' own threads would wait for each other
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        fit, sure = _known_mean(list(pool.map(measure, image, text, trained, logit_scales)))
    return fit, sure


def lemon(
    image: np.ndarray,
    text: np.ndarray,
    image_neighbours: np.ndarray,
    text_neighbours: np.ndarray,
    *,
    beta: float = 5.0,
    gamma: float = 5.0,
    tau_1: float = 0.1,
    tau_2: float = 5.0,
) -> np.ndarray:
    """Score captions by multimodal neighbours (LEMoN, ICML 2025), with its authors' untuned setting; larger is worse.

    s = d_mm(x, y) + β · mean over the nearest images x_j of d_txt(y, y_j) e^{−τ₁ d_img(x, x_j)} e^{−τ₂ d_mm(x_j, y_j)}
    + γ · the same over the nearest captions y_j with d_txt and d_img exchanged; cosine distances.

    Args:
        image: image embeddings of any length, [n_pairs, dim].
        text: text embeddings, [n_pairs, dim].
        image_neighbours: rows of each image's nearest images, itself left out, [n_pairs, k].
        text_neighbours: rows of each caption's nearest captions, itself left out, [n_pairs, k].
        beta: weight of the image neighbours.
        gamma: weight of the caption neighbours.
        tau_1: how fast distant neighbours fade.
        tau_2: how fast neighbours that do not fit themselves fade.

    Returns:
        [n_pairs], larger more suspicious.
    """
    image, text = _unit(image), _unit(text)
    own = 1 - np.einsum("nd,nd->n", image, text)
    score = own.astype(np.float64)
    for start in range(0, len(image), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for weight, near, far, neighbours in (
            (beta, image, text, image_neighbours[rows]),
            (gamma, text, image, text_neighbours[rows]),
        ):
            fading = np.exp(-tau_1 * _distances(near, rows, neighbours) - tau_2 * own[neighbours])
            score[rows] += weight * (_distances(far, rows, neighbours) * fading).mean(axis=1)
    return score


def confident_learning(features: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Score how badly a caption goes with its pair's label, by confident learning; larger is worse.

    Northcutt et al. (JAIR 2021): p(label | caption) out of fold, by logistic regression on the captions' features; from
    each class's probability its mean over the pairs of that class is taken (their threshold, equation 2); the score is
    the largest of the other classes' less that of the pair's own (minus the normalised margin). The label is taken to
    go with the picture: a swap that stays inside a label cannot be seen.

    Args:
        features: of the captions, one row a pair, [n_pairs, dim].
        labels: names, None or NaN where a pair has none, [n_pairs].
        seed: of the folds, and of the draw where more than 20,000 pairs have a label.

    Returns:
        float64 [n_pairs], in [−2, 2]; 0, which says nothing, for pairs without a label, or with one of fewer than
        five pairs.

    Raises:
        ValueError: fewer than two labels have five pairs each.
    """
    names, classes, counts = np.unique(
        [name if isinstance(name, str) else "" for name in labels], return_inverse=True, return_counts=True
    )
    usable = (counts >= FOLDS) & (names != "")
    if usable.sum() < 2:
        raise ValueError(f"fewer than two labels have {FOLDS} pairs or more")
    rows = np.flatnonzero(usable[classes])
    if len(rows) > MOST_LABELLED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_LABELLED, replace=False))
    _, own = np.unique(classes[rows], return_inverse=True)
    probability = _out_of_fold(np.asarray(features[rows], dtype=np.float32), own, seed)
    score = np.zeros(len(labels))
    score[rows] = _against_thresholds(probability, own)
    return score


def _out_of_fold(features: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Return the probability of each class by models that were not fitted on the row, [n, n_classes]."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # a class drawn down below the number of folds
        return cross_val_predict(model, features, classes, cv=folds, method="predict_proba")


def _against_thresholds(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the largest of the other classes' probabilities above their thresholds, less that of the own class, [n].

    A class's threshold is its mean probability over the rows that have it.
    """
    rows = np.arange(len(classes))
    thresholds = np.bincount(classes, weights=probability[rows, classes]) / np.bincount(classes)
    above = probability - thresholds
    own = above[rows, classes].copy()
    above[rows, classes] = -np.inf
    return above.max(axis=1) - own


def external_used(external: np.ndarray) -> np.ndarray:
    """Return the external pairs that others are held against: all, or 1,000 evenly spaced; int [n]."""
    found = np.flatnonzero(external)
    return found if len(found) <= MOST_EXTERNAL else found[np.arange(MOST_EXTERNAL) * len(found) // MOST_EXTERNAL]


def beside_external(
    image: np.ndarray, text: np.ndarray, external: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of rows: which, own cosine [n], image's cosines with external captions [n, n_external], and
    caption's with external images; −∞ where an external pair would meet itself."""
    found = external_used(external)
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(f"image and text must be matrices of one shape, not {image.shape} and {text.shape}")
    if len(found) < 2:
        raise ValueError(f"external must name at least 2 pairs, since a pair leaves itself out, not {len(found)}")
    images, texts = _unit(image[found]).T, _unit(text[found]).T
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b = _unit(image[rows[part]]), _unit(text[rows[part]])
        by_image, by_text = a @ texts, b @ images
        for cosines in (by_image, by_text):
            cosines[rows[part, None] == found] = -np.inf
        yield part, np.vecdot(a, b), by_image, by_text


def _known_mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of what is not NaN, one array at a time, of their shape; NaN where nothing is."""
    total, count = np.zeros(values[0].shape), np.zeros(values[0].shape)
    for value in values:
        known = ~np.isnan(value)
        total += np.where(known, value, 0.0)
        count += known
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _z(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _distances(vectors: np.ndarray, rows: slice, neighbours: np.ndarray) -> np.ndarray:
    """Return cosine distances of rows to their neighbours, [n_rows, k]."""
    return 1 - np.einsum("nd,nkd->nk", vectors[rows], vectors[neighbours])
