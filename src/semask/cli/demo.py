"""`semask demo`: train on drawn scenes, evaluate, and segment scenes of the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semask.checkpoints.record import RECORD, read_record
from semask.cli.flags import parse
from semask.recipes import from_dict, get_recipe
from semask.text import console

RECIPE = "scenes/semask-micro-fpn"


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and run the demo."""
    parse(demo, arguments, prog="semask demo")


def demo(*, out: Path = Path("runs/demo"), steps: int | None = None) -> None:
    """Train a small SeMask-FPN on procedurally drawn scenes, evaluate it and segment held-out scenes.

    This takes a few minutes on two CPU cores. An earlier demo in the same folder is replaced, but no other run.

    Args:
        out: Folder for the checkpoint, metrics.json, curves.png and overview.png.
        steps: Optimiser steps, 1 or more; None takes the recipe's.
    """
    from semask.checkpoints import store
    from semask.cli.evaluate import EvaluateOptions, evaluate
    from semask.training.drawing import draw
    from semask.training.options import RunOptions
    from semask.training.prepare import holds_run
    from semask.training.run import train

    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps} is no training; give 1 or more, or leave it out for the recipe's")
    # an earlier demo is replaced, another run never
    if holds_run(out):
        record = out / RECORD
        name = from_dict(read_record(record)["recipe"]).name if record.exists() else "an unknown recipe"
        if name != RECIPE:
            raise ValueError(f"{str(out)!r} holds a run of {name}, which the demo would replace; give another --out")
    recipe = get_recipe(RECIPE)
    # a shorter run with at least one evaluation and a shorter warm-up
    if steps is not None:
        evaluations, warmup = min(steps, recipe.train.eval_every), min(recipe.optim.warmup_steps, steps // 2)
        changes = {"train.steps": steps, "train.eval_every": evaluations, "optim.warmup_steps": warmup}
        recipe = recipe.override(changes)
    # train and evaluate
    result = train(recipe, RunOptions(out=out, overwrite=True))
    bundle = store.load(result.best)
    draw(result, bundle)
    evaluate(result.best, bundle, EvaluateOptions(out=out / "metrics.json"))
    screen = console()
    screen.print(f"checkpoint  {result.best}")
    screen.print(f"curves      {out / 'curves.png'}")
    screen.print(f"figure      {out / 'overview.png'}: image | truth | prediction | semantic prior")
