"""A square canvas with plain shapes in units of its side, and what the light of the hour does to their colours."""

import numpy as np
from PIL import Image, ImageDraw

from clipmem_core.pairs.scenes.brush import Colour, blend

TINTS: dict[str, tuple[Colour, float]] = {  # what the light does to the land
    "sunny": ((255, 250, 220), 0.05),
    "cloudy": ((150, 164, 180), 0.22),
    "sunset": ((226, 112, 92), 0.3),
    "night": ((26, 30, 78), 0.66),
}


class Stage:
    """A square canvas in units of its side: (0, 0) top left, (1, 1) bottom right."""

    def __init__(self, side: int, light: str, rng: np.random.Generator) -> None:
        self.side = side
        self.light = light
        self.rng = rng
        self.lift = float(rng.uniform(-0.03, 0.03))  # of the horizon
        self.image = Image.new("RGB", (side, side))
        self.canvas = ImageDraw.Draw(self.image, "RGBA")

    def gradient(self, *colours: Colour, end: float = 1.0) -> None:
        """Fill the canvas from top to bottom, the last colour at `end`."""
        heights = np.linspace(0, end, len(colours))
        column = np.linspace(0, 1, self.side)
        channels = [np.interp(column, heights, [colour[c] for colour in colours]) for c in range(3)]
        strip = np.stack(channels, axis=1).round().astype(np.uint8)[:, None, :]
        self.image.paste(Image.fromarray(np.repeat(strip, self.side, axis=1)))

    def land(self, colour: Colour, height: float, swell: float, *, waves: float = 1.0) -> None:
        """Fill everything below a rolling line at about `height`."""
        x = np.linspace(-0.02, 1.02, 40)
        phase = self.rng.uniform(0, 2 * np.pi)
        y = height + self.lift + swell * np.sin(x * 2 * np.pi * waves + phase)
        self.shape([*zip(x, y, strict=True), (1.02, 1.02), (-0.02, 1.02)], self.lit(colour))

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill a polygon."""
        self.canvas.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        """Fill an upright ellipse; a circle unless `ry` is given."""
        ry = rx if ry is None else ry
        s = self.side
        self.canvas.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle."""
        s = self.side
        self.canvas.rectangle((left * s, top * s, right * s, bottom * s), fill=colour)

    def lit(self, colour: Colour) -> Colour:
        """Return an opaque colour as it looks in the picture's light."""
        tint, share = TINTS.get(self.light, (colour, 0.0))
        return blend(colour, tint, share)
