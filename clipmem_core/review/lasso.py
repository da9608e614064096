"""Which points of a plane lie in a closed shape."""

from collections.abc import Sequence

import numpy as np


def inside(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Tell which points lie in a closed shape: a ray to the right leaves it an odd number of times.

    Between the heights of two corners that follow each other, the same few edges are met; the points are cut into
    such bands, so that each is held against those alone. A shape that crosses itself has holes, as a lasso drawn so.

    Args:
        x: float [n_points].
        y: float [n_points].
        corners: at least three; the last is joined to the first. The left and lower edges count as inside.

    Returns:
        bool [n_points].

    Example:
        >>> square = [(0, 0), (1, 0), (1, 1), (0, 1)]
        >>> inside(np.array([0.5, 1.5, 0.0]), np.array([0.5, 0.5, 0.0]), square).tolist()
        [True, False, True]
    """
    heights = np.unique([height for _, height in corners])
    band = np.searchsorted(heights, y, side="right").astype(np.uint8)
    order = np.argsort(band, kind="stable")
    ends = np.searchsorted(band[order], np.arange(len(heights) + 1))
    found = np.zeros(len(x), bool)
    for number in range(1, len(heights)):
        points = order[ends[number] : ends[number + 1]]
        for start, end in _edges_across(corners, heights[number - 1], heights[number]):
            slope = (end[0] - start[0]) / (end[1] - start[1])
            found[points] ^= x[points] < start[0] + slope * (y[points] - start[1])
    return found


def _edges_across(
    corners: Sequence[tuple[float, float]], low: float, high: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the edges that pass through a band; none begins or ends within it."""
    edges = zip(corners, [*corners[1:], corners[0]], strict=True)
    return [(a, b) for a, b in edges if min(a[1], b[1]) <= low and max(a[1], b[1]) >= high]
