"""`semask demo`: train on drawn scenes, measure, and segment scenes the model has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semask.checkpoints.record import RECORD, read_record
from semask.cli.flags import parse
from semask.recipes import from_dict, get

if TYPE_CHECKING:
    from semask.checkpoints.store import Bundle
    from semask.visualization.figures import Row

RECIPE = "scenes/semask-micro-fpn"
PICTURES = 8


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and show the whole way."""
    parse(demo, arguments, prog="semask demo")


def demo(*, out: Path = Path("runs/demo"), steps: int | None = None) -> None:
    """Train a small SeMask-FPN on procedurally drawn scenes, evaluate it and segment held-out scenes.

    Takes a few minutes on two processor cores. An earlier demo in the same folder is replaced, no other run.

    Args:
        out: Folder for the checkpoint, metrics.json, curves.png and figure.png.
        steps: Optimiser steps; None takes the recipe's.
    """
    from rich.console import Console

    spare_other_runs(out)
    from semask.checkpoints import store
    from semask.cli.evaluate import EvaluateOptions, evaluate
    from semask.cli.train import train
    from semask.data.dataset import classes_of
    from semask.training.history import read_history
    from semask.training.options import RunOptions
    from semask.visualization.figures import figure_grid, training_curves

    recipe = get(RECIPE)
    if steps is not None:
        length = dataclasses.replace(recipe.train, steps=steps, eval_every=min(steps, recipe.train.eval_every))
        optim = dataclasses.replace(recipe.optim, warmup_steps=min(recipe.optim.warmup_steps, steps // 2))
        recipe = dataclasses.replace(recipe, train=length, optim=optim)
    result = train(recipe, RunOptions(out=out, overwrite=True))
    bundle = store.load(result.best)
    figure_grid(out / "figure.png", segment_scenes(bundle), classes_of(recipe.data))
    training_curves(out / "curves.png", read_history(out))
    evaluate(result.best, bundle, EvaluateOptions(out=out / "metrics.json"))
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"checkpoint  {result.best}")
    console.print(f"curves      {out / 'curves.png'}")
    console.print(f"pictures    {out / 'figure.png'}: image | truth | prediction | semantic prior")


def spare_other_runs(out: Path) -> None:
    """Raise a ValueError if the folder holds a run that is not known to be of the demo's recipe."""
    from semask.training.prepare import holds_run

    if not holds_run(out):
        return
    record = out / RECORD
    name = from_dict(read_record(record)["recipe"]).name if record.exists() else "an unknown recipe"
    if name != RECIPE:
        raise ValueError(f"{str(out)!r} holds a run of {name}, which the demo would replace; give another --out")


def segment_scenes(bundle: Bundle) -> list[Row]:
    """Segment the first scenes of the validation split."""
    import torch

    from semask.data.dataset import validation_set
    from semask.inference import build_predictor, build_prior
    from semask.visualization.figures import Row

    model, recipe, _ = bundle
    predictor = build_predictor(model, recipe.test, recipe.data)
    prior = build_prior(model, recipe.test, recipe.data)
    scenes = validation_set(recipe.data)
    rows = []
    with torch.inference_mode():
        for index in range(PICTURES):
            image, label, _ = scenes[index]
            batch = image[None]
            rows.append(Row(image, label, predictor.labels(batch)[0], prior.labels(batch)[0]))
    return rows
