"""Where the names of dots have room in a figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

LETTER, LINE, GAP = 6.2, 14.0, 5.0  # pixels: of a letter, of a line, from the middle of a dot to its name
# Corners, because bars of intervals leave a dot to the right, to the left, up and down.
CORNERS: dict[str, dict[str, Any]] = {
    f"{up} {side}": {
        "xanchor": "left" if side == "right" else "right",
        "yanchor": "bottom" if up == "above" else "top",
        "xshift": GAP if side == "right" else -GAP,
        "yshift": GAP / 2 if up == "above" else -GAP / 2,
    }
    for up in ("above", "below")
    for side in ("right", "left")
}
Box = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True)
class Extent:
    """The two ends of an axis, and how many pixels lie between them, about as many as on a narrow page."""

    low: float
    high: float
    span: float = 340.0

    def pixel(self, value: float) -> float:
        """Return where a value lies, in pixels from the lower end."""
        return (value - self.low) / (self.high - self.low) * self.span


def place_labels(
    dots: pd.DataFrame, names: Sequence[str], *, always: Sequence[str] = (), extents: tuple[Extent, Extent]
) -> dict[str, dict[str, Any]]:
    """Choose a corner for each name where it covers no dot, no other name, and no edge of the figure.

    Args:
        dots: x and y of each, by name.
        names: the ones to be written, the most important first.
        always: of them, those that are written even where there is no room.
        extents: of the axes.

    Returns:
        Anchors and shifts of Plotly's annotations, by name; names without room are left out.
    """
    centres = {name: (extents[0].pixel(x), extents[1].pixel(y)) for name, x, y in dots.dropna().itertuples(name=None)}
    taken = [(x - GAP, x + GAP, y - GAP, y + GAP) for x, y in centres.values()]
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in centres:
            continue
        boxes = {corner: _box(anchor, *centres[name], len(name) * LETTER) for corner, anchor in CORNERS.items()}
        faults = {corner: _faults(box, taken, extents) for corner, box in boxes.items()}
        corner = min(faults, key=faults.__getitem__)
        if faults[corner] == 0 or name in always:
            found[name] = CORNERS[corner]
            taken.append(boxes[corner])
    return found


def _box(anchor: dict[str, Any], x: float, y: float, width: float) -> Box:
    left = x + anchor["xshift"] - (width if anchor["xanchor"] == "right" else 0)
    bottom = y + anchor["yshift"] - (LINE if anchor["yanchor"] == "top" else 0)
    return left, left + width, bottom, bottom + LINE


def _faults(own: Box, taken: Iterable[Box], extents: tuple[Extent, Extent]) -> int:
    """Count what a name covers; an edge that would cut it is worst."""
    left, right, bottom, top = own
    cut = left < 0 or right > extents[0].span or bottom < 0 or top > extents[1].span
    covered = sum(left < box[1] and right > box[0] and bottom < box[3] and top > box[2] for box in taken)
    return covered + 100 * cut
