"""`semask.predict`: a checkpoint or a model over images of any number and size."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from semask.checkpoints import store
from semask.checkpoints.record import read_recipe, weights_of
from semask.data.classes import Classes
from semask.data.renamed import check_names
from semask.exports.runtime import ExportedModel
from semask.files import check_writable
from semask.inference.colours import numbered_classes
from semask.inference.engine import Engine
from semask.inference.from_recipe import scale_warning
from semask.inference.manifest import digest
from semask.inference.runner import Summary, Work, run
from semask.inference.sinks import FILES, FOLDERS
from semask.inference.sources import find_items
from semask.models.model import SegmentationModel
from semask.ops.device import pick_device
from semask.recipes import DataRecipe, TestRecipe
from semask.recipes.bounds import check_flags
from semask.recipes.prediction import PredictOptions, Shard
from semask.text import console

logger = logging.getLogger(__name__)


def predict(
    model: SegmentationModel | ExportedModel | str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    options: PredictOptions | None = None,
    test: TestRecipe | None = None,
    classes: Classes | str | Path | None = None,
    **changes: Any,
) -> Summary:
    """Segment images, rasters and videos, and write label maps and overlays below a folder.

    A second call with the same arguments goes on where the first one ended. Images are read and results written in
    threads beside the model; rasters of more than 16 megapixels are read by region, so that memory does not depend on
    their height.

    Args:
        model: A checkpoint's folder, an exported file, or a model.
        images: Files, folders, patterns, text files with a path per line, zip or tar files, videos, image sequences,
            cameras, addresses of streams.
        out: Folder for the results; None is that of `options`.
        options: What is written, and how; fields of `PredictOptions` may also be given by name.
        test: Windows, scales and flips; None: the recipe's.
        classes: Names and colours for the results, or the JSON file or name of a table; None: the model's own.
        **changes: Fields of `PredictOptions`, of `TestRecipe`, and `base_scale` and `base_ratio` of `DataRecipe`, in
            place of those of the arguments above.

    Returns:
        The counts of images that are done and failed, and why.

    Raises:
        ValueError: An option is out of range, nothing is an image, or `out` has results of another model or options.
        OSError: Results cannot be written; what is done is kept.

    >>> import semask, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (90, 60)).save(f"{folder}/a.png")
    ...     model = semask.build("scenes/semask-micro-fpn").eval()
    ...     summary = semask.predict(model, f"{folder}/a.png", f"{folder}/out", confidence=True)
    >>> summary.done, summary.failed
    (1, {})
    """
    # options by name
    names = {kind: {field.name for field in fields(kind)} for kind in (PredictOptions, TestRecipe)}
    known = {*names[PredictOptions], *names[TestRecipe], "base_scale", "base_ratio"}
    if unknown := sorted(changes.keys() - known):
        raise ValueError(f"no options of a prediction: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    own = {name: value for name, value in changes.items() if name in names[PredictOptions]}
    options = _options(options, out, own)
    shard = Shard.parse(options.shard)
    if not images:
        raise ValueError("predict needs images: files, folders, patterns, archives, videos (IMAGES)")
    check_writable(options.out)
    # what there is to do, before the model is built
    given = [images] if isinstance(images, str | Path) else [*images]
    earlier = [options.out / name for name in FOLDERS] + [path for name in FILES for path in options.out.glob(name)]
    recipe = read_recipe(Path(model)) if isinstance(model, str | Path) else model.recipe
    data = recipe.data if recipe else DataRecipe()
    layout = data.images.partition("/")[0], data.labels.partition("/")[0]
    items, notes = find_items(given, leave_out=earlier, layout=layout)
    screen = console(stderr=True)
    for note in notes:
        screen.print(note)
    model, weights = _model(model, options)
    # the recipe's reading and predictor, and what differs
    recipe_data = model.recipe.data if model.recipe else DataRecipe(channels=len(model.mean))
    recipe_test = model.recipe.test if model.recipe else TestRecipe()
    scale = {name: changes[name] for name in ("base_scale", "base_ratio") if name in changes}
    data = replace(recipe_data, **scale)
    by_name = {name: value for name, value in changes.items() if name in names[TestRecipe]}
    if "window" in by_name:
        by_name = {"mode": "sliding", **by_name}
    test = replace(test or recipe_test, **by_name)
    if warning := scale_warning(recipe_data, data, test):
        logger.warning(warning)
    engine = Engine(
        model, _classes(model, classes), options, data=data, test=test, weights=weights,
        log=lambda text: screen.print(text, style="yellow"),
    )  # fmt: skip
    if options.plan:
        for item in items[shard.number - 1 :: shard.total]:
            engine.show_plan(item)
        return Summary(0, 0, {}, {}, options.out)
    summary = run(engine, items, work=_work(engine))
    # a shard may have no image
    if not summary.done + summary.earlier and (summary.skipped or (summary.failed and not options.keep_going)):
        shown = ", ".join(repr(str(each)) for each in given)
        source, reason = next(iter({**summary.failed, **summary.skipped}.items()))
        raise ValueError(
            f"none of the {len(items)} files in {shown} is an image that can be segmented; first {source}: {reason}"
        )
    return summary


def _options(options: PredictOptions | None, out: str | Path | None, changes: dict[str, Any]) -> PredictOptions:
    """Options with a folder for the results and changes by name.

    Raises:
        ValueError: The folder is missing, or a value is out of range.
    """
    if out is not None:
        changes = {"out": Path(out), **changes}
    elif options is None:
        raise ValueError("predict needs a folder for the results: out=…")
    options = replace(options, **changes) if options else PredictOptions(**changes)
    check_flags(options)
    if options.end is not None and options.end <= options.start:
        raise ValueError(f"--end {options.end:g} must be later than --start {options.start:g} [s]")
    return options


def _model(
    given: SegmentationModel | ExportedModel | str | Path, options: PredictOptions
) -> tuple[SegmentationModel | ExportedModel, str]:
    """The model in evaluation mode on its device, and a hash of its weights."""
    if isinstance(given, ExportedModel):
        return given, digest([given.path])
    if isinstance(given, SegmentationModel):
        return given.eval(), weights_hash(given)
    bundle = store.load(given, device=pick_device(options.device))
    return bundle.model, digest([weights_of(Path(given))])


def weights_hash(model: SegmentationModel) -> str:
    """SHA-256 of a model's tensors, by their names."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        # bfloat16 has no type in NumPy
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _classes(model: SegmentationModel | ExportedModel, given: Classes | str | Path | None) -> Classes:
    """Names and colours of the results: those of a table that fits the model, the model's own, or numbers."""
    own = model.classes or numbered_classes(model.num_classes)
    if given is None:
        return own
    table = given if isinstance(given, Classes) else Classes.load(given)
    fix = "give a table of the same classes in the same order (--data.classes)"
    # a checkpoint without names fits any table of its length
    trained = table.names if model.classes is None and len(table) == model.num_classes else own.names
    if changed := check_names(trained, table.names, places=("the checkpoint", "the table"), fix=fix):
        logger.warning(changed)
    return table


def _work(engine: Engine) -> Work | None:
    """The work of a cluster; None is done here."""
    if engine.options.engine == "local":
        return None
    from semask.inference.cluster import ClusterWork

    return ClusterWork(engine)
