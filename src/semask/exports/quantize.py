"""int8 files: layers compute in bytes, but for the few that would break the promise on labelled images."""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch.utils.data import Subset

from semask.data.dataset import validation_set
from semask.evaluation.loop import Samples
from semask.exports.metadata import Metadata
from semask.exports.onnx import FLOAT, INPUT, INT64
from semask.exports.runtime import ExportedModel, open_session
from semask.exports.verify import check_promise
from semask.exports.write import Plan, require
from semask.inference import build_predictor

logger = logging.getLogger(__name__)
FEW = 4
"""Images that layers are compared on."""
MANY = 128
"""Labelled images that choices of float layers are tried on before all."""
LINEAR = ("MatMul", "Gemm")
"""Layers that take bytes and give floats; convolutions give bytes."""
PASSING = frozenset({"Clip", "Relu", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize"})
PASSING |= {"Flatten", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operations that give bytes where their first input is bytes."""
JOINING = frozenset({"Add", "Mul", "Concat"})
"""Operations that give bytes where all their inputs are."""
ENDS = ("Parameter", "Constant", "Result")
"""Nodes of an OpenVINO graph that compute nothing."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""The modules that a node of an ONNX graph was traced in, from the outermost on."""
Quantize = Callable[[Collection[str], Sequence[np.ndarray]], Path]
"""Writes a file in which these layers compute in bytes, with ranges of these batches."""


def quantize_onnx(plan: Plan, model: Any) -> tuple[Any, list[str]]:
    """An `onnx.ModelProto` with int8 layers by ONNX Runtime, and remarks for the receipt.

    Weights have a scale per channel and 7 of 8 bits: CPUs without VNNI add two products in 16 bits, and would clip.

    Raises:
        ValueError: No choice of layers keeps the promise.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    layers = find_layers(model)
    add_pre_process_metadata(model)  # nothing is left for ONNX Runtime's own to fold
    with TemporaryDirectory() as folder:
        whole, part = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, whole)

        def quantize(chosen: Collection[str], batches: Sequence[np.ndarray]) -> Path:
            nodes = nodes_in_bytes(model, chosen)
            quantize_static(
                whole,
                part,
                BatchReader(batches),
                nodes_to_quantize=[node.name for node in nodes],
                op_types_to_quantize=[*{node.op_type for node in nodes}],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": [*LINEAR]},
            )
            made = onnx.load(part)
            _correct_biases(made, model, batches)
            for node in made.graph.node:
                del node.metadata_props[:]
            del made.graph.value_info[:], made.metadata_props[:]
            onnx.save(made, part)
            return part

        notes = keep_promise(plan, layers, quantize, whole)
        return onnx.load(part), notes


def quantize_openvino(plan: Plan, model: Any, converted: Any) -> tuple[Any, list[str]]:
    """An `openvino.Model` with int8 layers by NNCF, and remarks for the receipt; `model` is its source in ONNX.

    Raises:
        ValueError: NNCF is not installed, or no choice of layers keeps the promise.
    """
    require("quantize", ("nncf",), "--precision int8 --format openvino")
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    nncf.set_log_level(logging.ERROR)
    layers = find_layers(model)
    # nodes keep their names; those of a convolution and its bias begin with it
    names = {op.get_friendly_name() for op in converted.get_ops() if op.get_type_name() not in ENDS}
    with TemporaryDirectory() as folder:
        whole, part = Path(folder, "float.xml"), Path(folder, "int8.xml")
        openvino.save_model(converted, whole, compress_to_fp16=False)

        def quantize(chosen: Collection[str], batches: Sequence[np.ndarray]) -> Path:
            made = nncf.quantize(
                converted,
                nncf.Dataset(batches),
                subset_size=len(batches),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=[name for name in names if name.split("/")[0] not in chosen]),
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
            )
            openvino.save_model(made, part, compress_to_fp16=False)
            return part

        notes = keep_promise(plan, layers, quantize, whole)
        return openvino.Core().read_model(part), notes


def find_layers(model: Any) -> dict[str, str]:
    """Layers with weights of an ONNX graph: the names of their modules, by those of their nodes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", *LINEAR) and node.input[1] in weights:
            scopes = next(entry.value for entry in node.metadata_props if entry.key == SCOPES)
            module = node.input[1].removesuffix(".weight")
            # a transposed weight has no name of its own
            named = ast.literal_eval(scopes)[-2] if module == node.input[1] else module
            found[node.name] = named.removeprefix("model.")
    return found


def nodes_in_bytes(model: Any, layers: Collection[str]) -> list[Any]:
    """The layers, and the operations that pass bytes on from layer to layer; the tail behind the last one is none."""
    constant = {tensor.name for tensor in model.graph.initializer}
    # tensors that some layer follows
    followed: set[str] = set()
    for node in reversed(model.graph.node):
        if node.name in layers or followed.intersection(node.output):
            followed.update(node.input)
    found, given = [], set[str]()
    for node in model.graph.node:
        inputs = node.input[:1] if node.op_type in PASSING else [name for name in node.input if name not in constant]
        passes = node.op_type in PASSING | JOINING and given.issuperset(inputs) and followed.intersection(node.output)
        if node.name in layers or passes:
            found.append(node)
            if node.op_type not in LINEAR:
                given.update(node.output)
    return found


def keep_promise(plan: Plan, layers: Mapping[str, str], quantize: Quantize, whole: Path) -> list[str]:
    """Quantize with few layers in float: the first, the last, and the worst 0, 1, 2, 4, … until the promise holds.

    Returns:
        Remarks that name them.

    Raises:
        ValueError: No choice keeps the promise.
    """
    if len(layers) < 3:
        raise ValueError(
            f"--precision int8 keeps the first and the last layer in float, and this model has {len(layers)}"
        )
    batches, notes = calibration_batches(plan, whole)
    assert plan.labelled is not None
    count = len(plan.labelled)
    some: Any = Subset(plan.labelled, range(0, count, -(-count // MANY)))  # type: ignore[arg-type]
    trials = [plan] if count <= MANY else [replace(plan, labelled=some), plan]
    first, *ranked, last = layers
    worst = 0
    while broken := _broken(trials, quantize(ranked[worst:], batches)):
        logger.info("%d of %d layers in float: %s", 2 + worst, len(layers), broken)
        if worst == 0:
            ranked = _worst_first(plan, ranked, quantize, whole, batches[:FEW])
        kept, worst = worst, max(1, 2 * worst)
        if worst >= len(ranked):
            raise ValueError(
                f"--precision int8 breaks its promise even with {2 + kept} of {len(layers)} layers in float: {broken}; "
                "allow more, or use --precision fp16; nothing is written"
            )
    floats = [first, *ranked[:worst], last]
    names = ", ".join(layers[name] for name in floats)
    return [f"{len(floats)} of {len(layers)} layers are kept in float: {names}", *notes]


def calibration_batches(plan: Plan, whole: Path) -> tuple[list[np.ndarray], list[str]]:
    """Batches that the float file gets from the recipe's predictor, one of each training image, and remarks."""
    recipe, options, notes = plan.metadata.recipe, plan.options, list[str]()
    assert plan.labelled is not None
    samples: Samples = plan.labelled
    try:
        samples = validation_set(recipe.data, recipe.data.train_split)
    except ValueError as error:
        notes.append(f"ranges of values are those of the labelled images, without training images: {error}")
    return graph_batches(whole, plan.metadata, samples, options.calibration, options.threads), notes


def graph_batches(
    path: Path, metadata: Metadata, samples: Samples, most: int, threads: int | None = None
) -> list[np.ndarray]:
    """Batches that a float file gets from its recipe's predictor, one of each of up to `most` images."""
    recipe, run, seen = metadata.recipe, open_session(path, metadata, threads), list[np.ndarray]()

    def record(batch: np.ndarray) -> Sequence[np.ndarray]:
        seen.append(batch)
        return run(batch)

    predictor = build_predictor(ExportedModel(path, metadata, record), recipe.test, recipe.data)
    chosen, count = list[np.ndarray](), min(most, len(samples))
    for number in range(count):
        seen.clear()
        predictor.labels(samples[number * len(samples) // count].image[None])
        # another window, scale or flip of every image
        chosen.append(seen[number % len(seen)])
    return chosen


def _broken(trials: Sequence[Plan], path: Path) -> str | None:
    """What of the promise a file breaks, tried on some labelled images before all; None: nothing."""
    plan = trials[0]
    exported = ExportedModel(path, plan.metadata, open_session(path, plan.metadata, plan.options.threads))
    limits = {"max_drop": plan.options.max_drop, "max_class_drop": plan.options.max_class_drop}
    return next(filter(None, (check_promise(trial.score(exported), **limits) for trial in trials)), None)


def _worst_first(
    plan: Plan, layers: Sequence[str], quantize: Quantize, whole: Path, batches: Sequence[np.ndarray]
) -> list[str]:
    """Layers by the change of the outputs when only that layer computes in bytes."""

    def outputs(path: Path) -> list[np.ndarray]:
        run = open_session(path, plan.metadata, plan.options.threads)
        return [each for batch in batches for each in run(batch)]

    def change(layer: str) -> float:
        pairs = zip(outputs(quantize([layer], batches)), expected, strict=True)
        return sum(_distance(*pair) for pair in pairs)

    expected = outputs(whole)
    changes = {layer: change(layer) for layer in layers}
    return sorted(layers, key=lambda layer: -changes[layer])


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of the labels that differ; of floats, their squared error relative to their squares."""
    if found.dtype.kind == "u":
        return float((found != expected).mean())
    return float(((found - expected) ** 2).sum() / (expected**2).sum())


def _correct_biases(made: Any, model: Any, batches: Sequence[np.ndarray]) -> None:
    """Add to the biases of int8 convolutions what rounding of weights takes from the outputs' means: Σ (w − ŵ)·E[x].

    Source: Data-Free Quantization Through Weight Equalization and Bias Correction (arXiv:1906.04721) §4.2.
    """
    from onnx.numpy_helper import from_array, to_array

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    whole = {node.name: node for node in model.graph.node}
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    source = {output: node for node in made.graph.node for output in node.output}
    nodes = [node for node in made.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    nodes = [node for node in nodes if source.get(node.input[1]) and source.get(node.input[2])]
    means = _channel_means(model, [whole[node.name].input[0] for node in nodes], batches)
    for node, mean in zip(nodes, means, strict=True):
        rounded, scale = (to_array(stored[name]) for name in source[node.input[1]].input[:2])
        bias, step = (stored[name] for name in source[node.input[2]].input[:2])
        lost = to_array(weights[whole[node.name].input[1]]) - rounded * scale.reshape(-1, *[1] * (rounded.ndim - 1))
        # every output reads the channels of its group
        per_output = mean.reshape(-1, lost.shape[1])
        per_output = per_output.repeat(len(lost) // len(per_output), axis=0)
        shift = (lost.reshape(*lost.shape[:2], -1).sum(-1) * per_output).sum(-1)
        bias.CopyFrom(from_array((to_array(bias) + np.rint(shift / to_array(step))).astype(np.int32), bias.name))


def _channel_means(model: Any, names: Sequence[str], batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The means of the channels of tensors b c h w over batches."""
    import onnxruntime
    from onnx import ModelProto, helper

    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.initializer.append(helper.make_tensor("axes", INT64, [3], [0, 2, 3]))
    for number, name in enumerate(names):
        probe.graph.node.append(helper.make_node("ReduceMean", [name, "axes"], [f"mean {number}"], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(f"mean {number}", FLOAT, None))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(None, {INPUT: batch})[len(model.graph.output) :] for batch in batches]
    return [np.mean(each, axis=0) for each in zip(*found, strict=True)]


class BatchReader:
    """Batches as ONNX Runtime's quantization reads them."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the name of its input; None: there is none."""
        batch = next(self._rest, None)
        return None if batch is None else {INPUT: batch}
