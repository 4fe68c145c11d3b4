"""Check that every recipe's model compiles without a break, with symbolic sizes, and count the graphs of some sizes.

Dynamo traces the models on the meta device, so no number is computed. Recipes whose models are made of the same kinds
of modules are traced once, at the smallest of them, whose stages are cut to two blocks of a kind. Each is traced in a
process of its own, which is ended after a time limit.

    python tools/check_compile.py [NAME…]
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from multiprocessing.connection import Connection

import jaxtyping
import torch
from rich.console import Console
from torch import nn
from torch._dynamo.testing import CompileCounter

from semask import recipes
from semask.models.build import build_on_meta
from semask.models.model import SegmentationModel
from semask.recipes import Recipe

ODD = ((2, 517, 689), (3, 533, 629), (4, 1003, 761))
"""Batch, height and width [px]. Swin's windows tile no map of such images, and no ViT has a position for each token."""
USUAL = ((2, 512, 512), (2, 640, 640), (2, 1024, 2048))
"""Windows tile some of their maps."""
LIMIT = 600
"""Time of one core for one architecture [s]."""
BLOCKS = 2
"""Blocks of a kind that are left in a row of them: the second reads what the first has made of symbolic sizes."""
DECODER_LAYERS = 3
"""Of mask classifiers, which read a level of the pyramid each, in turn."""
Kind = tuple[str, frozenset[tuple[str, object]]]


def shallow(recipe: Recipe) -> Recipe:
    """Return the recipe with few layers, where recipes say how many there are."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    few: dict[str, Any] = {"drop_path": 0.0} if hasattr(encoder, "drop_path") else {}
    if getattr(encoder, "out_layers", None) is not None:
        few["out_layers"] = tuple(range(1, len(encoder.out_layers) + 1))
    encoder = dataclasses.replace(encoder, **few)
    few = {"drop_path": 0.0} if hasattr(decoder, "drop_path") else {}
    if hasattr(decoder, "layers"):
        few["layers"] = min(decoder.layers, DECODER_LAYERS)
    pixel = getattr(decoder, "pixel_decoder", None)
    if hasattr(pixel, "layers"):
        few["pixel_decoder"] = dataclasses.replace(pixel, layers=min(pixel.layers, BLOCKS))
    decoder = dataclasses.replace(decoder, **few)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder))


def cut(model: SegmentationModel) -> SegmentationModel:
    """Leave the last `BLOCKS` modules of a kind in every sequence of them, in place."""
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        if getattr(model.encoder, "out_layers", None) and sequence is model.encoder.backbone.blocks:
            continue  # few already, and each gives a map
        later: Counter[str] = Counter()
        for name, child in reversed(list(sequence.named_children())):
            later[repr(child)] += 1
            if later[repr(child)] > BLOCKS:
                del sequence._modules[name]
    return model


def kind(module: nn.Module) -> Kind:
    """Return what decides the graph of a module: its class and its attributes, but for the sizes among these."""
    attributes = {name: _bare(value) for name, value in vars(module).items() if not name.startswith("_")}
    tensors = {**module._parameters, **module._buffers}
    return type(module).__qualname__, frozenset(
        (*attributes.items(), *((name, value is None) for name, value in tensors.items()))
    )


def _bare(value: object) -> object:
    """Return a choice as it is, and of numbers whether they are 0 or 1, which is often one."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value if value in {0, 1} else type(value).__name__
    if isinstance(value, tuple | list):
        return tuple(map(_bare, value))
    return getattr(value, "__qualname__", type(value).__qualname__)


def group(names: Iterable[str]) -> list[list[str]]:
    """Return the names by the kinds of modules in their models, of each the one with the fewest modules first."""
    found: dict[frozenset[Kind], list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        modules = [*build_on_meta(shallow(recipes.get_recipe(name))).modules()]
        found[frozenset(map(kind, modules))].append((len(modules), name))
    return [[name for _, name in sorted(same)] for same in found.values()]


def graphs(name: str) -> tuple[int, int]:
    """Return how many graphs a recipe's model needs for odd sizes, and how many more for usual ones.

    What cannot be traced raises.
    """
    counter = CompileCounter()
    model = cut(build_on_meta(shallow(recipes.get_recipe(name))))
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    counts: list[int] = []
    for sizes in (ODD, USUAL):
        with torch.no_grad():
            for batch, *size in sizes:
                images = torch.empty(batch, 3, *(model.fixed_size or size), device="meta")
                compiled(images)
        counts.append(int(counter.frame_count))
    return counts[0], counts[1] - counts[0]


def trace(name: str, answers: Connection) -> None:
    """Send what was found out about a recipe: its numbers of graphs, or a failure; past the limit, nothing."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    try:
        answers.send(graphs(name))
    except Exception as error:  # whatever Dynamo stumbles over is the finding
        answers.send(" ".join(str(error).split())[:600])


def verdict(name: str) -> tuple[bool, str]:
    """Trace a recipe in a process of its own; return whether that went well, and what was found."""
    context = multiprocessing.get_context("fork")  # torch is imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=trace, args=(name, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = f"ended without an answer, as it is after {LIMIT} s"
    process.join()
    if isinstance(found, str):
        return False, f"FAILS: {found}"
    return True, f"graphs: {found[0]} for odd sizes, {found[1]} more for usual ones"


def main() -> int:
    """Check all recipes, or those named; return 1 if one does not compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    console = Console(soft_wrap=True)
    failures = 0
    for names in group(sys.argv[1:] or recipes.list_recipes()):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        well, found = verdict(names[0])
        failures += not well
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        console.print(f"{found} ({seconds:.0f} s of one core): {' '.join(names)}", markup=False)
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
