"""How each kind of thing in the drawn set is drawn: what lives and grows, what people make, and a star."""

from collections.abc import Callable

import numpy as np

from clipmem_core.pairs.scenes.canvas import SHADE, SHINE, Brush, Ink, Points, blend, ink, smooth

DARK = (46, 38, 56)
BARK = (132, 92, 66)
LEAF = (84, 150, 84)
LEAF_LINE = (44, 92, 58)
BEAK = (246, 170, 60)
CREAM = (250, 238, 214)
GLASS = (190, 224, 240)
GLASS_LINE = (84, 116, 146)
WOOD = (146, 98, 68)
WOOD_LINE = (86, 56, 44)
WARM = (255, 228, 150)


def cat(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a cat that sits and looks at us."""
    brush.curve(((0.38, 0.82), (0.7, 0.72), (0.74, 0.38), (0.6, 0.12)), paint.line, 0.22)
    brush.curve(((0.38, 0.82), (0.7, 0.72), (0.74, 0.38), (0.6, 0.12)), paint.fill, 0.14)
    body = ((0, -0.16), (0.38, 0.2), (0.54, 0.72), (0.42, 0.98), (0, 1), (-0.42, 0.98), (-0.54, 0.72), (-0.38, 0.2))
    brush.blob(body, paint.fill, paint.line)
    brush.ellipse(0, 0.58, 0.2, 0.34, (255, 255, 255, 70))
    for side in (-1, 1):
        brush.ellipse(0.2 * side, 0.93, 0.17, 0.09, paint.fill, paint.line)
        brush.polygon(((0.1 * side, -0.66), (0.46 * side, -1), (0.52 * side, -0.4)), paint.fill, paint.line)
        brush.polygon(((0.24 * side, -0.66), (0.41 * side, -0.85), (0.45 * side, -0.5)), (245, 160, 170))
    brush.blob(
        ((0, -0.76), (0.4, -0.68), (0.56, -0.36), (0.36, -0.06), (0, 0), (-0.36, -0.06), (-0.56, -0.36), (-0.4, -0.68)),
        paint.fill,
        paint.line,
    )
    if rng.random() < 0.5:  # a tabby's forehead
        for x in (-0.14, 0, 0.14):
            brush.stroke(((x, -0.7), (x, -0.56)), paint.line, 0.05)
    _cat_face(brush)


def _cat_face(brush: Brush) -> None:
    brush.ellipse(0, -0.19, 0.2, 0.13, (255, 255, 255, 130))
    for side in (-1, 1):
        brush.ellipse(0.23 * side, -0.38, 0.1, 0.12, (196, 222, 120), DARK)
        brush.ellipse(0.23 * side, -0.37, 0.05, 0.1, DARK)
        brush.stroke(((0.3 * side, -0.18), (0.64 * side, -0.22)), (*DARK, 150), 0.02)
        brush.stroke(((0.3 * side, -0.13), (0.62 * side, -0.06)), (*DARK, 150), 0.02)
    brush.polygon(((-0.07, -0.25), (0.07, -0.25), (0, -0.17)), (236, 120, 130))


def bird(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a plump bird in flight."""
    brush.polygon(((-0.5, 0.06), (-0.98, -0.14), (-0.94, 0.3), (-0.5, 0.36)), paint.fill, paint.line)
    brush.polygon(((0.76, -0.22), (0.98, -0.1), (0.76, 0.02)), BEAK, (178, 110, 40))
    brush.blob(
        (
            (0.58, -0.46),
            (0.8, -0.2),
            (0.62, 0.24),
            (0.2, 0.56),
            (-0.3, 0.5),
            (-0.62, 0.2),
            (-0.3, -0.02),
            (0.24, -0.36),
        ),
        paint.fill,
        paint.line,
    )
    brush.blob(((0.6, 0.08), (0.5, 0.32), (0.14, 0.5), (-0.2, 0.44), (0.2, 0.24)), (255, 255, 255, 110))
    tip = -0.7 if rng.random() < 0.6 else -0.5
    wing: Points = ((0.26, 0.06), (0.12, -0.34), (-0.42, tip), (-0.46, -0.3), (-0.3, 0.12), (0.02, 0.24))
    brush.blob(wing, blend(paint.fill, paint.line, 0.22), paint.line)
    brush.curve(((-0.36, -0.3), (-0.16, -0.1), (0.1, 0.0)), paint.line, 0.04)
    brush.ellipse(0.56, -0.2, 0.08, 0.08, (255, 255, 255), DARK)
    brush.ellipse(0.58, -0.2, 0.045, 0.05, DARK)


def fish(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a fish that swims to the right, with stripes or scales."""
    brush.blob(((-0.5, 0), (-0.96, -0.5), (-0.84, 0), (-0.96, 0.5)), paint.fill, paint.line)
    brush.blob(((-0.24, -0.3), (-0.1, -0.6), (0.38, -0.44), (0.3, -0.3)), paint.fill, paint.line)
    brush.blob(
        ((1, 0.02), (0.7, -0.32), (0.2, -0.46), (-0.3, -0.32), (-0.62, 0), (-0.3, 0.34), (0.2, 0.48), (0.7, 0.36)),
        paint.fill,
        paint.line,
    )
    brush.blob(((0.9, 0.12), (0.5, 0.36), (0.1, 0.42), (-0.3, 0.28), (0.2, 0.24)), (255, 255, 255, 90))
    if rng.random() < 0.5:
        for x in (-0.26, 0.0, 0.26):
            brush.curve(((x, -0.32), (x + 0.08, 0), (x, 0.32)), (255, 255, 255, 150), 0.09)
    else:
        for x, y in ((-0.34, 0.0), (-0.12, -0.16), (-0.12, 0.16), (0.1, 0.0), (0.24, -0.22), (0.24, 0.2)):
            brush.curve(((x, y - 0.1), (x - 0.08, y), (x, y + 0.1)), paint.line, 0.03)
    brush.blob(((0.26, 0.1), (-0.02, 0.3), (0.04, 0.06)), blend(paint.fill, paint.line, 0.25), paint.line)
    brush.ellipse(0.62, -0.1, 0.12, 0.12, (255, 255, 255), DARK)
    brush.ellipse(0.65, -0.1, 0.06, 0.07, DARK)


def turtle(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a turtle whose shell has the colour."""
    skin, line = (152, 186, 110), (82, 108, 66)
    for x in (-0.42, 0.34):
        brush.blob(((x - 0.14, 0.2), (x + 0.16, 0.2), (x + 0.2, 0.54), (x - 0.16, 0.56)), skin, line)
    brush.polygon(((-0.7, 0.2), (-0.98, 0.36), (-0.66, 0.36)), skin, line)
    brush.blob(((0.52, 0.28), (0.66, -0.12), (0.88, -0.2), (1, 0), (0.88, 0.16), (0.74, 0.36)), skin, line)
    brush.ellipse(0.84, -0.04, 0.05, 0.06, DARK)
    shell = ((-0.74, 0.3), (-0.64, -0.16), (-0.3, -0.5), (0.1, -0.54), (0.46, -0.26), (0.6, 0.3), (0, 0.36))
    brush.blob(shell, paint.fill, paint.line)
    high = -0.2 if rng.random() < 0.5 else -0.12
    brush.polygon(((-0.24, high), (0.1, high), (0.22, 0.1), (-0.06, 0.26), (-0.34, 0.1)), SHINE, paint.line)
    for start, end in (((-0.24, high), (-0.34, -0.42)), ((0.1, high), (0.16, -0.48)), ((0.22, 0.1), (0.54, 0.08))):
        brush.stroke((start, end), paint.line, 0.04)
    brush.stroke(((-0.34, 0.1), (-0.68, 0.08)), paint.line, 0.04)


def butterfly(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a butterfly seen from above."""
    lower = blend(paint.fill, paint.line, 0.25)
    spot = (255, 255, 255, 190) if rng.random() < 0.5 else (255, 214, 110, 220)
    for s in (-1, 1):
        brush.blob(((0.04 * s, 0.06), (0.5 * s, 0.06), (0.66 * s, 0.5), (0.34 * s, 0.78)), lower, paint.line)
        upper = ((0.04 * s, -0.02), (0.28 * s, -0.54), (0.8 * s, -0.78), (0.98 * s, -0.4), (0.6 * s, 0.1))
        brush.blob(upper, paint.fill, paint.line)
        brush.ellipse(0.66 * s, -0.42, 0.15, 0.13, spot)
        brush.ellipse(0.4 * s, -0.16, 0.08, 0.08, spot)
        brush.ellipse(0.42 * s, 0.4, 0.1, 0.1, spot)
        brush.curve(((0.02 * s, -0.4), (0.1 * s, -0.66), (0.24 * s, -0.78)), DARK, 0.03)
    brush.ellipse(0, 0.06, 0.08, 0.5, DARK)


def tree(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a tree, round or a fir."""
    trunk = ((-0.13, 0.2), (0.13, 0.2), (0.19, 1), (-0.19, 1))
    brush.polygon(trunk, BARK, (82, 54, 42))
    if rng.random() < 0.4:
        for top, half in ((0.12, 0.72), (-0.34, 0.56), (-0.98, 0.42)):
            brush.polygon(((0, top - 0.06), (half, top + 0.58), (-half, top + 0.58)), paint.fill, paint.line)
            brush.polygon(((0, top - 0.04), (half, top + 0.57), (half * 0.2, top + 0.57)), SHADE)
        return
    crown = ((0, -1), (0.5, -0.82), (0.7, -0.3), (0.58, 0.2), (0.2, 0.4), (-0.24, 0.38), (-0.6, 0.16), (-0.7, -0.34))
    brush.blob((*crown, (-0.44, -0.84)), paint.fill, paint.line)
    brush.blob(((0.62, -0.3), (0.52, 0.16), (0.2, 0.34), (-0.24, 0.32), (0.16, 0.1), (0.44, -0.16)), SHADE)
    for x, y in ((-0.3, -0.5), (0.1, -0.66), (-0.36, -0.06), (0.1, -0.16)):
        dx, dy = rng.uniform(-0.06, 0.06, size=2)
        brush.ellipse(x + dx, y + dy, 0.17, 0.11, SHINE)


def flower(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a flower with stem and leaves."""
    brush.curve(((0, -0.4), (0.05, 0.3), (0, 1)), LEAF_LINE, 0.13)
    brush.curve(((0, -0.4), (0.05, 0.3), (0, 1)), LEAF, 0.07)
    brush.blob(((0.03, 0.7), (0.22, 0.36), (0.54, 0.3), (0.4, 0.6)), LEAF, LEAF_LINE)
    brush.blob(((0.0, 0.86), (-0.2, 0.56), (-0.5, 0.5), (-0.38, 0.8)), LEAF, LEAF_LINE)
    petals = int(rng.integers(5, 8))
    for angle in np.arange(petals) * 360 / petals + rng.uniform(0, 60):
        x, y = 0.33 * np.cos(np.deg2rad(angle)), 0.33 * np.sin(np.deg2rad(angle))
        brush.ellipse(x, y - 0.46, 0.23, 0.17, paint.fill, paint.line, tilt=float(angle))
    heart = (148, 100, 70) if paint.fill == ink("yellow").fill else (250, 206, 84)
    brush.ellipse(0, -0.46, 0.19, 0.19, heart, blend(heart, DARK, 0.4))
    brush.ellipse(-0.05, -0.51, 0.06, 0.06, SHINE)


def mushroom(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a mushroom with a spotted cap."""
    stem = ((-0.22, -0.1), (0.22, -0.1), (0.26, 0.5), (0.36, 0.9), (0, 0.96), (-0.36, 0.9), (-0.26, 0.5))
    brush.blob(stem, CREAM, (170, 144, 116))
    brush.blob(((0.06, 0.06), (0.2, 0.1), (0.22, 0.5), (0.3, 0.86), (0.08, 0.88)), SHADE)
    cap = ((-0.9, 0.06), (-0.74, -0.46), (-0.36, -0.84), (0.06, -0.92), (0.48, -0.76), (0.8, -0.38), (0.9, 0.08))
    brush.blob((*cap, (0.5, 0.2), (-0.5, 0.2)), paint.fill, paint.line)
    spot = blend(CREAM, (190, 150, 130), 0.5) if paint.fill == ink("white").fill else CREAM
    for x, y, r in ((-0.46, -0.26, 0.17), (0.06, -0.56, 0.15), (0.52, -0.2, 0.15), (0.04, -0.06, 0.11)):
        brush.ellipse(x + rng.uniform(-0.05, 0.05), y, r, r * 0.85, spot)


def apple(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw an apple with stem and leaf."""
    lobes = ((0, -0.46), (0.4, -0.6), (0.8, -0.3), (0.78, 0.3), (0.44, 0.84), (0, 0.8))
    brush.blob((*lobes, (-0.44, 0.84), (-0.78, 0.3), (-0.8, -0.3), (-0.4, -0.6)), paint.fill, paint.line)
    brush.blob(((0.7, -0.2), (0.7, 0.28), (0.4, 0.76), (0.02, 0.74), (0.4, 0.4)), SHADE)
    brush.ellipse(-0.42, -0.18, 0.16, 0.26, SHINE, tilt=20)
    brush.curve(((0, -0.44), (0.02, -0.7), (0.12, -0.9)), BARK, 0.09)
    if rng.random() < 0.8:
        brush.blob(((0.06, -0.62), (0.28, -0.88), (0.6, -0.84), (0.36, -0.6)), LEAF, LEAF_LINE)


def house(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a house whose walls have the colour."""
    roof, roof_line = ((122, 82, 78), (72, 46, 50)) if rng.random() < 0.6 else ((96, 104, 128), (54, 58, 80))
    brush.polygon(((0.36, -0.9), (0.58, -0.9), (0.58, -0.2), (0.36, -0.2)), (176, 124, 104), roof_line)
    brush.polygon(((-0.72, -0.16), (0, -0.86), (0.72, -0.16), (0.72, 1), (-0.72, 1)), paint.fill, paint.line)
    brush.polygon(((0.34, -0.3), (0.7, -0.14), (0.7, 0.98), (0.34, 0.98)), SHADE)
    brush.polygon(((0, -1), (0.94, -0.12), (0.8, 0.02), (0, -0.72), (-0.8, 0.02), (-0.94, -0.12)), roof, roof_line)
    door = -0.26 if rng.random() < 0.7 else 0.0
    brush.polygon(((door - 0.2, 0.36), (door + 0.2, 0.36), (door + 0.2, 1), (door - 0.2, 1)), WOOD, WOOD_LINE)
    brush.ellipse(door + 0.11, 0.7, 0.04, 0.04, WARM)
    window = 0.36 if door < 0 else 0.48
    _window(brush, window, 0.42, 0.2 if door < 0 else 0.16)
    if rng.random() < 0.5:
        brush.ellipse(0, -0.28, 0.15, 0.15, WARM, GLASS_LINE)
    else:
        _window(brush, 0, -0.24, 0.14)


def _window(brush: Brush, x: float, y: float, r: float) -> None:
    brush.polygon(((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)), WARM, GLASS_LINE)
    brush.stroke(((x - r, y), (x + r, y)), GLASS_LINE, 0.04)
    brush.stroke(((x, y - r), (x, y + r)), GLASS_LINE, 0.04)


def car(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a car from the side."""
    low = -0.54 if rng.random() < 0.5 else -0.46
    rear = -0.5 if rng.random() < 0.5 else -0.66
    cabin = ((rear, -0.1), (rear + 0.16, low), (0.22, low), (0.56, -0.08))
    brush.polygon(cabin, paint.fill, paint.line)
    brush.polygon(((rear + 0.1, -0.1), (rear + 0.22, low + 0.1), (-0.08, low + 0.1), (-0.08, -0.1)), GLASS, GLASS_LINE)
    brush.polygon(((0.02, -0.1), (0.02, low + 0.1), (0.18, low + 0.1), (0.42, -0.1)), GLASS, GLASS_LINE)
    body = ((-0.98, 0.3), (-0.98, -0.02), (-0.84, -0.12), (0.6, -0.12), (0.9, 0.0), (1, 0.14), (0.98, 0.34), (0, 0.36))
    brush.polygon(body, paint.fill, paint.line)
    brush.polygon(((-0.96, 0.16), (0.98, 0.16), (0.96, 0.34), (-0.96, 0.34)), SHADE)
    brush.stroke(((-0.84, -0.02), (0.5, -0.02)), SHINE, 0.05)
    brush.ellipse(0.9, 0.1, 0.08, 0.07, WARM, paint.line)
    brush.stroke(((-0.02, -0.08), (-0.02, 0.28)), paint.line, 0.03)
    for x in (-0.54, 0.56):
        brush.ellipse(x, 0.34, 0.22, 0.22, (58, 56, 68), (30, 28, 38))
        brush.ellipse(x, 0.34, 0.1, 0.1, (206, 208, 216))


def boat(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a sailing boat whose hull has the colour."""
    sail, line = ((252, 248, 236), (150, 144, 140)) if rng.random() < 0.7 else ((250, 226, 176), (160, 130, 96))
    brush.stroke(((0, -0.98), (0, 0.5)), WOOD_LINE, 0.08)
    brush.blob(((0.08, -0.9), (0.34, -0.4), (0.76, 0.3), (0.4, 0.34), (0.08, 0.32)), sail, line)
    brush.polygon(((-0.08, -0.7), (-0.08, 0.32), (-0.6, 0.32)), sail, line)
    brush.polygon(((0.08, 0.06), (0.6, 0.06), (0.72, 0.3), (0.08, 0.3)), (*paint.fill, 200))
    brush.polygon(((0, -0.98), (0.3, -0.9), (0, -0.8)), paint.fill, paint.line)
    hull = ((-0.92, 0.46), (0.95, 0.46), (0.82, 0.74), (0.56, 1), (-0.5, 1), (-0.76, 0.76))
    brush.polygon(hull, paint.fill, paint.line)
    brush.polygon(((-0.7, 0.78), (0.78, 0.78), (0.56, 0.98), (-0.5, 0.98)), SHADE)
    brush.stroke(((-0.8, 0.57), (0.84, 0.57)), SHINE, 0.06)


def cup(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a steaming cup."""
    handle = ((0.48, -0.1), (0.84, -0.14), (0.84, 0.34), (0.44, 0.42))
    brush.curve(handle, paint.line, 0.22)
    brush.curve(handle, paint.fill, 0.13)
    body = ((-0.62, -0.26), (0.62, -0.26), (0.58, 0.3), (0.42, 0.72), (0, 0.8), (-0.42, 0.72), (-0.58, 0.3))
    brush.polygon(body, paint.fill, paint.line)
    brush.polygon(((0.24, -0.2), (0.6, -0.24), (0.56, 0.3), (0.41, 0.7), (0.1, 0.77)), SHADE)
    brush.stroke(((-0.42, 0.02), (-0.36, 0.42)), SHINE, 0.1)
    brush.ellipse(0, -0.26, 0.62, 0.16, paint.fill, paint.line)
    brush.ellipse(0, -0.25, 0.5, 0.1, (112, 70, 48) if rng.random() < 0.6 else (196, 150, 70))
    for x in (-0.24, 0.16):
        brush.curve(((x, -0.4), (x + 0.1, -0.52), (x, -0.66), (x + 0.08, -0.78)), (255, 255, 255, 150), 0.06)


def lamp(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a lit table lamp whose shade has the colour."""
    for r in (0.66, 0.46):
        brush.ellipse(0, -0.06, r, r * 0.7, (255, 236, 150, 44))
    if rng.random() < 0.5:
        brush.stroke(((0, -0.1), (0, 0.86)), (120, 96, 84), 0.11)
    else:
        brush.ellipse(0, 0.52, 0.24, 0.3, (206, 176, 140), (120, 96, 84))
    brush.blob(
        ((-0.4, 0.94), (-0.3, 0.82), (0.3, 0.82), (0.4, 0.94), (0.3, 1), (-0.3, 1)), (150, 118, 96), (92, 70, 62)
    )
    brush.ellipse(0, -0.08, 0.16, 0.16, (255, 246, 200))
    top = 0.3 + rng.uniform(-0.04, 0.06)
    brush.polygon(((-top, -0.98), (top, -0.98), (0.64, -0.1), (-0.64, -0.1)), paint.fill, paint.line)
    brush.polygon(((-0.05, -0.96), (top - 0.02, -0.96), (0.6, -0.12), (0.24, -0.12)), SHADE)
    brush.polygon(((-top + 0.06, -0.96), (-0.14, -0.96), (-0.2, -0.12), (-0.54, -0.12)), (255, 250, 210, 100))


def umbrella(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw an open umbrella."""
    brush.curve(((0, -0.9), (0, 0), (0, 0.8), (0.1, 0.96), (0.24, 0.92), (0.26, 0.78)), WOOD_LINE, 0.09)
    dome: Points = ((-1, 0.06), (-0.86, -0.42), (-0.48, -0.76), (0, -0.88), (0.48, -0.76), (0.86, -0.42), (1, 0.06))
    ribs = (-1.0, -0.36, 0.36, 1.0)
    hem = [(left + right) / 2 for left, right in zip(ribs[:-1], ribs[1:], strict=True)]
    edge = ((ribs[3], 0.06), (hem[2], -0.06), (ribs[2], 0.06), (hem[1], -0.06), (ribs[1], 0.06), (hem[0], -0.06))
    outline = np.vstack([smooth(dome, closed=False), np.array(edge)])
    brush.polygon(outline, paint.fill, paint.line)
    panel = SHINE if rng.random() < 0.5 else SHADE
    brush.blob(((0, -0.86), (0.24, -0.5), (0.34, 0.02), (0, -0.06), (-0.34, 0.02), (-0.24, -0.5)), panel)
    for x in (-0.36, 0.36):
        brush.curve(((0, -0.86), (x * 0.7, -0.5), (x, 0.05)), paint.line, 0.03)
    brush.stroke(((0, -0.98), (0, -0.86)), WOOD_LINE, 0.07)


def kite(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a kite with a tail of bows."""
    sway = 0.2 if rng.random() < 0.5 else -0.2
    brush.curve(((0, 0.34), (sway, 0.56), (-sway, 0.78), (0.1, 0.98)), DARK, 0.035)
    for x, y in ((sway * 0.9, 0.56), (-sway * 0.9, 0.78)):
        brush.polygon(((x - 0.13, y - 0.09), (x, y), (x - 0.13, y + 0.09)), paint.fill, paint.line)
        brush.polygon(((x + 0.13, y - 0.09), (x, y), (x + 0.13, y + 0.09)), paint.fill, paint.line)
    brush.polygon(((0, -1), (0.68, -0.36), (0, 0.36), (-0.68, -0.36)), paint.fill, paint.line)
    brush.polygon(((0, -0.97), (0.66, -0.36), (0, -0.36)), SHINE)
    brush.polygon(((0, -0.36), (0, 0.33), (-0.66, -0.36)), SHINE if rng.random() < 0.5 else SHADE)
    brush.stroke(((0, -0.98), (0, 0.34)), paint.line, 0.03)
    brush.stroke(((-0.66, -0.36), (0.66, -0.36)), paint.line, 0.03)


def balloon(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a toy balloon on a string."""
    sway = rng.uniform(0.06, 0.16)
    brush.curve(((0, 0.36), (sway, 0.56), (-sway, 0.78), (0.04, 1)), (*DARK, 190), 0.035)
    brush.polygon(((0, 0.22), (0.12, 0.4), (-0.12, 0.4)), paint.fill, paint.line)
    bulb = (
        (0, -1),
        (0.38, -0.86),
        (0.55, -0.44),
        (0.38, 0.04),
        (0, 0.28),
        (-0.38, 0.04),
        (-0.55, -0.44),
        (-0.38, -0.86),
    )
    brush.blob(bulb, paint.fill, paint.line)
    brush.blob(((0.48, -0.4), (0.32, 0.02), (0, 0.23), (-0.2, 0.12), (0.2, -0.1)), SHADE)
    brush.ellipse(-0.22, -0.6, 0.1, 0.2, (255, 255, 255, 150), tilt=24)


def rocket(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a rocket in flight."""
    long = rng.uniform(0.88, 0.98)
    brush.blob(((-0.2, 0.54), (0.2, 0.54), (0.12, 0.8), (0, long), (-0.12, 0.8)), (248, 160, 60), (214, 96, 50))
    brush.blob(((-0.1, 0.56), (0.1, 0.56), (0, 0.82)), (255, 230, 130))
    fin = blend(paint.fill, paint.line, 0.4)
    for side in (-1, 1):
        brush.polygon(((0.26 * side, 0.06), (0.6 * side, 0.48), (0.56 * side, 0.7), (0.2 * side, 0.5)), fin, paint.line)
    body = ((0, -0.98), (0.24, -0.62), (0.34, -0.1), (0.22, 0.54), (-0.22, 0.54), (-0.34, -0.1), (-0.24, -0.62))
    brush.blob(body, paint.fill, paint.line)
    brush.blob(((0.04, -0.86), (0.2, -0.6), (0.3, -0.1), (0.18, 0.52), (0.06, 0.52)), SHADE)
    brush.ellipse(0, -0.26, 0.17, 0.17, GLASS, GLASS_LINE)
    brush.ellipse(-0.05, -0.31, 0.05, 0.05, (255, 255, 255))
    brush.stroke(((-0.28, 0.24), (0.28, 0.24)), paint.line, 0.06)


def star(brush: Brush, paint: Ink, rng: np.random.Generator) -> None:
    """Draw a faceted star."""
    deep = rng.uniform(0.42, 0.5)
    angles = np.deg2rad(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, 0.98, deep)[:, None]
    tips = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + (0, 0.06)
    brush.polygon(tips, paint.fill, paint.line)
    centre = np.array([[0, 0.06]])
    for i in range(0, 10, 2):
        brush.polygon(np.vstack([tips[i : i + 2], centre]), SHADE)
    brush.ellipse(-0.16, -0.18, 0.1, 0.07, (255, 255, 255, 130), tilt=-35)


_DRAWN = (cat, bird, fish, turtle, butterfly, tree, flower, mushroom, apple)
_MADE = (house, car, boat, cup, lamp, umbrella, kite, balloon, rocket, star)
DRAWINGS: dict[str, Callable[[Brush, Ink, np.random.Generator], None]] = {
    drawing.__name__: drawing for drawing in _DRAWN + _MADE
}
