"""ONNX files: one graph for any batch, height and width, or for fixed ones."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from semask.exports.graph import ExportedGraph

OPSET = 20
FLOAT, UINT8, INT64 = 1, 2, 7
"""ONNX's numbers of types."""
INPUT = "images"
LARGE = 1024
"""Numbers of a tensor that is worth halving."""
Runtime = Literal["onnxruntime", "openvino"]
"""Whose fastest form the last operations get."""


def trace(graph: ExportedGraph, example: Tensor, *, any_size: bool, any_batch: bool) -> torch.export.ExportedProgram:
    """The graph as a program, for the example's shape or for any batch, height and width."""
    dynamic = torch.export.Dim.DYNAMIC
    sides = (1, 2) if graph.read == "bytes" else (2, 3)
    shapes = ({0: dynamic} if any_batch else {}) | (dict.fromkeys(sides, dynamic) if any_size else {})
    # without gradients, in which views of Swin's windows would be refused
    with torch.no_grad():
        return torch.export.export(graph.eval(), (example,), dynamic_shapes=(shapes,), strict=False)


def to_onnx(program: torch.export.ExportedProgram, names: tuple[str, ...], *, runtime: Runtime) -> Any:
    """The program as an `onnx.ModelProto`."""
    # remarks on their own progress
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[*names],
            custom_translation_table=_translations(runtime),
            verbose=False,
        )
    assert made is not None
    return made.model_proto


def halve_weights(model: Any) -> None:
    """Store the large weights of an `onnx.ModelProto` in float16; runtimes bring them back once, when they load it."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.size >= LARGE:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _translations(runtime: Runtime) -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX operations for those of PyTorch that have none, a wrong one, or a slow one."""
    from onnxscript import opset20

    op: Any = opset20  # its types are those of tensors, not of a graph's values

    def floor_divide(self: Any, other: Any) -> Any:
        # ONNX's own division of integers truncates: ⌈side / n⌉ = −(−side // n) would be one too small
        return op.Div(op.Sub(self, op.Mod(self, other)), other)

    def by_resize(maps: Any, height: Any, width: Any, align_corners: bool) -> Any:
        one, shape = op.Constant(value_ints=[1]), op.Shape(maps)
        sides = [op.Reshape(op.Cast(side, to=INT64), one) for side in (height, width)]
        sizes = op.Concat(op.Slice(shape, [0], [1]), *sides, op.Slice(shape, [1], [2]), axis=0)
        mode = "align_corners" if align_corners else "half_pixel"
        last = op.Transpose(maps, perm=[0, 2, 3, 1])
        return op.Resize(last, None, None, sizes, mode="linear", coordinate_transformation_mode=mode)

    def by_arg_max(scores: Any, axis: int) -> Any:
        return op.Cast(op.ArgMax(scores, axis=axis, keepdims=0), to=UINT8)

    def by_top_k(scores: Any, axis: int) -> Any:
        _, best = op.TopK(scores, [1], axis=axis)
        return op.Cast(op.Squeeze(best, [axis]), to=UINT8)

    return {
        operator.floordiv: floor_divide,
        torch.ops.semask.resize_classes_last.default: by_resize,
        torch.ops.semask.best_class.default: by_arg_max if runtime == "onnxruntime" else by_top_k,
    }
