"""`semask.export`: a model as a file for other runtimes, written only once it has shown that it is the same."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semask.checkpoints import store
from semask.checkpoints.predict import weights_hash
from semask.data.dataset import validation_set
from semask.data.readers.raster import read_raster
from semask.data.scenes.scene import draw_scene
from semask.exports import verify
from semask.exports.metadata import FILES, RECORD, Form, Metadata
from semask.exports.runtime import ExportedModel, open_export
from semask.exports.write import ANY_SIZE, Plan, write
from semask.files import atomic_folder, check_writable, write_json
from semask.inference.sources import find_items
from semask.models.model import SegmentationModel
from semask.ops.device import cpu_model, versions
from semask.ops.resize import to_float
from semask.recipes import DataRecipe, Recipe, TestRecipe
from semask.recipes.bounds import check_flags
from semask.recipes.export import PAGE, RECEIPT, ExportOptions, needs_scores, rescales
from semask.visualization.pages.export import write_export_page

logger = logging.getLogger(__name__)
MOST_IMAGES = 8
"""Images of the proof."""
SIDE = 1024
"""Larger images of the proof are cut to this side [px]: the eager model, too, has to segment them."""


def export(
    model: SegmentationModel | str | Path,
    out: str | Path,
    *,
    options: ExportOptions | None = None,
    data: DataRecipe | None = None,
    test: TestRecipe | None = None,
    **changes: Any,
) -> Path:
    """Write a model as one file for another runtime, with a receipt of its proof, or nothing.

    The file takes images and gives labels, probabilities or scores; normalising, padding and resizing are inside.
    Scale, windows and flips of the recipe stay outside and travel in the file's metadata, so that `semask.load`,
    `semask predict` and `semask evaluate` take the file for the model.

    Args:
        model: A model, or a checkpoint's folder.
        out: Folder for the file (model.onnx, model.xml, …), recipe.json, export.json and export.html.
        options: What is written, and what it must prove; fields of `ExportOptions` may also be given by name.
        data: Reading of images, and labelled ones for mIoU and for the promises of smaller precisions; None: the
            recipe's.
        test: Windows, scales and flips that travel with the file; None: the recipe's.
        **changes: Fields of `ExportOptions` that differ.

    Returns:
        The file.

    Raises:
        ValueError: Options contradict, the format cannot hold this model, or the file is not the same model. Nothing is
            written then.

    >>> import semask, tempfile, torch
    >>> model = semask.create_model("test_efficientnet", "segformer_mmseg", num_classes=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = semask.export(model, f"{folder}/export", size=(64, 96))
    ...     semask.load(file).predict(torch.zeros(3, 64, 96, dtype=torch.uint8)).shape
    torch.Size([64, 96])
    """
    options = replace(options or ExportOptions(), **changes)
    check_flags(options)
    out = Path(out)
    _require_free(out, overwrite=options.overwrite)
    if not isinstance(model, SegmentationModel):
        loaded = store.load(model).model
        if not isinstance(loaded, SegmentationModel):
            raise ValueError(f"{str(model)!r} is an exported file already; give the checkpoint that it was made of")
        model = loaded
    model = model.cpu().eval()
    recipe = model.recipe or Recipe(name="own parts", data=DataRecipe(channels=len(model.mean)))
    recipe = replace(recipe, data=data or recipe.data, test=test or recipe.test)
    form = _form(model, recipe, options)
    images = _images(options, recipe.data, form)
    labelled = _labelled(options, recipe)
    with atomic_folder(out) as part:
        part.mkdir(parents=True)
        metadata = Metadata(form, recipe, model.classes)
        plan = Plan(model, metadata, options, images, labelled)
        notes = write(plan, part)
        write_json(part / RECORD, metadata.record())
        exported = open_export(part / FILES[form.format], options.threads)
        receipt = _prove(model, exported, plan) | {"notes": notes}
        receipt["bytes"] = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        receipt["parameters_bytes"] = sum(value.nbytes for value in model.state_dict().values())
        write_json(part / RECEIPT, receipt)
        write_export_page(part / PAGE, receipt)
    return out / FILES[form.format]


def _require_free(out: Path, *, overwrite: bool) -> None:
    """Check that a folder can take an export: it is new or empty, or holds an earlier one that may be replaced.

    Raises:
        ValueError: It holds something else, or cannot be written.
    """
    check_writable(out, flag="OUT")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / RECEIPT).is_file():
            raise ValueError(f"{str(out)!r} is there and no earlier export; give a new folder")
        if not overwrite:
            raise ValueError(f"{str(out)!r} holds an earlier export; give --overwrite, or another folder")


def _form(model: SegmentationModel, recipe: Recipe, options: ExportOptions) -> Form:
    """The graph's form: what the options leave open follows from the recipe.

    Raises:
        ValueError: Options contradict, or the format cannot do it.
    """
    scores, resized = needs_scores(recipe.data, recipe.test), rescales(recipe.data, recipe.test)
    output = options.output or ("raw" if scores else "labels")
    deep = recipe.data.value_range is not None or recipe.data.channels not in (1, 3)
    # other windows, scales and flips may be chosen for files that give scores
    given = options.input or ("bytes" if output in ("labels", "confidence") and not (resized or deep) else "floats")
    if given == "bytes" and (resized or deep):
        raise ValueError(
            "--input bytes takes pixels as 8-bit files hold them, and this recipe resizes images or reads other "
            "values; use --input floats"
        )
    if options.precision != "float32" and options.format in ("torch", "executorch"):
        raise ValueError(f"--format {options.format} is written in float32; use onnx or openvino for smaller files")
    if options.precision == "bf16" and options.format != "openvino":
        raise ValueError("ONNX Runtime computes in bfloat16 on no CPU; use --format openvino, or --precision fp16")
    size = options.size or model.fixed_size
    if model.fixed_size is not None and options.size not in (None, model.fixed_size):
        raise ValueError(f"this encoder takes images of {model.fixed_size} px alone; leave out --size")
    if options.format not in ANY_SIZE and size is None:
        size = recipe.data.crop
        logger.warning("%s files take one size: %d×%d px, the training crop (--size)", options.format, *size)
    batch = options.batch or (None if options.format in ANY_SIZE else 1)
    if model.num_classes > 256 and output in ("labels", "confidence"):
        raise ValueError(f"labels are bytes, and this model has {model.num_classes} classes; use --output raw")
    with torch.inference_mode():
        main = model.decode_main(torch.zeros(1, len(model.mean), *(model.fixed_size or (64, 64))))
    align_corners = getattr(main, "align_corners", False)
    return Form(
        format=options.format,
        output=output,
        input=given,
        size=size,
        batch=batch,
        precision=options.precision,
        num_classes=model.num_classes,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        size_multiple=model.size_multiple,
        fixed_size=model.fixed_size,
        scores_are_logits=model.scores_are_logits,
        align_corners=align_corners,
        weights=weights_hash(model),
    )


def _images(options: ExportOptions, data: DataRecipe, form: Form) -> list[Tensor]:
    """Images of the proof as floats c H W in [0, 1]: those given, else drawn scenes.

    Raises:
        ValueError: A given file cannot be read.
    """
    if options.images:
        items, _ = find_items([*options.images])
        chosen = items[:: max(1, len(items) // MOST_IMAGES)][:MOST_IMAGES]
        found = [to_float(read_raster(item.source, data))[:, :SIDE, :SIDE] for item in chosen if not item.is_video]
        if not found:
            raise ValueError("--images: no file is an image that can be read; leave it out to use drawn scenes")
        return found
    size = form.size or (240, 320)
    scenes = [torch.from_numpy(draw_scene(number, size)[0]).permute(2, 0, 1) for number in range(2)]
    channels = data.channels
    return [to_float(scene.repeat(-(-channels // 3), 1, 1)[:channels]) for scene in scenes]


def _labelled(options: ExportOptions, recipe: Recipe) -> Any | None:
    """Labelled images for mIoU, or None where there are none.

    Raises:
        ValueError: A smaller precision has no images to prove its promise on.
    """
    data = recipe.data
    if data.kind == "scenes" or (data.root is not None and Path(data.root).exists()):
        return validation_set(data, options.split)
    if options.precision != "float32":
        raise ValueError(
            f"--precision {options.precision} promises an mIoU, which needs labelled images; give --data.root"
        )
    return None


def _prove(model: SegmentationModel, exported: ExportedModel, plan: Plan) -> dict[str, Any]:
    """The receipt: agreement, mIoU, speed, versions.

    Raises:
        ValueError: The file is not the model, or breaks its promise.
    """
    options, form, recipe = plan.options, plan.metadata.form, plan.metadata.recipe
    cases = verify.compare(model, exported, plan.images)
    if options.precision == "float32":
        verify.check(cases)
    found = plan.score(exported) if plan.labelled is not None else None
    if found is not None and options.precision != "float32":
        limits = {"max_drop": options.max_drop, "max_class_drop": options.max_class_drop}
        if broken := verify.check_promise(found, **limits):
            raise ValueError(f"--precision {options.precision} breaks its promise: {broken}; nothing is written")
    pixels, differ = (sum(getattr(case, name) for case in cases) for name in ("pixels", "differ"))
    largest = [case.largest for case in cases if case.largest is not None]
    return {
        "file": FILES[form.format],
        "recipe": recipe.name,
        "form": plan.metadata.record()["export"],
        "agreement": 1 - differ / pixels,
        "largest_difference": max(largest) if largest else None,
        "cases": [case._asdict() for case in cases],
        "miou": found,
        "promise": {"max_drop": options.max_drop, "max_class_drop": options.max_class_drop},
        "speed": verify.speed(model, exported, form.size or (256, 256)),
        "versions": versions(),
        "machine": cpu_model(),
    }
