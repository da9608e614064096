"""One member's alignment with every pair and its terms, in one pass over its mean embeddings.

Views, captions and negatives are drawn independently and the cosine is bilinear, so the paper's
expectations over augmentations, test captions and test images are exact inner products of means:

    positive = μ_I(i)·μ_T(i)    negative_text = μ_I(i)·ν_T    negative_image = ν_I·μ_T(i)
    alignment = positive − negative_text − negative_image

Nothing is sampled; the paper draws its negatives.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipmem_core.columns import ALIGNMENT, NEGATIVE_IMAGE, NEGATIVE_TEXT, POSITIVE, SIMILARITY

IMAGE_SQUARE = "image_square"
TEXT_SQUARE = "text_square"
_CHUNK = 16_384  # rows that a thread takes at a time
_BLOCK_BYTES = 1 << 20  # of one matrix: both blocks together fit a core's cache


def external_means(
    image: np.ndarray, text: np.ndarray, external: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ν_I and ν_T, [dim] each, float64: the means of mean embeddings over the external
    pairs.

    Args:
        image, text: μ_I and μ_T, means of the unit embeddings of a pair's views and captions,
            [n_pairs, dim].
        external: true for external pairs, [n_pairs]; at least two.
    """
    rows = np.flatnonzero(external)
    return _mean_of(image, rows), _mean_of(text, rows)


def pair_terms(image: np.ndarray, text: np.ndarray, external: np.ndarray) -> dict[str, np.ndarray]:
    """Measure how one member aligns with every pair.

    Alignment lies in [−3, 3]; the higher, the better the member matches the pair beyond what any
    caption and any image would get. An external pair leaves itself out of ν. Both matrices may be
    memory maps of any size.

    Args: as for `external_means`.
    Returns:
        float32 [n_pairs] each: positive, negative_text, negative_image, alignment, similarity
        (positive as a cosine, 0 where a mean has no length), and image_square, text_square: ‖μ‖²,
        which `sslmem` takes.
    """
    nu_image, nu_text = external_means(image, text, external)
    nu_image = nu_image.astype(image.dtype)
    nu_text = nu_text.astype(text.dtype)
    products = np.empty((5, len(image)), dtype=np.float32)

    def measure(start: int) -> None:
        for rows in _blocks(
            start, min(start + _CHUNK, len(image)), image.shape[1] * image.dtype.itemsize
        ):
            # small enough to stay in a core's cache while five products read them
            a = image[rows]
            b = text[rows]
            # vecdot, unlike a matrix product, gives a row the same bits whatever block it is read
            # in
            products[0, rows] = np.vecdot(a, b)
            products[1, rows] = np.vecdot(a, nu_text)
            products[2, rows] = np.vecdot(b, nu_image)
            products[3, rows] = np.vecdot(a, a)
            products[4, rows] = np.vecdot(b, b)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(measure, range(0, len(image), _CHUNK)))
    return terms_of(products, np.flatnonzero(external), int(np.sum(external)))


def leave_out(with_all: np.ndarray, pair_product: np.ndarray, n_external: int) -> np.ndarray:
    """Turn a product with ν, the mean over all external pairs, into that with the mean without the
    pair's own μ.

    Example:
        >>> float(leave_out(np.array(2.0), np.array(3.0), 2))  # (3 + 1) / 2 without the 3
        1.0
    """
    return (n_external * with_all - pair_product) / (n_external - 1)


def terms_of(products: np.ndarray, external: np.ndarray, n_external: int) -> dict[str, np.ndarray]:
    """Name the products of `pair_terms`, let external pairs leave themselves out, derive alignment
    and similarity.

    Args:
        products: μ_I·μ_T, μ_I·ν_T, ν_I·μ_T, ‖μ_I‖² and ‖μ_T‖² of n pairs, [5, n]; changed in place.
        external: rows of the external pairs among them.
        n_external: external pairs behind ν.
    """
    positive, negative_text, negative_image, image_square, text_square = products
    for negative in (negative_text, negative_image):
        negative[external] = leave_out(
            negative[external].astype(np.float64), positive[external], n_external
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


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(
        vectors, lengths, out=np.zeros(vectors.shape, dtype=lengths.dtype), where=lengths > 0
    )


def _mean_of(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    total = np.zeros(matrix.shape[1])
    for block in _blocks(0, len(rows), matrix.shape[1] * matrix.dtype.itemsize):
        total += matrix[rows[block]].sum(axis=0, dtype=np.float64)
    return total / len(rows)


def _blocks(start: int, stop: int, row_bytes: int) -> Iterator[slice]:
    rows = max(1, _BLOCK_BYTES // row_bytes)
    return (slice(first, min(first + rows, stop)) for first in range(start, stop, rows))
