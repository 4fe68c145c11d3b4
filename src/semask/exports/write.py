"""The files of every format, from one graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semask.evaluation.loop import Samples
from semask.evaluation.metrics.bootstrap import ImageCounts
from semask.exports import onnx as onnx_format
from semask.exports.graph import ExportedGraph
from semask.exports.metadata import FILES, KEY, Metadata, keys, model_api, triton_config
from semask.exports.origin import trust
from semask.exports.runtime import ExportedModel
from semask.exports.verify import Padded, paired, score
from semask.exports.web import PAGE, check_web, web_runtime, write_web_page
from semask.files import write_text
from semask.inference import build_predictor
from semask.inference.colours import numbered_classes
from semask.models.encoders.vit import ViTEncoder
from semask.models.model import SegmentationModel
from semask.recipes.export import ExportOptions, Format

ANY_SIZE: tuple[Format, ...] = ("onnx", "openvino", "triton", "web")
"""Formats whose files take any batch, height and width; programs of PyTorch refuse sizes by guards."""
EXAMPLE = (480, 544)
"""Size (height, width) [px] that a graph for any size is traced with.

So large that no axis of windows has one alone, at stride 32 and of up to 12 tokens: one would be taken for a constant.
"""
EXTRAS: dict[Format, tuple[str, tuple[str, ...]]] = {
    "onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
    "triton": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
    "web": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("openvino", ("onnx", "onnxscript", "openvino")),
    "torch": ("", ()),
    "executorch": ("executorch", ("executorch",)),
}
"""The extra of a format, and the packages that it brings."""


@dataclass
class Plan:
    """An export: model, metadata, options, images of the proof c H W in [0, 1], labelled images where there are any."""

    model: SegmentationModel
    metadata: Metadata
    options: ExportOptions
    images: Sequence[Tensor]
    labelled: Samples | None

    @cached_property
    def counts(self) -> ImageCounts:
        """Counts of the model itself on the labelled images."""
        assert self.labelled is not None
        form, recipe = self.metadata.form, self.metadata.recipe
        source: Any = self.model if form.size is None else Padded(self.model, form)
        return score(build_predictor(source, recipe.test, recipe.data), self.labelled, form.num_classes)

    def score(self, exported: ExportedModel) -> dict[str, Any]:
        """Model and file on the labelled images, and their paired difference."""
        assert self.labelled is not None
        form, recipe = self.metadata.form, self.metadata.recipe
        theirs = score(build_predictor(exported, recipe.test, recipe.data), self.labelled, form.num_classes)
        names = (self.metadata.classes or numbered_classes(form.num_classes)).names
        return paired(self.counts, theirs, names)

    @property
    def graph(self) -> ExportedGraph:
        """The model with the form's input and output."""
        form = self.metadata.form
        shared: dict[str, Any] = {"read": form.input, "output": form.output}
        shared |= {"translated": form.format not in ("torch", "executorch"), "classes_last": form.format != "openvino"}
        model = self.model
        if form.format == "openvino" and form.size is not None and isinstance(model.encoder, ViTEncoder):
            model = copy.deepcopy(model)
            model.encoder.fix_size(*model.padded_size(*form.size))
        return ExportedGraph(model, **shared)

    def program(self) -> torch.export.ExportedProgram:
        """The traced graph."""
        form = self.metadata.form
        batch, size, channels = form.batch or 2, form.size or EXAMPLE, len(form.mean)
        shape = (batch, *size, channels) if form.input == "bytes" else (batch, channels, *size)
        example = torch.zeros(shape, dtype=torch.uint8 if form.input == "bytes" else torch.float32)
        return onnx_format.trace(self.graph, example, any_size=form.size is None, any_batch=form.batch is None)


def write(plan: Plan, folder: Path) -> list[str]:
    """Write the file of the plan's format into a folder, and return remarks for the receipt.

    Raises:
        ValueError: A package is missing, or the format cannot hold this model.
    """
    form = plan.metadata.form
    extra, packages = EXTRAS[form.format]
    require(extra, packages, f"--format {form.format}")
    path = folder / FILES[form.format]
    path.parent.mkdir(parents=True, exist_ok=True)
    return _WRITERS[form.format](plan, path)


def require(extra: str, packages: Sequence[str], what: str) -> None:
    """Check that packages are there.

    Raises:
        ValueError: One is missing; the message names the extra that brings it.
    """
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"{what} needs the package {missing[0]}: pip install 'semask[{extra}]'")


def _onnx(plan: Plan, path: Path) -> list[str]:
    import onnx

    form, notes = plan.metadata.form, list[str]()
    model = onnx_format.to_onnx(plan.program(), plan.graph.names, runtime="onnxruntime")
    if form.precision == "fp16":
        onnx_format.halve_weights(model)
    if form.precision == "int8":
        from semask.exports.quantize import quantize_onnx

        model, notes = quantize_onnx(plan, model)
    for key, text in keys(plan.metadata, resolution=plan.options.resolution).items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=text))
    if model.ByteSize() >= 2**31:
        raise ValueError(f"ONNX files end at 2 GiB and this model has {model.ByteSize()} bytes; use --precision fp16")
    path.write_bytes(model.SerializeToString())
    return notes


def _triton(plan: Plan, path: Path) -> list[str]:
    notes, form = _onnx(plan, path), plan.metadata.form
    write_text(path.parents[1] / "config.pbtxt", triton_config(form, plan.graph.names, name=plan.options.name))
    return notes


def _web(plan: Plan, path: Path) -> list[str]:
    check_web(plan.metadata)
    # before the graph, which takes longer
    package = web_runtime(plan.options.runtime)
    notes, page = _onnx(plan, path), path.with_name(PAGE)
    write_web_page(page, path, plan.metadata, package)
    return [
        *notes,
        f"{page.name} ({page.stat().st_size / 2**20:.1f} MiB) segments images in a browser, without a network",
    ]


def _openvino(plan: Plan, path: Path) -> list[str]:
    import openvino

    form, notes = plan.metadata.form, list[str]()
    beside = path.with_suffix(".onnx")
    model = onnx_format.to_onnx(plan.program(), plan.graph.names, runtime="openvino")
    beside.write_bytes(model.SerializeToString())
    try:
        converted = openvino.convert_model(str(beside))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"OpenVINO cannot hold this model: {reason}; use --format onnx") from error
    finally:
        beside.unlink()
    if form.precision == "int8":
        from semask.exports.quantize import quantize_openvino

        converted, notes = quantize_openvino(plan, model, converted)
    names = (plan.metadata.classes or numbered_classes(form.num_classes)).names
    for key, text in model_api(form, names).items():
        converted.set_rt_info(text, ["model_info", key])
    converted.set_rt_info(keys(plan.metadata)[KEY], [KEY])
    openvino.save_model(converted, str(path), compress_to_fp16=form.precision in ("fp16", "bf16"))
    return notes


def _torch(plan: Plan, path: Path) -> list[str]:
    torch.export.save(plan.program(), path, extra_files={KEY: keys(plan.metadata)[KEY]})
    trust(path)
    return []


def _executorch(plan: Plan, path: Path) -> list[str]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lowered = to_edge_transform_and_lower(plan.program(), partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:
        raise ValueError(f"ExecuTorch cannot hold this model: {str(error).splitlines()[0]}") from error
    with path.open("wb") as file:
        lowered.write_to_file(file)
    return []


_WRITERS: dict[Format, Callable[[Plan, Path], list[str]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch": _torch,
    "executorch": _executorch,
    "triton": _triton,
    "web": _web,
}
