"""Other libraries' models, one file for each, beside ours: random weights, the recipe's classes, no downloads."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from semask.benchmark.contender import Contender
from semask.recipes import Recipe

PEERS = {
    "transformers": "transformers",
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
}
"""What each library is imported as; the file of that name here has `peer(recipe, size)`."""


def peer(library: str, recipe: Recipe, size: tuple[int, int]) -> Contender:
    """Return the model of a library that stands beside a recipe, for images of a size (height, width) [px].

    Raises:
        ValueError: the library is not installed, or has no answer to this recipe.
    """
    try:
        importlib.import_module(PEERS[library])
    except ImportError as error:
        raise ValueError(
            f"--against {library} needs the package {PEERS[library]} ({error}); "
            'install what peers need with `pip install "semask[peers]"`'
        ) from error
    make: Callable[[Recipe, tuple[int, int]], Contender]
    make = importlib.import_module(f"semask.benchmark.peers.{library}").peer
    return make(recipe, size)
