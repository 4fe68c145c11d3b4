"""Scenes: streets by the water, drawn from a seed, with exact labels.

Colour and texture do not determine the class; the place does. Sky and water share theirs, and so do road, roof and
pole, tree and grass, window and sky, car, sign and clothes. Sizes follow from a camera above a plane: an object of h
metres whose foot lies d pixels below the horizon is h·d / camera height pixels tall.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from semask.data.classes import Classes, identity
from semask.data.scenes.canvas import COURSES, FOLIAGE, GRAIN, STREAKS, Canvas, Colour, Material, noise

SKY, WATER, ROAD, ROOF, WALL, WINDOW, TREE, GRASS, CAR, PERSON, POLE, SIGN = range(12)
SCENE_CLASSES = Classes(
    names=("sky", "water", "road", "roof", "wall", "window", "tree", "grass", "car", "person", "pole", "sign"),
    colours=(
        (120, 180, 235), (30, 90, 200), (110, 100, 115), (170, 60, 50), (225, 190, 140), (60, 215, 225),
        (25, 110, 45), (135, 200, 75), (205, 40, 160), (250, 95, 60), (250, 250, 250), (250, 215, 40),
    ),
    label_map=identity(12),
)  # fmt: skip
MIN_SIDE = 32

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((0.30, 0.52, 0.86), (0.72, 0.84, 0.95)),
    ((0.62, 0.66, 0.72), (0.80, 0.82, 0.84)),
    ((0.36, 0.42, 0.66), (0.95, 0.70, 0.52)),
    ((0.38, 0.66, 0.80), (0.86, 0.92, 0.88)),
)
STONES: tuple[Colour, ...] = ((0.42, 0.42, 0.45), (0.52, 0.46, 0.42), (0.36, 0.34, 0.38), (0.55, 0.38, 0.32))
GREENS: tuple[Colour, ...] = ((0.28, 0.46, 0.18), (0.40, 0.50, 0.20), (0.22, 0.40, 0.24), (0.58, 0.48, 0.20))
PLASTERS: tuple[Colour, ...] = ((0.84, 0.76, 0.62), (0.70, 0.42, 0.32), (0.78, 0.80, 0.82), (0.62, 0.58, 0.50))
PAINTS: tuple[Colour, ...] = (
    (0.80, 0.14, 0.14), (0.15, 0.32, 0.72), (0.92, 0.78, 0.18),
    (0.92, 0.92, 0.92), (0.14, 0.16, 0.20), (0.14, 0.52, 0.42),
)  # fmt: skip
DARK = (0.10, 0.10, 0.12)
SKIN = (0.80, 0.60, 0.48)
BARK = (0.34, 0.24, 0.17)


class Stage(NamedTuple):
    """The surroundings of the objects of one image.

    camera: height above the plane [m]. vanishing: column where the road meets the horizon [px]. road: centre, relative
    to the camera, and half width [m]. shadow: strength, and drift to the right as a share of the object's width.
    """

    canvas: Canvas
    random: np.random.Generator
    textures: Float32[np.ndarray, "4 H W"]
    camera: float
    vanishing: float
    road: tuple[float, float]
    shadow: tuple[float, float]
    air: Material
    stone: Material
    green: Material

    def scale(self, foot: float) -> float:
        """Return pixels per metre of an object whose foot is at a row."""
        return (foot - self.canvas.horizon) / self.camera

    def place(self, *, on_road: bool) -> tuple[float, float]:
        """Draw a foot, (row, column) [px], on the road or beside it."""
        canvas, (centre, half) = self.canvas, self.road
        foot = canvas.horizon + (canvas.height - canvas.horizon) * (0.10 + 0.88 * self.random.random() ** 1.3)
        scale, middle = self.scale(foot), self.vanishing + centre * self.scale(foot)
        if on_road:
            return foot, middle + scale * half * self.random.uniform(-0.75, 0.75)
        column = self.random.uniform(-0.05, 1.05) * canvas.width
        margin = (half + 1.0) * scale
        if abs(column - middle) < margin:
            column = middle + (margin if column > middle else -margin) * self.random.uniform(1.0, 1.6)
        return foot, column

    def wet(self, foot: float, column: float) -> bool:
        """Whether there is water at a foot."""
        row, column = min(int(foot), self.canvas.height - 1), min(max(column, 0), self.canvas.width - 1)
        return bool(self.canvas.label[row, int(column)] == WATER)

    def cast(self, foot: float, column: float, width: float) -> None:
        """Darken the ground at a foot."""
        strength, drift = self.shadow
        self.canvas.shadow((foot, column + drift * width), (0.16 * width + 0.5, 0.75 * width + 0.5), strength)


def draw_scene(
    seed: int, size: tuple[int, int] = (128, 128)
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Draw the image (RGB) and the labels (numbers of `SCENE_CLASSES`) of a seed; size is (height, width) [px].

    Raises:
        ValueError: a side is below 32 pixels, or the seed below 0.
    """
    if min(size) < MIN_SIDE:
        raise ValueError(f"scene size {size[0]}×{size[1]}: both sides are at least {MIN_SIDE} pixels")
    if seed < 0:
        raise ValueError(f"scene seed {seed}: seeds are 0 or more")
    random = np.random.default_rng(seed)
    stage = _stage(random, size)
    _ground(stage)
    # object, largest number, whether it stands on the road
    things = [
        *((building, 4, False), (tree, 6, False), (car, 4, True)),
        *((person, 5, random.random() < 0.3), (pole, 5, False)),
    ]
    placed = [
        (*stage.place(on_road=on_road), draw)
        for draw, most, on_road in things
        for _ in range(random.integers(1 if draw is pole else 0, most + 1))
    ]
    # far objects first, so that near ones cover them; only cars and poles stand in water
    for foot, column, draw in sorted(placed, key=lambda thing: thing[0]):
        if draw in (car, pole) or not stage.wet(foot, column):
            draw(stage, foot, column)
    return _photograph(stage), stage.canvas.label


def _stage(random: np.random.Generator, size: tuple[int, int]) -> Stage:
    height, width = size
    high, low = SKIES[random.integers(len(SKIES))]
    stone, green = STONES[random.integers(len(STONES))], GREENS[random.integers(len(GREENS))]
    canvas = Canvas(size, horizon=height * random.uniform(0.32, 0.58))
    fields = np.empty((4, *size), np.float32)
    fields[STREAKS] = 0.6 * noise(random, size, (10, 3)) + 0.4 * noise(random, size, (28, 6))
    random.standard_normal(dtype=np.float32, out=fields[GRAIN])
    fields[FOLIAGE] = 0.6 * noise(random, size, (40, 40)) + 0.3 * noise(random, size, (12, 12)) + 0.3 * fields[GRAIN]
    rows = np.arange(size[0], dtype=np.float32)[:, None] * (128 / size[0])
    fields[COURSES] = np.where(rows % 4 < 1, -1.0, 0.4) + 0.3 * fields[GRAIN]
    return Stage(
        canvas=canvas,
        random=random,
        textures=fields,
        camera=random.uniform(2.2, 4.5),
        vanishing=width * random.uniform(0.2, 0.8),
        road=(random.uniform(-4.0, 4.0), random.uniform(2.5, 4.5)),
        shadow=(random.uniform(0.15, 0.6), random.uniform(-0.6, 0.6)),
        air=Material(high, low, STREAKS),
        stone=Material(stone, _mix(stone, low, 0.35), GRAIN),
        green=Material(green, _mix(green, low, 0.30), FOLIAGE),
    )


def _ground(stage: Stage) -> None:
    """Paint sky, far trees, grass, water and the road."""
    canvas, random, (centre, half) = stage.canvas, stage.random, stage.road
    horizon, height, width = canvas.horizon, canvas.height, canvas.width
    canvas.rectangle((0, horizon), (0, width), SKY, stage.air)
    canvas.rectangle((horizon, height), (0, width), GRASS, stage.green)
    # a line of trees along the horizon
    if random.random() < 0.6:
        tops = noise(random, (1, width), (1, 9))[0] * 0.03 + random.uniform(-0.02, 0.06)
        rows = np.arange(round(horizon))[:, None] + 0.5
        canvas.fill((slice(0, len(rows)), slice(0, width)), rows > horizon - height * tops, TREE, stage.green)
    kind = random.random()
    if kind < 0.4:
        # a lake from the horizon to a winding shore
        depth = random.uniform(0.15, 0.75) * (height - horizon)
        shore = horizon + depth * (1.0 + 0.25 * noise(random, (1, width), (1, 6))[0])
        rows = np.arange(round(horizon), height)[:, None] + 0.5
        canvas.fill((slice(round(horizon), height), slice(0, width)), rows < shore, WATER, stage.air)
    elif kind < 0.75:
        # a canal along the road, from the horizon to the lower edge
        near, wide = random.uniform(5.0, 12.0), random.uniform(5.0, 25.0)
        bounds = (near, near + wide) if random.random() < 0.5 else (-near - wide, -near)
        _strip(stage, bounds, WATER, stage.air)
    if random.random() < 0.85:
        # the road, and the dashes of its middle
        _strip(stage, (centre - half, centre + half), ROAD, stage.stone)
        paint = Material((0.85, 0.85, 0.80), stage.stone.far, GRAIN)
        for depth in 6.0 * 1.45 ** np.arange(8):
            far, near = (horizon + (height - horizon) * 5.0 / distance for distance in (depth * 1.2, depth))
            upper, lower = (
                (
                    stage.vanishing + (centre - 0.1) * stage.scale(row),
                    stage.vanishing + (centre + 0.1) * stage.scale(row),
                )
                for row in (far, near)
            )
            canvas.trapezoid((far, near), upper, lower, ROAD, paint)


def _strip(stage: Stage, bounds: tuple[float, float], label: int, material: Material) -> None:
    """Fill the plane between two lines that run away from the camera, `bounds` [m] to its right."""
    canvas, scale = stage.canvas, stage.scale(stage.canvas.height)
    lower = stage.vanishing + bounds[0] * scale, stage.vanishing + bounds[1] * scale
    upper = stage.vanishing, stage.vanishing
    canvas.trapezoid((canvas.horizon, canvas.height), upper, lower, label, material)


def building(stage: Stage, foot: float, column: float) -> None:
    """A wall with rows of windows under a pitched or flat roof."""
    canvas, random, scale = stage.canvas, stage.random, stage.scale(foot)
    half, tall = 0.5 * scale * random.uniform(5.0, 12.0), scale * random.uniform(4.0, 10.0)
    # away from the road
    column += half if column > stage.vanishing else -half
    wall = _solid(PLASTERS[random.integers(len(PLASTERS))], COURSES)
    stage.cast(foot, column, 2 * half)
    # wall and roof
    top = foot - tall
    canvas.rectangle((top, foot), _around(column, half), WALL, wall)
    if random.random() < 0.7:
        ridge, eaves = half * random.uniform(0.0, 0.8), half * 1.1
        rise = scale * random.uniform(1.5, 3.5)
        upper, lower = _around(column, ridge), _around(column, eaves)
        canvas.trapezoid((top - rise, top), upper, lower, ROOF, _solid(stage.stone.near, GRAIN))
    else:
        canvas.rectangle((top - 0.6 * scale, top), _around(column, half), ROOF, _solid(stage.stone.near, GRAIN))
    glass = _solid(_mix(stage.air.far, stage.air.near, random.uniform(0.0, 1.0)), STREAKS)
    # windows, floor by floor
    step = max(3.0 * scale, 5.0)
    for floor in range(int(tall / step)):
        sill = foot - floor * step - 0.3 * step
        for bay in range(int(2 * half / step)):
            left = column - half + (bay + 0.28) * step
            canvas.rectangle((sill - 0.45 * step, sill), (left, left + 0.42 * step), WINDOW, glass)


def tree(stage: Stage, foot: float, column: float) -> None:
    """A trunk under a ragged crown, round or pointed; both are `tree`."""
    canvas, random, scale = stage.canvas, stage.random, stage.scale(foot)
    tall, wide = scale * random.uniform(3.5, 8.0), scale * random.uniform(1.2, 2.5)
    stage.cast(foot, column, 1.6 * wide)
    canvas.rectangle((foot - 0.5 * tall, foot), _around(column, 0.1 * wide), TREE, _solid(BARK, GRAIN))
    crown = _solid(_scaled(stage.green.near, random.uniform(0.85, 1.1)), FOLIAGE)
    if random.random() < 0.7:
        centre, radii = (foot - 0.65 * tall, column), (0.38 * tall, wide)
        canvas.ellipse(centre, radii, TREE, crown, ragged=stage.textures[FOLIAGE])
    else:
        canvas.trapezoid((foot - tall, foot - 0.2 * tall), (column, column), _around(column, wide), TREE, crown)


def car(stage: Stage, foot: float, column: float) -> None:
    """A car from behind or, more seldom, from its side; wheels and panes are `car`."""
    canvas, random, scale = stage.canvas, stage.random, stage.scale(foot)
    half = 0.5 * scale * (1.8 if random.random() < 0.65 else 4.2)
    paint = _solid(PAINTS[random.integers(len(PAINTS))], GRAIN)
    stage.cast(foot, column, 2.2 * half)
    # wheels, body, cabin, pane
    for side in (-0.65, 0.65):
        wheel = foot - 0.3 * scale, column + side * half
        canvas.ellipse(wheel, (0.32 * scale, 0.3 * scale), CAR, _solid(DARK, GRAIN))
    canvas.rectangle((foot - 0.95 * scale, foot - 0.25 * scale), _around(column, half), CAR, paint)
    roof, waist = _around(column, 0.6 * half), _around(column, 0.85 * half)
    canvas.trapezoid((foot - 1.5 * scale, foot - 0.95 * scale), roof, waist, CAR, paint)
    pane = _around(column, 0.5 * half), _around(column, 0.65 * half)
    canvas.trapezoid((foot - 1.4 * scale, foot - 1.0 * scale), *pane, CAR, _solid(stage.air.near, STREAKS))


def person(stage: Stage, foot: float, column: float) -> None:
    """A standing person: head, coat and legs."""
    canvas, random = stage.canvas, stage.random
    scale = stage.scale(foot) * random.uniform(0.85, 1.1)
    coat, trousers = (_solid(PAINTS[i], GRAIN) for i in random.integers(len(PAINTS), size=2))
    stage.cast(foot, column, 0.6 * scale)
    # legs, coat, head
    for side in (-0.13, 0.13):
        middle = column + side * scale
        canvas.rectangle((foot - 0.85 * scale, foot), _around(middle, 0.1 * scale), PERSON, trousers)
    shoulders, hips = _around(column, 0.22 * scale), _around(column, 0.28 * scale)
    canvas.trapezoid((foot - 1.5 * scale, foot - 0.75 * scale), shoulders, hips, PERSON, coat)
    canvas.ellipse((foot - 1.63 * scale, column), (0.15 * scale, 0.13 * scale), PERSON, _solid(SKIN, GRAIN))


def pole(stage: Stage, foot: float, column: float) -> None:
    """A pole of the road's stone, one pixel wide or little more, with a lamp's arm or a sign."""
    canvas, random, scale = stage.canvas, stage.random, stage.scale(foot)
    tall, half = scale * random.uniform(3.0, 6.0), max(0.5, 0.07 * scale)
    stage.cast(foot, column, 0.5 * scale)
    metal = _solid(_scaled(stage.stone.near, random.uniform(0.6, 1.2)), GRAIN)
    canvas.rectangle((foot - tall, foot), _around(column, half), POLE, metal)
    if random.random() < 0.35:
        reach, left = scale * random.uniform(0.6, 1.5), random.random() < 0.5
        arm = (column - reach, column) if left else (column, column + reach)
        canvas.rectangle((foot - tall, foot - tall + 2 * half), arm, POLE, metal)
        return
    # a round, square or triangular sign
    radius = max(1.6, scale * random.uniform(0.35, 0.6))
    middle = foot - tall + radius * random.uniform(0.0, 1.5)
    paint = _solid(PAINTS[random.integers(len(PAINTS))], GRAIN)
    shape = random.integers(3)
    if shape == 0:
        canvas.ellipse((middle, column), (radius, radius), SIGN, paint)
    elif shape == 1:
        canvas.rectangle(_around(middle, radius), _around(column, radius), SIGN, paint)
    else:
        canvas.trapezoid(_around(middle, radius), (column,) * 2, _around(column, radius), SIGN, paint)


def _photograph(stage: Stage) -> UInt8[np.ndarray, "H W 3"]:
    """Light the canvas from one side, tint it, soften it a little and add the sensor's noise."""
    canvas, random = stage.canvas, stage.random
    image = canvas.render(stage.textures)
    # light and tint
    slope = 1.0 + random.uniform(-0.2, 0.2) * np.linspace(-1, 1, canvas.width, dtype=np.float32)
    tint = random.uniform(0.75, 1.15) * random.uniform(0.92, 1.08, 3)
    image *= slope * tint.astype(np.float32)[:, None, None]
    # the lens
    image[..., 1:-1] = 0.7 * image[..., 1:-1] + 0.15 * (image[..., 2:] + image[..., :-2])
    image[:, 1:-1] = 0.7 * image[:, 1:-1] + 0.15 * (image[:, 2:] + image[:, :-2])
    # the sensor
    image += np.float32(random.uniform(0.0, 0.03)) * random.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image, 0.0, 1.0, out=image) * 255.0
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))


def _around(middle: float, half: float) -> tuple[float, float]:
    return middle - half, middle + half


def _solid(colour: Colour, texture: int) -> Material:
    return Material(colour, colour, texture)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = ((1.0 - share) * a + share * b for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
