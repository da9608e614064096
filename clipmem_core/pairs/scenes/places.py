"""Paints the background of a drawn picture: a gentle gradient, layers of land or water, a few details."""

from collections.abc import Callable

import numpy as np

from clipmem_core.pairs.scenes.canvas import Canvas, Colour, blend

SKIES: dict[str, tuple[Colour, Colour, Colour]] = {  # top, middle, horizon
    "sunny": ((124, 188, 234), (176, 216, 242), (228, 243, 250)),
    "cloudy": ((160, 180, 200), (190, 206, 218), (224, 230, 234)),
    "sunset": ((112, 104, 168), (234, 140, 128), (255, 214, 150)),
    "night": ((22, 26, 62), (44, 50, 102), (92, 92, 148)),
}


def paint_place(place: str, light: str, *, side: int, rng: np.random.Generator) -> Canvas:
    """Paint a background and return the canvas to draw on.

    Args:
        place: one of `scene_plan.LIGHTS`.
        light: one of the place's lights.
        side: pixels of the square canvas.
        rng: where hills, clouds, waves and the like are drawn from.
    """
    canvas = Canvas(side, light, rng)
    _PLACES[place](canvas)
    return canvas


def _sky(canvas: Canvas, horizon: float) -> None:
    canvas.gradient(*SKIES[canvas.light], end=horizon)
    side = canvas.rng.choice((-1, 1))
    x = 0.5 + side * canvas.rng.uniform(0.26, 0.36)
    if canvas.light == "night":
        for sx, sy, r in canvas.rng.uniform((0, 0, 0.002), (1, horizon, 0.007), size=(26, 3)):
            canvas.disc(sx, sy, r, (255, 250, 225, 210))
        canvas.disc(x, 0.17, 0.1, (255, 246, 214, 40))
        canvas.disc(x, 0.17, 0.07, (255, 244, 210))
        canvas.disc(x - 0.03, 0.15, 0.06, blend(SKIES["night"][0], SKIES["night"][1], 0.55))
    elif canvas.light == "sunset":
        canvas.disc(x, horizon - 0.05, 0.17, (255, 236, 170, 60))
        canvas.disc(x, horizon - 0.05, 0.11, (255, 226, 140))
    elif canvas.light == "sunny":
        canvas.disc(x, 0.15, 0.12, (255, 246, 190, 90))
        canvas.disc(x, 0.15, 0.075, (255, 226, 120))
        _cloud(canvas, 0.5 - side * 0.3, 0.16, 0.8)
    else:
        for cx, cy in ((0.16, 0.12), (0.56, 0.2), (0.9, 0.1)):
            _cloud(canvas, cx, cy, 1.1)


def _cloud(canvas: Canvas, x: float, y: float, size: float) -> None:
    x, y = x + canvas.rng.uniform(-0.06, 0.06), y + canvas.rng.uniform(-0.04, 0.04)
    for dx, dy, r in ((-0.08, 0.01, 0.05), (0, -0.015, 0.07), (0.08, 0.01, 0.05)):
        canvas.disc(x + dx * size, y + dy * size, r * size, (250, 252, 255), ry=r * size * 0.72)


def _meadow(canvas: Canvas) -> None:
    _sky(canvas, 0.6)
    canvas.land((172, 206, 150), 0.56, 0.03)
    canvas.land((158, 200, 118), 0.63, 0.025, waves=0.8)
    canvas.land((134, 184, 98), 0.78, 0.02, waves=0.6)
    petals: tuple[Colour, ...] = ((255, 250, 240), (255, 224, 120), (250, 190, 200))
    for x, y in canvas.rng.uniform((0.02, 0.7), (0.98, 0.97), size=(12, 2)):
        canvas.disc(x, y, 0.011, canvas.lit(petals[int(x * 97) % 3]))


def _hills(canvas: Canvas) -> None:
    _sky(canvas, 0.75)
    canvas.land((150, 150, 176), 0.62, 0.05)
    canvas.land((112, 126, 140), 0.7, 0.035, waves=0.9)
    canvas.land((88, 116, 110), 0.8, 0.02, waves=0.7)


def _desert(canvas: Canvas) -> None:
    _sky(canvas, 0.6)
    canvas.land((240, 208, 150), 0.57, 0.03, waves=0.8)
    canvas.land((230, 188, 124), 0.66, 0.035, waves=0.7)
    canvas.land((218, 170, 106), 0.8, 0.025, waves=0.6)
    x = 0.12 if canvas.rng.random() < 0.5 else 0.88
    green = canvas.lit((112, 150, 104))
    for left, top, right, bottom in ((-0.02, 0.4, 0.02, 0.66), (-0.07, 0.5, 0.02, 0.53), (-0.07, 0.44, -0.04, 0.53)):
        canvas.pen.rounded_rectangle(
            [(x + left) * canvas.side, top * canvas.side, (x + right) * canvas.side, bottom * canvas.side],
            radius=0.018 * canvas.side,
            fill=green,
        )


def _snow(canvas: Canvas) -> None:
    _sky(canvas, 0.62)
    canvas.land((204, 218, 234), 0.55, 0.04)
    for x in canvas.rng.uniform(0.0, 1.0, size=7):
        height = canvas.rng.uniform(0.08, 0.14)
        canvas.shape([(x, 0.62 - height), (x + 0.045, 0.64), (x - 0.045, 0.64)], canvas.lit((128, 158, 160)))
    canvas.land((232, 240, 247), 0.64, 0.02, waves=0.8)
    canvas.land((246, 249, 252), 0.78, 0.02, waves=0.6)
    for x, y, r in canvas.rng.uniform((0, 0, 0.004), (1, 0.95, 0.011), size=(34, 3)):
        canvas.disc(x, y, r, (255, 255, 255, 225))


def _city(canvas: Canvas) -> None:
    _sky(canvas, 0.7)
    for depth, tone in enumerate(((168, 182, 204), (136, 150, 178))):
        x = -canvas.rng.uniform(0.0, 0.08)
        while x < 1:
            width, top = canvas.rng.uniform(0.09, 0.17), canvas.rng.uniform(0.3, 0.52) + 0.06 * depth
            canvas.box(x, top, x + width - 0.008, 0.76, canvas.lit(tone))
            _city_windows(canvas, x, top, width)
            x += width
    canvas.box(0, 0.74, 1, 0.79, canvas.lit((200, 200, 204)))
    canvas.box(0, 0.78, 1, 1, canvas.lit((126, 130, 144)))
    for x in np.arange(0.02, 1.0, 0.24):
        canvas.box(x, 0.945, x + 0.12, 0.957, canvas.lit((236, 232, 216)))


def _city_windows(canvas: Canvas, x: float, top: float, width: float) -> None:
    glow: Colour = (255, 222, 140, 230) if canvas.light == "night" else (240, 244, 250, 110)
    lit = canvas.rng.random((4, 2)) < (0.55 if canvas.light == "night" else 0.8)
    for row, column in zip(*np.nonzero(lit), strict=True):
        left, high = x + width * (0.2 + 0.36 * column), top + 0.035 + 0.06 * row
        canvas.box(left, high, left + width * 0.2, high + 0.03, glow)


def _room(canvas: Canvas) -> None:
    walls: tuple[Colour, ...] = ((244, 226, 200), (214, 228, 222), (240, 214, 208), (220, 222, 238))
    wall = walls[int(canvas.rng.integers(len(walls)))]
    canvas.gradient(blend(wall, (255, 255, 255), 0.25), blend(wall, (150, 120, 110), 0.1), end=0.7)
    canvas.box(0, 0.685, 1, 0.72, (250, 246, 240))
    canvas.box(0, 0.72, 1, 1, (198, 154, 114))
    for y in (0.79, 0.88):
        canvas.box(0, y, 1, y + 0.006, (172, 128, 92))
    canvas.disc(0.5, 0.9, 0.42, blend(wall, (150, 70, 90), 0.35), ry=0.075)
    canvas.disc(0.5, 0.9, 0.36, blend(wall, (255, 255, 255), 0.3), ry=0.055)
    x = 0.2 if canvas.rng.random() < 0.5 else 0.8
    canvas.box(x - 0.13, 0.1, x + 0.13, 0.44, (250, 246, 240))
    canvas.box(x - 0.11, 0.12, x + 0.11, 0.42, (178, 216, 240))
    canvas.disc(x + 0.04, 0.33, 0.05, (236, 246, 252), ry=0.03)
    canvas.box(x - 0.006, 0.12, x + 0.006, 0.42, (250, 246, 240))
    canvas.box(x - 0.11, 0.262, x + 0.11, 0.274, (250, 246, 240))


def _water(canvas: Canvas, top: float, bottom: float) -> None:
    near, far = canvas.lit((70, 138, 184)), canvas.lit((128, 190, 214))
    for i, y in enumerate(np.linspace(top, bottom, 7)):
        canvas.box(0, float(y), 1, 1, blend(far, near, i / 6))
    foam = (*blend(canvas.lit((255, 255, 255)), (255, 255, 255), 0.4), 130)
    for x, y in canvas.rng.uniform((0.0, top + 0.03), (0.95, bottom), size=(14, 2)):
        canvas.pen.line(
            [(x * canvas.side, y * canvas.side), ((x + 0.08) * canvas.side, y * canvas.side)], foam, canvas.side // 110
        )


def _sea(canvas: Canvas) -> None:
    _sky(canvas, 0.58)
    _water(canvas, 0.56 + canvas.lift, 0.98)


def _beach(canvas: Canvas) -> None:
    _sky(canvas, 0.5)
    _water(canvas, 0.5 + canvas.lift, 0.68 + canvas.lift)
    canvas.land((250, 244, 228), 0.655, 0.014, waves=0.9)
    canvas.land((240, 218, 172), 0.68, 0.014, waves=0.9)
    canvas.land((232, 204, 154), 0.84, 0.016, waves=0.6)
    for x, y in canvas.rng.uniform((0.02, 0.76), (0.98, 0.97), size=(9, 2)):
        canvas.disc(x, y, 0.008, canvas.lit((250, 236, 206)), ry=0.005)


def _forest(canvas: Canvas) -> None:
    canvas.gradient((196, 222, 190), (226, 236, 200), (206, 222, 170))
    for depth, tone in enumerate(((172, 196, 164), (138, 160, 128))):
        for x in canvas.rng.uniform(0, 1, size=6):
            half = 0.014 + 0.012 * depth
            canvas.box(x - half, 0, x + half, 0.78, tone)
    for x in np.linspace(0, 1, 8) + canvas.rng.uniform(-0.04, 0.04, size=8):
        canvas.disc(x, -0.02, 0.13, (122, 160, 112), ry=0.1 + 0.04 * canvas.rng.random())
    canvas.land((142, 168, 102), 0.68, 0.02)
    canvas.land((120, 148, 88), 0.8, 0.02, waves=0.7)
    for x, y in canvas.rng.uniform((0, 0.72), (1, 0.97), size=(10, 2)):
        canvas.disc(x, y, 0.014, (186, 142, 84), ry=0.007)


def _underwater(canvas: Canvas) -> None:
    canvas.gradient((150, 216, 222), (70, 156, 190), (32, 96, 150))
    for x in canvas.rng.uniform(0.0, 0.9, size=3):
        canvas.shape([(x, 0), (x + 0.1, 0), (x - 0.06, 0.9), (x - 0.26, 0.9)], (255, 255, 255, 26))
    canvas.land((206, 190, 150), 0.88, 0.02, waves=0.8)
    for x in (*canvas.rng.uniform(0.02, 0.2, size=2), *canvas.rng.uniform(0.8, 0.98, size=2)):
        y = np.linspace(0.94, canvas.rng.uniform(0.58, 0.72), 14)
        sway = x + 0.02 * np.sin(y * 40)
        canvas.pen.line(
            [(float(a) * canvas.side, float(b) * canvas.side) for a, b in zip(sway, y, strict=True)],
            (58, 140, 110),
            canvas.side // 36,
        )
    for x, y, r in canvas.rng.uniform((0.05, 0.05, 0.008), (0.95, 0.8, 0.02), size=(9, 3)):
        canvas.disc(x, y, r, (255, 255, 255, 80))


_PLACES: dict[str, Callable[[Canvas], None]] = {
    "meadow": _meadow,
    "sea": _sea,
    "hills": _hills,
    "desert": _desert,
    "snow": _snow,
    "city": _city,
    "room": _room,
    "beach": _beach,
    "forest": _forest,
    "underwater": _underwater,
}
