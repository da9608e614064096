"""What can be wrong with a picture for anybody to see, without a model: what is measured, and one function a check.

All is measured on the small squares that an audit keeps, a fraction of a millisecond each. So what is said of a picture
holds at the size that models see: one that is a little blurred at full size is sharp when it is small.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DARK = 0.32  # of full brightness: 99 of 100 pixels are darker (the threshold of cleanvision)
BLURRED = 0.2  # see `measure`: no edge is narrower than about a sixtieth of the picture's side
UNIFORM = 2.0  # grey levels: a blank page with the noise of JPEG has about 1, thin lines on white 2.5 and more
TINY = 64  # pixels: towers look at 192 and more, where each of its pixels becomes nine or more

_BLOCK = 256  # squares measured at a time
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)  # of squares; perceived, after Finley's HSP


@dataclass(frozen=True)
class Pictures:
    """What is known of the pictures of pairs, an array [n_pairs] each; None where it is not."""

    shorter: np.ndarray | None = None  # pixels of the shorter side
    clusters: np.ndarray | None = None  # the first row of the look-alikes that a picture is one of, else its own
    brightness: np.ndarray | None = None  # from 0 to 1: 99 of 100 pixels are at most so bright
    contrast: np.ndarray | None = None  # grey levels: standard deviation of the channel that varies most
    sharpness: np.ndarray | None = None  # of the strongest edges, see `measure`; lower is blurred


def measure(
    gather: Callable[[np.ndarray], np.ndarray], shape: np.ndarray, *, padded: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure small squares: brightness, contrast and sharpness of each, as `Pictures` has them.

    Sharpness is the 99th percentile of the absolute Laplacian of the grey picture over the range from its 1st to its
    99th percentile. A step that a Gaussian of s pixels blurs has 0.24 / s² there, so 0.2 is one of 1.1 pixels. It is
    infinite where a picture is nearly uniform and has no edge to speak of.

    Args:
        gather: gives the squares of some rows, uint8 [n, size, size, 3].
        shape: width and height of each original, int [n_pairs, 2].
        padded: whether a square holds the whole picture with white beside it, which is not measured.

    Returns:
        float32 [n_pairs] each.
    """
    found = np.empty((3, len(shape)), np.float32)
    for start in range(0, len(shape), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(shape)))
        squares = gather(rows)
        if not padded:
            found[:, rows] = _measured(squares)
            continue
        for row, square in zip(rows.tolist(), squares, strict=True):
            found[:, row] = _measured(_inner(square, *shape[row])[None])[:, 0]
    return found[0], found[1], found[2]


def _inner(square: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the part of a padded square that is the picture; a line is repeated until it is three pixels wide."""
    size, longer = len(square), max(width, height, 1)
    high, wide = (max(1, round(side * size / longer)) for side in (height, width))
    top, left = (size - high) // 2, (size - wide) // 2
    inner = square[top : top + high, left : left + wide]
    return np.pad(inner, ((0, max(0, 3 - high)), (0, max(0, 3 - wide)), (0, 0)), mode="edge")


def _measured(squares: np.ndarray) -> np.ndarray:
    """Measure pictures of one size, uint8 [n, height, width, 3]: float32 [3, n]."""
    values = squares.astype(np.float32)
    grey = values.mean(axis=3)
    bends = np.abs(
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    low, high = (_percentile(grey, share) for share in (1, 99))
    brightness = np.sqrt(_percentile(np.square(values) @ _BRIGHTNESS, 99)) / 255
    contrast = values.reshape(len(values), -1, 3).std(axis=1).max(axis=1)
    sharpness = np.where(contrast < UNIFORM, np.inf, _percentile(bends, 99) / np.maximum(high - low, 1))
    return np.stack([brightness, contrast, sharpness])


def _percentile(values: np.ndarray, share: int) -> np.ndarray:
    """Return a percentile of each picture's values, the nearest there is: numpy's own takes three times as long."""
    flat = values.reshape(len(values), -1)
    place = round((flat.shape[1] - 1) * share / 100)
    return np.partition(flat, place, axis=1)[:, place]


def dark(brightness: np.ndarray) -> np.ndarray:
    """Tell which pictures have hardly a pixel that is bright."""
    return brightness < DARK


def blurred(sharpness: np.ndarray) -> np.ndarray:
    """Tell which pictures have no sharp edge, of those that have any."""
    return sharpness < BLURRED


def uniform(contrast: np.ndarray) -> np.ndarray:
    """Tell which pictures are nearly one colour."""
    return contrast < UNIFORM


def tiny(shorter: np.ndarray) -> np.ndarray:
    """Tell which pictures are smaller than `TINY` pixels one way."""
    return shorter < TINY


def lookalike(clusters: np.ndarray) -> np.ndarray:
    """Tell which pictures look like another one: the same again, rescaled or compressed anew."""
    return np.bincount(clusters, minlength=len(clusters))[clusters] > 1
