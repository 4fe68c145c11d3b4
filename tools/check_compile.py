"""Check that every recipe's model compiles without a break, with symbolic sizes, and count the graphs of two sizes.

Dynamo traces the models on the meta device, so no number is computed; recipes whose models are made of the same kinds
of modules, put together by the same choices, are traced once, at the smallest of them.

    python tools/check_compile.py [NAME…]
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Iterable

import jaxtyping
import torch
from rich.console import Console
from torch._dynamo.testing import CompileCounter

from semask import recipes
from semask.build import build_weightless
from semask.model import SegmentationModel
from semask.recipes import Recipe

SIZES = ((2, 517, 689), (3, 533, 629))
"""Batch, height and width [px]; at no stage do Swin's windows tile such maps, which is a graph of its own."""
Architecture = tuple[frozenset[str], tuple[object, ...]]


def architecture(recipe: Recipe, model: SegmentationModel) -> Architecture:
    """Return what decides a graph but for its widths and depths: the kinds of modules, and choices by name."""
    spec = recipe.model
    choices = [
        value
        for part in (spec.encoder, spec.decoder)
        for value in dataclasses.asdict(part).values()
        if isinstance(value, bool)
        or (isinstance(value, str) and value not in {spec.encoder.name, spec.encoder.weights})
    ]
    windows = tuple(size is None for size in spec.encoder.semantic_windows)
    return frozenset(type(module).__qualname__ for module in model.modules()), (*choices, windows)


def group(names: Iterable[str]) -> list[list[str]]:
    """Return the names by architecture, of each the one with the fewest modules first."""
    found: dict[Architecture, list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        recipe = recipes.get(name)
        model = build_weightless(recipe)
        found[architecture(recipe, model)].append((sum(1 for _ in model.modules()), name))
    return [[name for _, name in sorted(group)] for group in found.values()]


def graphs(name: str) -> int:
    """Return how many graphs the model of a recipe needs for both sizes; what cannot be traced raises."""
    torch.compiler.reset()
    counter = CompileCounter()
    model = build_weightless(recipes.get(name))
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    sizes = SIZES if model.fixed_size is None else [(batch, *model.fixed_size) for batch, *_ in SIZES]
    with torch.no_grad():
        for batch, height, width in sizes:
            compiled(torch.empty(batch, 3, height, width, device="meta"))
    return int(counter.frame_count)


def main() -> int:
    """Check all recipes, or those named; return 1 if one does not compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    console = Console()
    failures = 0
    for names in group(sys.argv[1:] or recipes.names()):
        start = time.perf_counter()
        try:
            count = graphs(names[0])
            verdict = f"{count} graph{'s' if count > 1 else ''}"
        except Exception as error:  # whatever Dynamo stumbles over is the finding
            verdict = f"FAILS: {' '.join(str(error).split())[:400]}"
            failures += 1
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"{names[0]}{more}: {verdict} ({time.perf_counter() - start:.0f} s)", markup=False)
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
