"""Colours of classes that a table gives none."""

from __future__ import annotations

from functools import cache

import numpy as np

from semask.data.label_values import Colour

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
