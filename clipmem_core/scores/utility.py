"""The utility of a member's embeddings: retrieval, linear probe and zero-shot accuracy."""

import warnings
from collections.abc import Sequence

import numpy as np

from clipmem_core.scores.alignment import unit

PROBE_ROWS = 10_000
_BLOCK = 8_000_000  # cosines in memory at a time
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

    Example:
        >>> retrieval_recalls(np.eye(2), np.eye(2)[[0, 0]], np.array([0, 1]), ks=(1, 2))
        {'image_to_text_R@1': 0.0, 'image_to_text_R@2': 1.0, 'text_to_image_R@1': 0.5,
        'text_to_image_R@2': 1.0}
    """
    ranks = retrieval_ranks(image, text, caption_owner)
    return {f"{way}_R@{k}": float((rank < k).mean()) for way, rank in ranks.items() for k in ks}


def retrieval_ranks(
    image: np.ndarray, text: np.ndarray, caption_owner: np.ndarray
) -> dict[str, np.ndarray]:
    """Return how many others come before the right partner, query by query; ties count against the
    member.

    Args: as of `retrieval_recalls`.
    Returns: `image_to_text`, [n_images], and `text_to_image`, [n_captions] in the order of their
    owners.
    """
    owner = np.asarray(caption_owner)
    order = np.argsort(owner, kind="stable")
    image = unit(image)
    text = unit(text)[order]
    owner = owner[order]
    return {
        "image_to_text": _caption_ranks(image, text, owner),
        "text_to_image": _image_ranks(image, text, owner),
    }


def _caption_ranks(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return how many other images' captions come before an image's best own, [n_images]; captions
    sorted by owner."""
    starts = np.searchsorted(owner, np.arange(len(image) + 1))
    ranks = np.empty(len(image), dtype=np.int64)
    step = max(1, _BLOCK // len(text))
    for first in range(0, len(image), step):
        rows = np.arange(first, min(first + step, len(image)))
        cosines = image[rows] @ text.T
        begin = starts[rows[0]]
        end = starts[rows[-1] + 1]
        true_cosines = cosines[owner[begin:end] - first, np.arange(begin, end)]
        bar = np.maximum.reduceat(true_cosines, starts[rows] - begin) - _TIE
        true_before = np.add.reduceat(
            true_cosines >= np.repeat(bar, np.diff(starts[first : rows[-1] + 2])),
            starts[rows] - begin,
        )
        ranks[rows] = (cosines >= bar[:, None]).sum(axis=1) - true_before
    return ranks


def _image_ranks(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return how many other images come before a caption's own, [n_captions]."""
    ranks = np.empty(len(text), dtype=np.int64)
    step = max(1, _BLOCK // len(image))
    for first in range(0, len(text), step):
        cosines = text[first : first + step] @ image.T
        true_cosines = cosines[np.arange(len(cosines)), owner[first : first + step]]
        ranks[first : first + step] = (cosines >= true_cosines[:, None] - _TIE).sum(axis=1) - 1
    return ranks


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, seed: int
) -> float:
    """Measure accuracy of logistic regression on frozen, standardised features (the paper's
    utility).

    In [0, 1], larger better; NaN with fewer than two classes to fit or no test rows. A class that
    training lacks cannot be predicted, so its test rows count as errors. Of more than 10,000
    training rows a sample is drawn by `seed`.

    Args: features and labels to fit on and to evaluate on, [n, dim] and [n] each.
    """
    train_x = np.asarray(train_x)
    train_y = np.asarray(train_y)
    if len(train_x) > PROBE_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(train_x), PROBE_ROWS, replace=False))
        train_x = train_x[rows]
        train_y = train_y[rows]
    if len(set(train_y.tolist())) < 2 or len(test_y) == 0:
        return float("nan")
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only needed with labels
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # near its optimum the accuracy no longer moves
        probe.fit(train_x, train_y)
    return float((probe.predict(test_x) == np.asarray(test_y)).mean())


def zero_shot(image: np.ndarray, class_text: np.ndarray, labels: np.ndarray) -> float:
    """Measure how often the name of an image's class is its nearest among all class names.

    In [0, 1], larger better; chance is 1 / n_classes; NaN without images. Ties count against the
    member.

    Args: embeddings of images [n_images, dim] and of class names [n_classes, dim], and the row of
    each image's class.
    """
    if len(image) == 0:
        return float("nan")
    cosines = unit(image) @ unit(class_text).T
    true_cosines = cosines[np.arange(len(image)), labels]
    return float(((cosines >= true_cosines[:, None] - _TIE).sum(axis=1) == 1).mean())
