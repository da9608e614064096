"""One member's alignment with every pair, and its components, from its mean embeddings.

Views, captions and negatives are drawn independently and the cosine is bilinear, so the paper's
expectations over augmentations, test captions and test images are exact inner products of means:

    positive = μ_I(i)·μ_T(i)    negative_text = μ_I(i)·ν_T    negative_image = ν_I·μ_T(i)
    alignment = positive − negative_text − negative_image

Nothing is sampled; the paper draws its negatives.
"""

import numpy as np

from clipmem_core.utils.columns import (
    ALIGNMENT,
    NEGATIVE_IMAGE,
    NEGATIVE_TEXT,
    POSITIVE,
    SIMILARITY,
)

IMAGE_SQUARE = "image_square"
TEXT_SQUARE = "text_square"


def held_out_means(image: np.ndarray, text: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return ν_I and ν_T, the means of mean embeddings over the held-out pairs.

    Args:
        image, text: μ_I and μ_T, means of the unit embeddings of a pair's views and captions,
            [n_pairs, dim].
        held_out: true for held-out pairs, [n_pairs]; at least two.

    Returns:
        float64 [2, dim].
    """
    rows = np.flatnonzero(held_out)
    return np.stack([each[rows].mean(axis=0, dtype=np.float64) for each in (image, text)])


def pair_components(
    image: np.ndarray, text: np.ndarray, held_out: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure how one member aligns with every pair.

    Alignment lies in [−3, 3]; the higher, the better the member matches the pair beyond what any
    caption and any image would get. A held-out pair leaves itself out of ν. Both matrices may be
    memory maps of any size.

    Args:
        image, text, held_out: as for `held_out_means`.

    Returns:
        float32 [n_pairs] each: positive, negative_text, negative_image, alignment, similarity
        (positive as a cosine, 0 where a mean has no length), and image_square, text_square: ‖μ‖²,
        which `sslmem` takes.
    """
    nu_image, nu_text = held_out_means(image, text, held_out).astype(image.dtype)
    factors = ((image, text), (image, nu_text), (text, nu_image), (image, image), (text, text))
    products = np.stack([np.vecdot(*both) for both in factors]).astype(np.float32)
    positive, negative_text, negative_image, image_square, text_square = products
    n_held_out = int(np.sum(held_out))
    for negative in (negative_text, negative_image):
        negative[held_out] = leave_out(
            negative[held_out].astype(np.float64), positive[held_out], n_held_out
        )
    length = np.sqrt(image_square * text_square)
    return {
        POSITIVE: positive,
        NEGATIVE_TEXT: negative_text,
        NEGATIVE_IMAGE: negative_image,
        ALIGNMENT: positive - negative_text - negative_image,
        SIMILARITY: np.divide(positive, length, out=np.zeros_like(positive), where=length > 0),
        IMAGE_SQUARE: image_square,
        TEXT_SQUARE: text_square,
    }


def leave_out(with_all: np.ndarray, pair_product: np.ndarray, n_held_out: int) -> np.ndarray:
    """Turn products with ν, the mean over all held-out pairs, into those with the mean without the
    pair itself: (n ν·μ − μ·μ) / (n − 1).

    Args:
        with_all: products with ν, [n_pairs].
        pair_product: products with the pair's own mean embedding, [n_pairs].
        n_held_out: held-out pairs behind ν.

    Returns:
        [n_pairs].

    Example:
        >>> float(leave_out(np.array(2.0), np.array(3.0), 2))  # (3 + 1) / 2 without the 3
        1.0
    """
    return (n_held_out * with_all - pair_product) / (n_held_out - 1)
