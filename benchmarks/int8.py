"""Ways to int8 beside the float file: size, mIoU lost on labelled images, and time.

    python benchmarks/int8.py runs/dinov2/best --root camvid --size 364 490 --out int8.md

"layers" is what `semask export --precision int8` does, with its promise given up; the others are what libraries offer,
and this table says why semask does not. Times are CPU times of one thread on a validation image, int8 file and float
file of the same runtime in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from exports import ratio

import semask
from semask.data.dataset import validation_set
from semask.exports.quantize import BatchReader, graph_batches
from semask.exports.runtime import ExportedModel, open_export, open_session
from semask.exports.verify import paired, score
from semask.files import write_text
from semask.inference import build_predictor
from semask.recipes.export import Format

HEAD = """| model | runtime | int8 of | MiB | of float's | mIoU − float's [points] | time, of float's |
|---|---|---|---:|---:|---:|---:|
"""
IMAGES = 32
"""Training images that ranges of values are taken from."""
Images = list[np.ndarray]


def all_operators(whole: Path, made: Path, images: Images) -> Path:
    """ONNX Runtime: every operator it can, with ranges from images."""
    from onnxruntime.quantization import quantize_static

    quantize_static(whole, made / "model.onnx", BatchReader(images), per_channel=True, reduce_range=True)
    return made / "model.onnx"


def ranges_at_run_time(whole: Path, made: Path, images: Images) -> Path:
    """ONNX Runtime: matrix products, whose ranges are found anew for every image."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(whole, made / "model.onnx", op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    return made / "model.onnx"


def smooth_quant(whole: Path, made: Path, images: Images) -> Path:
    """NNCF: what it chooses for transformers, SmoothQuant included."""
    import nncf
    import openvino

    model = openvino.Core().read_model(whole)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantized, made / "model.xml", compress_to_fp16=False)
    return made / "model.xml"


def weights_alone(whole: Path, made: Path, images: Images) -> Path:
    """NNCF: weights of matrix products are stored in bytes and computed with in float."""
    import nncf
    import openvino

    model = nncf.compress_weights(openvino.Core().read_model(whole), mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, made / "model.xml", compress_to_fp16=False)
    return made / "model.xml"


WAYS: dict[Format, dict[str, Callable[[Path, Path, Images], Path] | None]] = {
    "onnx": {"layers": None, "all operators": all_operators, "products, ranges at run time": ranges_at_run_time},
    "openvino": {"layers": None, "layers, SmoothQuant": smooth_quant, "weights alone": weights_alone},
}


def main(
    checkpoint: tyro.conf.Positional[Path],
    *,
    root: Path | None = None,
    size: tuple[int, int] | None = None,
    out: Path | None = None,
) -> None:
    """Quantize a checkpoint in every way.

    Args:
        checkpoint: Folder of a checkpoint.
        root: Folder of its data; None: that of its recipe, or drawn scenes.
        size: Height and width of all images [px]; None: any.
        out: Markdown table, to which rows are added.
    """
    model = semask.load(checkpoint)
    recipe = model.recipe if root is None else model.recipe.override({"data.root": str(root)})
    samples = validation_set(recipe.data)
    # drawn scenes have no training images in a folder
    train = samples if recipe.data.kind == "scenes" else validation_set(recipe.data, recipe.data.train_split)
    shared: dict[str, Any] = {"output": "labels", "size": size, "threads": 1, "data": recipe.data, "input": "floats"}
    table = out.read_text() if out is not None and out.exists() else HEAD
    with tempfile.TemporaryDirectory() as folder:
        for runtime, ways in WAYS.items():
            whole = semask.export(model, Path(folder, runtime), format=runtime, **shared)
            float_model = open_export(whole, 1)
            images = graph_batches(whole, float_model.metadata, train, IMAGES, 1)
            for name, way in ways.items():
                made = Path(folder, f"{runtime} {name}")
                made.mkdir()
                try:
                    if way is None:
                        limits = {"precision": "int8", "max_drop": 100.0, "max_class_drop": 100.0}
                        path = semask.export(model, made / "own", format=runtime, **shared, **limits)
                    else:
                        path = way(whole, made, images)
                    theirs = ExportedModel(path, float_model.metadata, open_session(path, float_model.metadata, 1))
                    cells = compare(float_model, theirs, whole, path, samples, recipe, model.num_classes)
                except Exception as error:  # any library's own
                    cells = (f"refused: {error}"[:120].replace("\n", " "), "", "", "")
                table += f"| {recipe.name} | {runtime} | {name} | {' | '.join(cells)} |\n"
                print(table.splitlines()[-1], flush=True)
                if out is not None:
                    write_text(out, table)


def compare(
    ours: ExportedModel, theirs: ExportedModel, whole: Path, path: Path, samples: Any, recipe: Any, num_classes: int
) -> tuple[str, ...]:
    """Cells of the table."""
    files = [build_predictor(each, recipe.test, recipe.data) for each in (ours, theirs)]
    counts = [score(each, samples, num_classes) for each in files]
    drop = paired(*counts, [str(number) for number in range(num_classes)])["difference"]
    value, low, high = (100 * each for each in drop)
    image = samples[0].image[None]
    time = ratio(lambda: files[0].labels(image), lambda: files[1].labels(image), 9)
    # weights lie beside OpenVINO's graphs
    sizes = [sum(part.stat().st_size for part in each.parent.glob("model.*")) for each in (whole, path)]
    shares = f"{sizes[1] / 2**20:.1f}", f"{sizes[1] / sizes[0]:.2f}"
    return *shares, f"{value:+.2f} [{low:+.2f}, {high:+.2f}]", f"{time:.2f}"


if __name__ == "__main__":
    tyro.cli(main)
