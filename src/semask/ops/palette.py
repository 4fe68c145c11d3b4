"""Colours of classes that a table gives none, and label maps as images in the colours of classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
from jaxtyping import Integer
from PIL import Image

Colour = tuple[int, int, int]
"""RGB, 0 … 255."""
OKABE_ITO: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
)
"""Sky blue, orange, bluish green, yellow, blue, reddish purple."""
ERROR_COLOUR: Colour = (214, 39, 40)
"""The red of wrong pixels, which no class has."""
NEAR = 60
"""Distance in RGB from that red within which the palette has no colour."""
LEVELS = 7
"""Levels of red, green and blue that further colours are made of."""
LEAST, MOST = 256, 1024
"""Longest side of an image in a notebook [px]."""


@cache
def palette(count: int) -> tuple[Colour, ...]:
    """Return `count` ≤ 255 colours: Okabe and Ito's, which colour-blind readers distinguish, then others far apart.

    Each further one is the grid colour farthest from black, white, the red of errors and those before.

    Source: Okabe and Ito 2008, without black and vermilion, which is near the red of errors.
    """
    colours = [*OKABE_ITO[:count]]
    levels = np.linspace(0, 255, LEVELS).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.square(grid - ERROR_COLOUR).sum(1) > NEAR**2]
    taken = np.array([(0, 0, 0), (255, 255, 255), ERROR_COLOUR, *OKABE_ITO])
    distance = np.square(grid[:, None] - taken).sum(-1).min(axis=1)
    for _ in range(count - len(colours)):
        # farthest-point sampling of the grid
        chosen = grid[distance.argmax()]
        distance = np.minimum(distance, np.square(grid - chosen).sum(1))
        colours.append((int(chosen[0]), int(chosen[1]), int(chosen[2])))
    return tuple(colours)


def label_png(labels: Integer[np.ndarray, "b h w"], colours: Sequence[Colour]) -> bytes:
    """Return label maps side by side as a PNG for notebooks; ids without a colour are black."""
    ids = np.concatenate([*labels], axis=1)
    image = Image.fromarray(np.where((ids >= 0) & (ids < len(colours)), ids, len(colours)).astype(np.uint8))
    image.putpalette([channel for colour in (*colours, (0, 0, 0)) for channel in colour])
    # coarse grids are enlarged, photographs made smaller
    longest = max(labels.shape[1:])
    factor = min(max(longest, LEAST), MOST) / longest
    width, height = (max(1, round(side * factor)) for side in image.size)
    content = BytesIO()
    image.resize((width, height), Image.Resampling.NEAREST).save(content, format="PNG")
    return content.getvalue()
