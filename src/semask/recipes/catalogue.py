"""What the recipes' models cost, counted beforehand, and what they scored here. Pure standard library.

`make models` counts anew and writes catalogue.json and docs/models.md; tests keep them in step with the code.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

FILE = "catalogue.json"


class Entry(NamedTuple):
    """Costs of a recipe's model, for one image of its crop's size.

    multiply_adds: as the papers count them; all_multiply_adds: of all matrix products and convolutions. licence: of the
    pretrained weights that the recipe starts from, None where it starts from none.
    """

    parameters: int
    multiply_adds: int
    all_multiply_adds: int
    licence: str | None


class Measured(NamedTuple):
    """The mIoU [%] of our own training by the unchanged recipe, and on what it was trained and measured."""

    miou: float
    how: str


@cache
def catalogue() -> dict[str, Entry]:
    """Return the costs of all recipes by name."""
    text = files("semask.recipes").joinpath(FILE).read_text(encoding="utf-8")
    return {name: Entry(**entry) for name, entry in json.loads(text).items()}


_CAMVID = "CamVid's validation frames, best evaluation, seed 0"
_SCENES = "200 drawn scenes, seed 0"

MEASURED: dict[str, Measured] = {
    "camvid/semask-lite0-fpn-small": Measured(64.81, _CAMVID),
    "camvid/lite0-fpn-small": Measured(64.23, _CAMVID),
    "camvid/semask-lite0-mask2former-small": Measured(68.42, _CAMVID),
    "camvid/dinov2-s-linear-frozen": Measured(55.08, _CAMVID),
    "camvid/dinov2-s-mask-small": Measured(44.39, _CAMVID),
    "scenes/micro-fpn": Measured(60.56, _SCENES),
    "scenes/semask-micro-fpn": Measured(56.77, _SCENES),
    "scenes/micro-seg-mask": Measured(30.94, _SCENES),
    "scenes/semask-micro-seg-mask": Measured(27.70, _SCENES),
    "scenes/semask-micro-mask2former": Measured(72.27, _SCENES),
}
"""Our own figures by recipe; docs/log.md has the run of each."""
