"""Draws an object of the drawn set by the lines of its kind in `shapes.txt`, which says what a line may hold."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipmem_core.pairs.scenes.canvas import SHADE, SHINE, Brush, Colour, Ink, blend, ink, smooth

_SECTIONS = re.findall(r"^\[(\w+)\]\n((?:.+\n)+)", (Path(__file__).parent / "shapes.txt").read_text("utf-8"), re.M)
SHAPES: dict[str, list[str]] = {kind: lines.splitlines() for kind, lines in _SECTIONS}
_LINE = re.compile(r"(?:(\w+)([?!]) )?(both )?(\w+)([^:]*):([^@]*)(?:@(.*))?")
_TERM = re.compile(r"(-?)([a-z]+)(?:\*([.\d]+))?([+-][.\d]+)?")


def draw_shapes(kind: str, colour: str, brush: Brush, rng: np.random.Generator) -> None:
    """Draw an object of a kind in a colour of the palette."""
    drawing = _Drawing(ink(colour), {colour: "yes"}, brush, rng)
    for line in (*SHAPES["inks"], *SHAPES[kind]):
        drawing.follow(line)


class _Drawing:
    """One object as it is drawn; `names` are the values that its lines have drawn so far."""

    def __init__(self, paint: Ink, names: dict[str, str], brush: Brush, rng: np.random.Generator) -> None:
        self.paint, self.names, self.brush, self.rng = paint, names, brush, rng

    def follow(self, line: str) -> None:
        """Do what a line says."""
        when, mark, both, shape, options, body, after = _LINE.fullmatch(line).groups("")  # type: ignore[union-attr]
        if when and (self.names.get(when) == "yes") is not (mark == "?"):
            return
        if shape == "let":
            self._let(options.split(), body, after)
        elif shape in _OWN_CODE:
            _OWN_CODE[shape](self.brush, self.paint, self.rng)
        else:
            self._draw(
                shape, options.split(), self._pairs(body), self._pairs(after) or [(0, 0)], (-1, 1) if both else (1,)
            )

    def _draw(
        self,
        shape: str,
        options: list[str],
        points: list[tuple[float, float]],
        places: list[tuple[float, float]],
        sides: tuple[int, ...],
    ) -> None:
        colours = [self._colour(self.names.get(word, word)) for word in options[0].split("/")]
        given = {name: self._numbers(value) for name, _, value in (option.partition("=") for option in options[1:])}
        for x, y in places:
            dx, dy = ([self.rng.uniform(-most, most) for most in given.get("wobble", ())] + [0.0, 0.0])[:2]
            for side in sides:
                moved = tuple((side * (px + x + dx), py + y + dy) for px, py in points)
                if shape == "ellipse":
                    self.brush.ellipse(*moved[0], *points[1], *colours, tilt=given.get("tilt", [0.0])[0])
                else:
                    getattr(self.brush, shape)(moved, *colours, *given.get("width", ()))

    def _let(self, names: list[str], values: str, chance: str) -> None:
        """Draw the values of names."""
        low, dots, high = values.partition("..")
        first, _, other = values.partition("|")
        if dots:
            drawn = [repr(float(self.rng.uniform(float(low), float(high))))]
        else:
            drawn = (first if not chance or self.rng.random() < float(chance) else other).split()
        self.names |= {name: self.names.get(value, value) for name, value in zip(names, drawn, strict=True)}

    def _numbers(self, words: str) -> list[float]:
        return [self._number(word) for word in words.replace(",", " ").split()]

    def _number(self, word: str) -> float:
        """Return the value of a number or of a term with a name in it, as -name*.9 or name+.1."""
        term = _TERM.fullmatch(word)
        if term is None:
            return float(word)
        sign, name, factor, more = term.groups()
        value = float(self.names[name]) * float(factor or 1)
        return (-value if sign else value) + float(more or 0)

    def _pairs(self, words: str) -> list[tuple[float, float]]:
        numbers = self._numbers(words)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _colour(self, word: str) -> Colour:
        known = {"fill": self.paint.fill, "line": self.paint.line, "shade": SHADE, "shine": SHINE}
        if "~" in word:
            return blend(self.paint.fill, self.paint.line, float(word.partition("~")[2]))
        name, _, opacity = word.partition(",")
        if name not in known:
            return tuple(map(int, word.split(",")))
        return (*known[name], int(opacity)) if opacity else known[name]


def _petals(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    petals = int(rng.integers(5, 8))
    for angle in np.arange(petals) * 360 / petals + rng.uniform(0, 60):
        x, y = 0.33 * np.cos(np.deg2rad(angle)), 0.33 * np.sin(np.deg2rad(angle))
        brush.ellipse(x, y - 0.46, 0.23, 0.17, paint.fill, paint.line, tilt=float(angle))


def _canopy(brush: Brush, paint: Ink, _rng: np.random.Generator) -> None:
    dome = smooth(
        ((-1, 0.06), (-0.86, -0.42), (-0.48, -0.76), (0, -0.88), (0.48, -0.76), (0.86, -0.42), (1, 0.06)), False
    )
    hem = [(1, 0.06), (0.68, -0.06), (0.36, 0.06), (0, -0.06), (-0.36, 0.06), (-0.68, -0.06)]
    brush.polygon(np.vstack([dome, hem]), paint.fill, paint.line)


def _facets(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    angles = np.deg2rad(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, 0.98, rng.uniform(0.42, 0.5))[:, None]
    tips = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + (0, 0.06)
    brush.polygon(tips, paint.fill, paint.line)
    for i in range(0, 10, 2):
        brush.polygon(np.vstack([tips[i : i + 2], [[0, 0.06]]]), SHADE)


_OWN_CODE: dict[str, Callable[[Brush, Ink, np.random.Generator], None]] = {
    "petals": _petals,
    "canopy": _canopy,
    "facets": _facets,
}
