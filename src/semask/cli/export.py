"""`semask export CHECKPOINT OUT`: a model as a file for other runtimes, with its proof."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagConversionOff, FlagCreatePairsOff, arg

from semask.cli.flags import parse_over, split_name
from semask.cli.scoring import TESTED, begin
from semask.recipes import DataRecipe, TestRecipe
from semask.recipes.export import PAGE, RECEIPT, ExportOptions
from semask.text import console, percent

USAGE = "semask export CHECKPOINT"
FIRST = (
    *("run.format", "run.output", "run.input", "run.size", "run.precision", "run.images", "run.overwrite"),
    *("data.root", "data.classes", "test.mode", "test.window"),
)
"""Flags that `--help` lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The flags: options of the export, labelled images, and the windows, scales and flips that travel along."""

    run: Annotated[ExportOptions, FlagCreatePairsOff, arg(name="")] = dataclasses.field(default_factory=ExportOptions)
    data: Annotated[DataRecipe, FlagConversionOff]
    test: Annotated[TestRecipe, FlagConversionOff]


def main(arguments: Sequence[str]) -> None:
    """Parse `CHECKPOINT OUT [flags]`, export, and print the proof in a few lines."""
    checkpoint, recipe, flags = begin(arguments, usage=USAGE)
    name, flags = split_name(flags, usage=f"{USAGE} OUT", hint="It is the folder for the export.")
    settings, recipe = parse_over(
        Settings,
        recipe,
        flags,
        prog=f"{USAGE} OUT",
        description="Write a model as a file for other runtimes (ONNX, OpenVINO, torch.export, ExecuTorch, Triton, a "
        "web page), once it has shown on images that it is the same model. OUT gets the file, recipe.json and the "
        "proof, export.json and export.html. What takes a checkpoint takes the file: predict, evaluate, bench, …",
        first=FIRST,
        data=TESTED,
    )
    from semask.checkpoints.export import export

    out = Path(name or "OUT")
    path = export(checkpoint, out, options=settings.run, data=recipe.data, test=recipe.test)
    screen = console()
    for line in summary(json.loads((out / RECEIPT).read_text(encoding="utf-8"))):
        screen.print(line)
    screen.print(f"written to {path}; its proof as a page: {out / PAGE}")


def summary(receipt: dict[str, Any]) -> list[str]:
    """Agreement, mIoU, time and size in a line each."""
    pixels = sum(case["pixels"] for case in receipt["cases"])
    differ = sum(case["differ"] for case in receipt["cases"])
    largest = receipt["largest_difference"]
    beyond = "" if largest is None else f"; probabilities differ by {largest:.1e} at most"
    lines = [f"labels agree at {percent(1 - differ / pixels, digits=4)} % of {pixels} pixels{beyond}"]
    if miou := receipt["miou"]:
        drop, low, high = (None if end is None else 100 * end for end in miou["difference"])
        between = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"
        lines.append(
            f"mIoU {percent(miou['model'])} → {percent(miou['file'])} over {miou['images']} images, "
            f"{drop:+.2f} points{between}"
        )
    speed = receipt["speed"]
    lines.append(
        f"×{speed['ratio']:.2f} of PyTorch's time at {speed['size'][0]}×{speed['size'][1]} px; "
        f"{receipt['bytes'] / 2**20:.1f} MiB"
    )
    return [*lines, *receipt["notes"]]
