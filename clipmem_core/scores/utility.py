"""The utility of a member's embeddings: retrieval, linear probe and zero-shot accuracy."""

import warnings
from collections.abc import Sequence

import numpy as np

from clipmem_core import draws
from clipmem_core.scores.alignment import unit

_PROBE_ROWS = 10_000
_BLOCK = 2_000_000  # cosines in memory at a time
_TIE = 1e-6  # equal vectors may differ by this much after a matrix product


def retrieval_recalls(
    image: np.ndarray, text: np.ndarray, caption_owner: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Measure how often the right partner is among the k nearest, both ways (the COCO protocol).

    In [0, 1], larger better. Image to text: a hit if any of the image's own captions is among the k
    nearest of all captions. Text to image: a hit if the caption's image is among the k nearest.
    Ties count against the member.

    Args:
        image, text: embeddings of images and captions of any length, [n_images, dim] and
            [n_captions, dim].
        caption_owner: row of the image that each caption belongs to, [n_captions]; every image has
            one at least.
        ks: numbers of nearest partners.

    Returns:
        `image_to_text_R@k` and `text_to_image_R@k` for each k.

    Example:
        >>> retrieval_recalls(np.eye(2), np.eye(2)[[0, 0]], np.array([0, 1]), ks=(1,))
        {'image_to_text_R@1': 0.0, 'text_to_image_R@1': 0.5}
    """
    ranks = retrieval_ranks(image, text, caption_owner)
    return {f"{way}_R@{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in ks}


def retrieval_ranks(
    image: np.ndarray, text: np.ndarray, caption_owner: np.ndarray
) -> dict[str, np.ndarray]:
    """Return how many others come before the right partner, query by query; ties count against the
    member.

    Args:
        image, text, caption_owner: as for `retrieval_recalls`.

    Returns:
        `image_to_text`, int [n_images], and `text_to_image`, int [n_captions].
    """
    image = unit(image)
    text = unit(text)
    pairs = np.arange(len(image))
    return {
        "image_to_text": _ranks(image, text, pairs, caption_owner),
        "text_to_image": _ranks(text, image, caption_owner, pairs),
    }


def _ranks(
    queries: np.ndarray, candidates: np.ndarray, query_pair: np.ndarray, candidate_pair: np.ndarray
) -> np.ndarray:
    """Return how many candidates of other pairs come before the best of the query's own pair.

    Args: unit embeddings, [n, dim] each, and their pairs, [n] each. Returns: int [n_queries].
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    step = max(1, _BLOCK // len(candidates))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        cosines = queries[part] @ candidates.T
        partner = query_pair[part, None] == candidate_pair
        best = cosines.max(axis=1, where=partner, initial=-1.0, keepdims=True)
        ranks[part] = ((cosines >= best - _TIE) & ~partner).sum(axis=1)
    return ranks


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, seed: int
) -> float:
    """Measure accuracy of logistic regression on frozen, standardised features (the paper's
    utility).

    In [0, 1], larger better. A class that training lacks cannot be predicted, so its test rows
    count as errors. Of more than 10,000 training rows a sample is drawn by `seed`.

    Args:
        train_x, train_y: features and labels to fit on, [n, dim] and [n].
        test_x, test_y: those to evaluate on.
        seed: of the draw.

    Returns:
        NaN with fewer than two classes to fit or no test rows.
    """
    if len(train_x) > _PROBE_ROWS:
        rows = np.sort(draws.rng(seed, "probe").choice(len(train_x), _PROBE_ROWS, replace=False))
        train_x = train_x[rows]
        train_y = train_y[rows]
    if len(np.unique(train_y)) < 2 or len(test_y) == 0:
        return float("nan")
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed with labels
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    # Near its optimum the accuracy no longer moves
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        probe.fit(train_x, train_y)
    return float((probe.predict(test_x) == test_y).mean())


def zero_shot(image: np.ndarray, class_text: np.ndarray, labels: np.ndarray) -> float:
    """Measure how often the name of an image's class is its nearest among all class names.

    In [0, 1], larger better; chance is 1 / n_classes. Ties count against the member.

    Args:
        image: embeddings of images, [n_images, dim].
        class_text: embeddings of class names, [n_classes, dim].
        labels: row of each image's class, [n_images].

    Returns:
        NaN without images.
    """
    if len(image) == 0:
        return float("nan")
    ranks = _ranks(unit(image), unit(class_text), labels, np.arange(len(class_text)))
    return float((ranks == 0).mean())
