"""What must be right before the first step: classes, data, pretrained weights, the run's folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from semask.checkpoints.pretrained import FROM_HUB, check_normalisation, load_encoder
from semask.checkpoints.record import RECORD, read_record, write_record
from semask.data.classes import Classes
from semask.data.dataset import classes_of
from semask.files import check_writable
from semask.models.meta import meta_twin
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, from_dict, to_dict
from semask.recipes.folder import PLACEHOLDER_CLASSES
from semask.recipes.record import flatten
from semask.training.history import FOLDER
from semask.training.options import LAST_CHECKPOINT, RunOptions, resumed_checkpoint

logger = logging.getLogger(__name__)
LOCK = ".lock"
CHOICE = "automatic.json"
"""File of the settings that a run chose."""

MOVABLE = {"data.root", "model.encoder.weights", "train.checkpoint_every"}
"""Fields that change no result: where files lie, and how often a run is saved."""
LENGTH = {"train.steps", "train.early_stop"}
"""Fields that a resumed run may change besides: when it ends."""


def fit_classes(recipe: Recipe) -> tuple[Recipe, Classes]:
    """Return the recipe and its classes; some recipes take their class count from the class table."""
    classes = classes_of(recipe.data)
    found, wanted = len(classes.names), recipe.model.num_classes
    if recipe.data.classes_from_data:
        if wanted not in (PLACEHOLDER_CLASSES, found):
            raise ValueError(
                f"the class table has {found} classes, --model.num-classes is {wanted}; leave the flag out, or give "
                "another table with --data.classes"
            )
        return recipe.override({"model.num_classes": found}), classes
    if found != wanted:
        raise ValueError(
            f"{recipe.name} is for {wanted} class(es), its class table has {found}; use --model.num-classes {found} or "
            "give another table with --data.classes"
        )
    return recipe, classes


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a run's folder, so that no other run writes there.

    Raises:
        ValueError: The folder cannot be written to, or another run holds it.
    """
    check_writable(out)
    if getattr(rank_zero_only, "rank", 0):  # the first process holds it for all
        yield
        return
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {str(out)!r}; wait for it, or choose another folder with --out"
        ) from error
    # what a killed run was writing
    for folder in (out, out / "best", out / "last"):
        for part in folder.glob(".*.tmp"):
            part.unlink(missing_ok=True)
    try:
        yield
    finally:
        lock.release()
        if made and {path.name for path in out.iterdir()} <= {LOCK}:
            shutil.rmtree(out, ignore_errors=True)  # refused before anything was written


def check_batch_norms(model: SegmentationModel, crop: tuple[int, int]) -> None:
    """Refuse training with one image per step where a BatchNorm would see one value per channel.

    Such values have no variance: heads that pool the whole map (PSPNet, DeepLabV3+, UPerNet), and tiny crops.
    """
    try:
        meta_twin(model).train()(torch.zeros(1, len(model.mean), *crop, device="meta"))
    except Exception as error:
        if "more than 1 value per channel" not in str(error):
            return  # a model that does not run without values, or not at this size
        raise ValueError(
            "with one image per step a BatchNorm of this model sees one value per channel, which has no variance; use "
            "--train.batch-size 2 or more, fewer --train.accumulate, or a larger --data.crop"
        ) from error


def warn_of_warm_up(recipe: Recipe) -> None:
    """Warn when the run ends before its warm-up does."""
    warmup, steps = recipe.optim.warmup_steps, recipe.train.steps
    if warmup >= steps:
        logger.warning(
            "the warm-up takes %d steps and the run has only %d, so the learning rate never rises to --optim.lr; "
            "shorten it, for example with --optim.warmup-steps %d",
            *(warmup, steps, steps // 20),
        )


def load_pretrained(model: SegmentationModel, recipe: Recipe, *, console: Console, from_scratch: bool) -> None:
    """Fill the encoder with the weights that the recipe names; `from_scratch` leaves it random.

    The message names the flags of a local file, and of training without.
    """
    spec = recipe.model.encoder
    if from_scratch and spec.weights not in (None, FROM_HUB):
        raise ValueError(f"--from-scratch would leave the weights {spec.weights!r} aside; use one of the two, not both")
    if spec.weights is None or from_scratch:
        if recipe.train.freeze_encoder:
            logger.warning("the encoder is frozen with random weights; its features have little to do with any image")
        return
    check_normalisation(spec.name, recipe.model.mean, recipe.model.std)
    console.print(str(load_encoder(model.encoder, spec.name, spec.weights)))


def find_checkpoint(out: Path, recipe: Recipe, options: RunOptions, *, first: bool) -> Path | None:
    """Return the checkpoint to resume from, None to begin; a ValueError protects an earlier run in `out`.

    Only the `first` rank looks for an earlier run: the others might find its own traces.
    """
    path = resumed_checkpoint(out, options)
    if path is None:
        if first and holds_run(out) and not options.overwrite:
            saved = (out / LAST_CHECKPOINT).exists()
            goes_on = "go on with --resume, replace" if saved else "it was stopped before its first checkpoint; replace"
            raise ValueError(
                f"{str(out)!r} holds a run already; {goes_on} it with --overwrite, or choose another folder with --out"
            )
        return None
    if not path.is_file():
        raise ValueError(
            f"there is no checkpoint {str(path)!r} to resume from; give --resume the last.ckpt of a run, or begin "
            "again with --overwrite where a run was stopped before its first checkpoint"
        )
    if first and holds_run(out) and path.resolve().parent != out.resolve():
        raise ValueError(
            f"{str(out)!r} holds another run than the one of {str(path)!r}, which going on would overwrite; go on in "
            f"its own folder with --out {path.parent}, or give a new folder"
        )
    _check_same_recipe(path.parent / RECORD, recipe)
    try:
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        whole, done = all(state[part] for part in PARTS), int(state["global_step"])
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, UnpicklingError):
        whole, done = False, 0
    if not whole:
        raise ValueError(
            f"{str(path)!r} is no whole last.ckpt of a run; give --resume that of another folder, or begin again with "
            "--overwrite"
        )
    if done > recipe.train.steps:
        raise ValueError(
            f"{str(path)!r} is of step {done}; give at least as many, not --train.steps {recipe.train.steps}"
        )
    return path


PARTS = ("pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
"""Parts of last.ckpt without which a run would begin anew in part."""


def holds_run(out: Path) -> bool:
    """Say whether the folder holds what a run has left."""
    return (out / RECORD).exists() or (out / LAST_CHECKPOINT).exists()


def open_folder(out: Path, recipe: Recipe | None, classes: Classes | None, *, resume: Path | None) -> None:
    """Make the run's folder with its recipe.json.

    A new run removes what an earlier one left there; one that resumes from elsewhere takes the weights over, since
    best/ may stay the best.
    """
    if resume is None and holds_run(out):
        for name in (LAST_CHECKPOINT, CHOICE):
            (out / name).unlink(missing_ok=True)
        for name in (FOLDER, "best", "last"):
            shutil.rmtree(out / name, ignore_errors=True)
    if resume is not None:
        for name in ("best", "last"):
            if (resume.parent / name).is_dir() and not (out / name).exists():
                part = out / f".{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(resume.parent / name, part)
                part.replace(out / name)
    write_record(out, recipe, classes)


def _check_same_recipe(record: Path, recipe: Recipe) -> None:
    if not record.is_file():
        return
    before = read_record(record)["recipe"]
    differing = differences(from_dict(before), recipe, aside=LENGTH) if before is not None else []
    if differing:
        listed = ", ".join(differing[:5])
        best = record.parent / "best"
        raise ValueError(
            f"a resumed run needs the recipe that it began with: {listed}. It is in {str(record)!r}. To train on with "
            f"other settings, start a new run from its weights: --init {best} --out FOLDER; --train.steps may grow"
        )


def differences(before: Recipe, recipe: Recipe, *, aside: Collection[str] = ()) -> list[str]:
    """Return in words what makes a recipe another one than before; MOVABLE fields and those `aside` do not count."""
    then, now = flatten(to_dict(before)), flatten(to_dict(recipe))
    return [
        f"{key} was {then[key]!r}, is {now[key]!r}"
        for key in now
        if then[key] != now[key] and key not in {*MOVABLE, *aside}
    ]
