"""Exported files beside PyTorch: agreement, largest difference of a probability, and time, family by family.

    python benchmarks/exports.py --out exports.md
    python benchmarks/exports.py --families semask-lite0-fpn --runtimes onnx

Models have random weights. Labels and probabilities are compared at 256², 1 × 241 × 317 and 3 × 199 × 135 px, and at
256² alone where the file has that size. Times are CPU times of one thread at 256² px, model and file in turn: of labels
with their probabilities and, in files for any size, of labels alone, beside `model.labels`. Rows are written as soon as
they are measured.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro

import semask
from semask.benchmark.rounds import cpu_time
from semask.exports.runtime import open_export
from semask.files import write_text
from semask.inference import predictor_of
from semask.models.model import SegmentationModel
from semask.recipes.export import Format

FAMILIES: dict[str, Callable[[], SegmentationModel]] = {
    "semask-lite0-fpn": lambda: semask.build("camvid/semask-lite0-fpn-small"),
    "seg-t-mask": lambda: semask.build("ade20k/seg-t-mask-16"),
    "segformer-b0": lambda: semask.build("ade20k/segformer-b0"),
    "semask-swin-t-fpn": lambda: semask.build("ade20k/semask-swin-t-fpn"),
    "dinov2-s-linear": lambda: semask.build("folder/dinov2-s-linear-frozen"),
    "semask-convnext-t-fpn": lambda: semask.create_model("convnext_tiny", num_classes=150, semantic_layers=True),
    "deeplabv3plus-r50": lambda: semask.create_model("resnet50", "deeplabv3plus", num_classes=150),
    "ocr-hrnet-18": lambda: semask.create_model("hrnet_w18", "ocr", num_classes=150),
    "upernet-swin-t": lambda: semask.build("ade20k/upernet-swin-t"),
    "semask-swin-t-maskformer": lambda: semask.create_model(
        "swin_tiny_patch4_window7_224", "maskformer", num_classes=150, semantic_layers=True
    ),
    "mask2former-swin-t": lambda: semask.build("ade20k/swin-t-mask2former"),
    "msfapn-mask2former-swin-t": lambda: semask.build("ade20k/swin-t-msfapn-mask2former"),
}
SIZES = ((1, 256, 256), (1, 241, 317), (3, 199, 135))
ROUNDS = 9
HEAD = """| model | runtime | sizes | labels agree | largest difference | time, labels and probability | time, labels |
|---|---|---|---:|---:|---:|---:|
"""


def main(
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    runtimes: tuple[Format, ...] = ("onnx", "openvino"),
    all_recipes: bool = False,
    out: Path | None = None,
    rounds: int = ROUNDS,
) -> None:
    """Measure families under runtimes, for any size and for one.

    Args:
        families: Names in the table, or of recipes.
        all_recipes: Measure every recipe.
        runtimes: Formats of the files.
        out: Markdown table, which grows row by row.
        rounds: Measured runs of model and file.
    """
    torch.set_num_threads(1)
    families = tuple(semask.list_recipes()) if all_recipes else families
    table = HEAD
    for size, runtime, name in itertools.product((None, (256, 256)), runtimes, families):
        model = FAMILIES[name]() if name in FAMILIES else semask.build(name)
        row = measure(spread(model), runtime, size, rounds)
        table += f"| {name} | {runtime} | {'any' if size is None else '256²'} | {' | '.join(row)} |\n"
        print(table.splitlines()[-1], flush=True)
        if out is not None:
            write_text(out, table)


def spread(model: SegmentationModel) -> SegmentationModel:
    """A model whose random head votes for several classes."""
    torch.manual_seed(0)
    with torch.inference_mode():
        scores = model.scores(torch.rand(1, 3, *(model.fixed_size or (256, 256))))
    head = next((each for each in reversed([*model.decoder.modules()]) if hasattr(each, "bias")), None)
    if model.scores_are_logits and head is not None and head.bias is not None and len(head.bias) == model.num_classes:
        with torch.no_grad():
            head.bias -= scores.mean((0, 2, 3))
    return model.eval()


def measure(model: SegmentationModel, runtime: Format, size: tuple[int, int] | None, rounds: int) -> tuple[str, ...]:
    """Agreement, difference and ratios of files as text, or the reason why there is none."""
    shared: dict[str, Any] = {"format": runtime, "size": size, "threads": 1, "input": "floats"}
    shared |= {"test": semask.TestRecipe(), "data": semask.DataRecipe()}
    image = torch.rand(1, 3, 256, 256)
    ours = predictor_of(model)
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = predictor_of(open_export(semask.export(model, f"{folder}/c", output="confidence", **shared), 1))
            pixels, differ, largest = 0, 0, 0.0
            for batch, *sides in SIZES if size is None else SIZES[:1]:
                images = torch.rand(batch, 3, *sides)
                with torch.inference_mode():
                    wanted, found = ours.labelled(images), theirs.labelled(images)
                differ += int((wanted.labels != found.labels).sum())
                pixels += found.labels.numel()
                largest = max(largest, float((wanted.confidence - found.confidence).abs().max()))
            ratios = [ratio(lambda: ours.labelled(image), lambda: theirs.labelled(image), rounds)]
            if size is None:
                labels = open_export(semask.export(model, f"{folder}/l", output="labels", **shared), 1)
                ratios += [ratio(lambda: model.labels(image), lambda: labels.labels(image), rounds)]
    except ValueError as error:
        return f"refused: {error}"[:200].replace("|", "/").replace("\n", " "), "", "", ""
    shown = [f"{each:.2f}" for each in ratios]
    return f"{1 - differ / pixels:.6f}", f"{largest:.0e}", shown[0], shown[1] if len(shown) > 1 else ""


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> float:
    """Median ratio of the CPU times of the second to the first, which take turns."""
    with torch.inference_mode():
        ours(), theirs()
        times = [(cpu_time(ours), cpu_time(theirs)) for _ in range(rounds)]
    return statistics.median(file / eager for eager, file in times)


if __name__ == "__main__":
    tyro.cli(main)
