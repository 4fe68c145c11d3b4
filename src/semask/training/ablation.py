"""Training all rows of an ablation table with the same seeds and the same budget."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from semask.checkpoints.pretrained import FROM_HUB
from semask.checkpoints.record import RECORD, read_record
from semask.files import atomic_write
from semask.losses.build import build_loss
from semask.models.build import build_on_meta
from semask.models.flops import parameters
from semask.recipes import Published, Recipe, from_dict
from semask.recipes.ablations import Table, check_seeds
from semask.training.frozen import check_frozen
from semask.training.options import LAST_CHECKPOINT, RunOptions
from semask.training.prepare import differences, fit_classes
from semask.training.run import train

SCORE = "score.json"
"""What a finished run of a table leaves in its folder."""


class Run(NamedTuple):
    """One training of a table: the row, its seed, its recipe and its folder."""

    row: int
    label: str
    seed: int
    recipe: Recipe
    folder: Path


def plan(table: Table, seeds: Sequence[int], out: Path) -> list[Run]:
    """Return all runs, seed by seed, so that a table that is cut short holds whole pairs.

    Models are evaluated once, at the end: every row is judged by its last weights, none by its luckiest.
    """
    check_seeds(seeds)
    runs = []
    for seed in seeds:
        for number, row in enumerate(table.rows):
            length = replace(row.recipe.train, seed=seed, eval_every=row.recipe.train.steps)
            folder = out / f"{number + 1}-{slug(row.label)}" / f"seed-{seed}"
            recipe = replace(row.recipe, train=length, published=Published())
            runs.append(Run(number, row.label, seed, recipe, folder))
    return runs


def run_table(
    table: Table, seeds: Sequence[int], options: RunOptions, *, out: Path, progress: Callable[[str], None]
) -> list[list[float]]:
    """Train what is not finished yet and return mIoU by row and seed; `progress` gets each run's name.

    Runs lie in `out`, one folder each. Finished ones are taken as they are if their recipes agree, unless
    `options.overwrite` asks to begin anew. `check_rows` comes first.
    """
    runs = plan(table, seeds, out)
    scores: list[list[float]] = [[] for _ in table.rows]
    for number, run in enumerate(runs, start=1):
        score = None if options.overwrite else finished_score(run)
        progress(
            f"run {number} of {len(runs)}: {run.label}, seed {run.seed}" + (", finished" if score is not None else "")
        )
        scores[run.row].append(train_run(run, options) if score is None else score)
    return scores


def check_rows(table: Table) -> list[int]:
    """Build every row's model without memory, and its loss, and return how many parameters the models have.

    A ValueError names the row that cannot be trained, before any is.
    """
    named = {row.recipe.model.encoder.name for row in table.rows}
    files = {row.recipe.model.encoder.weights for row in table.rows} - {None, FROM_HUB}
    if len(named) > 1 and files:
        raise ValueError(
            f"the rows of this table have backbones of their own ({', '.join(sorted(named))}), which one file of "
            "weights cannot fill; leave --model.encoder.weights out, or use --from-scratch"
        )
    counts: list[int] = []
    for row in table.rows:
        try:
            counts.append(parameters(build_on_meta(row.recipe)))
            build_loss(row.recipe)
            check_frozen(row.recipe, 1)
        except ValueError as error:
            raise ValueError(f"row {row.label!r}: {error}") from error
    return counts


def train_run(run: Run, options: RunOptions) -> float:
    """Train one run, or go on with it, leave its score behind and return it."""
    goes_on = (run.folder / LAST_CHECKPOINT).is_file() and not options.overwrite
    result = train(
        run.recipe,
        replace(options, out=run.folder, resume="latest" if goes_on else None, overwrite=not goes_on),
    )
    record = {"label": run.label, "seed": run.seed, "step": result.step, "miou": result.scores.miou}
    with atomic_write(run.folder / SCORE) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # There was one evaluation, so best/ holds the last weights already; a table has many runs.
    (run.folder / LAST_CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(result.last, ignore_errors=True)
    return result.scores.miou


def finished_score(run: Run) -> float | None:
    """Return the mIoU of a run that was finished before, None if it was not; another recipe there is a ValueError."""
    path = run.folder / SCORE
    if not path.is_file():
        return None
    before: Recipe = from_dict(read_record(run.folder / RECORD)["recipe"])
    wanted, _ = fit_classes(run.recipe)
    if differing := differences(before, wanted):
        raise ValueError(
            f"{str(run.folder)!r} holds a finished run of another recipe: {', '.join(differing[:5])}; give another "
            "--out, or replace all runs there with --overwrite"
        )
    return float(json.loads(path.read_text(encoding="utf-8"))["miou"])


def slug(label: str) -> str:
    """Return a label as a folder's name: lower case, words joined by -."""
    words = re.findall(r"[a-z0-9.]+", label.lower().replace("λ", "lambda").replace("α", "alpha"))
    return "-".join(words)
