"""What travels inside an exported file: the recipe and the classes, as in a checkpoint's record, and the graph's form.

Other programs find the keys that they look for beside it: QGIS Deepness, OpenVINO Model API, Ultralytics' readers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from semask.recipes import Recipe, from_dict, to_dict
from semask.recipes.export import Format, Input, Output, Precision
from semask.recipes.record import FORMAT

if TYPE_CHECKING:
    from semask.data.classes import Classes

KEY = "semask"
"""The key of our record among a file's own."""
FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "torch": "model.pt2",
    "executorch": "model.pte",
    "triton": "1/model.onnx",
    "web": "model.onnx",
}
"""The file of a format in the folder of an export."""
SUFFIXES = tuple(dict.fromkeys(Path(name).suffix for name in FILES.values()))
RECORD = "recipe.json"
"""The same record beside the file."""
MOST_BYTES = 2**31
"""Size of the largest file: ONNX files end there."""
MOST = 65_536
"""Largest side of images [px], number of classes, and batch of a file."""
MOST_BATCH = 8
"""Images that Triton joins at most."""
OVERLAP = 15
"""Overlap of tiles that Deepness begins with [%]."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a graph: what goes in, what comes out, and what its runtime does outside of it.

    size, batch: the only ones it takes; None: any. size_multiple: sides of images are padded to multiples of it inside.
    fixed_size: what the network pads every image up to. raw: names and options of a raw output. weights: SHA-256 of the
    model's weights.
    """

    format: Format
    output: Output
    input: Input
    size: tuple[int, int] | None
    batch: int | None
    precision: Precision
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_multiple: int
    fixed_size: tuple[int, int] | None
    scores_are_logits: bool
    align_corners: bool
    weights: str

    @property
    def padding(self) -> tuple[float, ...]:
        """Values of pixels around an image smaller than `size`: the mean, or the byte nearest to it."""
        if self.input == "floats":
            return self.mean
        return tuple(min(max(round(255 * value), 0), 255) / 255 for value in self.mean)


@dataclass(frozen=True)
class Metadata:
    """The form of a graph with the recipe and the classes of its model."""

    form: Form
    recipe: Recipe
    classes: Classes | None

    def record(self) -> dict[str, Any]:
        """A checkpoint's record, and the form."""
        return {
            "format": FORMAT,
            "semask": version("semask"),
            "recipe": to_dict(self.recipe),
            "parts": "",
            "classes": self.classes.to_dict() if self.classes is not None else None,
            "export": dataclasses.asdict(self.form),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any], *, source: Path) -> Metadata:
        """The metadata in a record.

        Raises:
            ValueError: The record is another's, or broken.
        """
        from semask.data.classes import Classes  # which needs torch: records are read without it

        try:
            values = dict(record["export"])
            for name in ("size", "fixed_size", "mean", "std"):
                values[name] = None if values[name] is None else tuple(values[name])
            classes = Classes.from_dict(record["classes"]) if record["classes"] else None
            form = _checked(Form(**values))
            recipe: Recipe = from_dict(record["recipe"])
            if recipe.data.channels != len(form.mean) or len(classes or ()) not in (0, form.num_classes):
                raise ValueError("its form, recipe and classes do not belong together")
            return cls(form, recipe, classes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(source)!r} has a record that is none of an export ({error}); write the file again with "
                "`semask export`"
            ) from error


def _checked(form: Form) -> Form:
    """A form whose values are of their types and within their bounds.

    Raises:
        ValueError: One is not.
    """

    def counts(*values: object) -> bool:
        return all(type(value) is int and 1 <= value <= MOST for value in values)

    def size(value: Any) -> bool:
        return value is None or (len(value) == 2 and counts(*value))

    def numbers(value: Any) -> bool:
        return bool(value) and all(type(each) in (int, float) and math.isfinite(each) for each in value)

    fine = {
        "format": form.format in FILES,
        "output": form.output in get_args(Output),
        "input": form.input in get_args(Input),
        "precision": form.precision in get_args(Precision),
        "size": size(form.size),
        "fixed_size": size(form.fixed_size),
        "batch": form.batch is None or counts(form.batch),
        "num_classes": counts(form.num_classes),
        "size_multiple": counts(form.size_multiple),
        "mean": numbers(form.mean),
        "std": numbers(form.std) and len(form.std) == len(form.mean) and min(form.std) > 0,
        "scores_are_logits": type(form.scores_are_logits) is bool,
        "align_corners": type(form.align_corners) is bool,
        "weights": type(form.weights) is str,
    }
    if wrong := [name for name, is_fine in fine.items() if not is_fine]:
        raise ValueError(f"{wrong[0]} is {getattr(form, wrong[0])!r:.80}")
    return form


def find(path: Path) -> Path:
    """The file of an export, which may be given by its folder.

    Raises:
        ValueError: There is none, or it is too large.
    """
    if path.is_dir():
        found = [path / name for name in FILES.values() if (path / name).is_file()]
        if not found:
            raise ValueError(f"{str(path)!r} holds no exported file ({', '.join(dict.fromkeys(FILES.values()))})")
        path = found[0]
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ValueError(f"{str(path)!r} is no exported file ({', '.join(SUFFIXES)})")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size} bytes; exported files have up to {MOST_BYTES}")
    return path


def parse(text: str | None, *, source: Path) -> dict[str, Any]:
    """The record in a file's metadata.

    Raises:
        ValueError: There is none, or it is broken.
    """
    try:
        record = json.loads(text or "")
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("export"), dict):
        raise ValueError(
            f"{str(source)!r} was not written by `semask export` of this version: it has no record of recipe and "
            "classes under the key 'semask'"
        )
    return record


def keys(metadata: Metadata, *, resolution: float | None = None) -> dict[str, str]:
    """What an ONNX file carries, by key: our record, and what other programs read.

    Source: QGIS Deepness 0.6.5 and OpenVINO Model API 0.4 read these keys; see `docs/exports.md`.
    """
    from semask.inference.colours import numbered_classes

    form = metadata.form
    names = (metadata.classes or numbered_classes(form.num_classes)).names
    found = {KEY: json.dumps(metadata.record()), "names": repr(dict(enumerate(names)))}
    if form.size is None:
        # OpenVINO would not see how many classes a graph for any size has
        return found
    found |= {f"model_info {key}": text for key, text in model_api(form, names).items()}
    if form.output == "probabilities" and form.input == "floats" and form.size[0] == form.size[1]:
        # JSON, with the quotes of texts
        deepness: dict[str, Any] = {
            "model_type": "Segmentor",
            "class_names": dict(enumerate(names)),
            "tile_size": form.size[0],
            "tiles_size": form.size[0],
            "tiles_overlap": OVERLAP,
            "seg_thresh": 0,
            "seg_small_segment": 0,
        }
        deepness |= {} if resolution is None else {"resolution": resolution}
        found |= {key: json.dumps(value) for key, value in deepness.items()}
    return found


def model_api(form: Form, names: tuple[str, ...]) -> dict[str, str]:
    """Keys of OpenVINO Model API, whose images are BGR bytes, one at a time; nothing for what it does not take."""
    if form.output not in ("probabilities", "scores") or len(form.mean) != 3 or form.batch not in (None, 1):
        return {}
    # normalisation is in the graph, so that bytes are divided by 255 at most
    scale = {"scale_values": " ".join(["255.0"] * len(form.mean))} if form.input == "floats" else {}
    return {
        "model_type": "Segmentation",
        # split at blanks; it calls class k labels[k − 1], and takes their number for that of the classes
        "labels": " ".join("_".join(name.split()) for name in (*names[1:], names[0])),
        "reverse_input_channels": "True",
        "resize_type": "standard",
        "return_soft_prediction": "True",
        **scale,
    }


def triton_config(form: Form, outputs: Sequence[str], *, name: str) -> str:
    """The text of a model's config.pbtxt.

    The server joins requests of one size into a batch; a fixed batch is part of the shape.
    """

    def tensor(title: str, kind: str, *sides: int) -> str:
        shape = ", ".join(map(str, ((form.batch,) if form.batch else ()) + sides))
        return f'[ {{ name: "{title}" data_type: {kind} dims: [ {shape} ] }} ]'

    tall, wide = form.size or (-1, -1)
    channels, classes = len(form.mean), form.num_classes
    images = ("TYPE_UINT8", tall, wide, channels) if form.input == "bytes" else ("TYPE_FP32", channels, tall, wide)
    # a raw output's grid is the decoder's own
    shapes: dict[str, tuple[Any, ...]] = {
        "labels": ("TYPE_UINT8", tall, wide),
        "confidence": ("TYPE_FP32", tall, wide),
        "class_logits": ("TYPE_FP32", -1, classes + 1),
        "logits": ("TYPE_FP32", classes, -1, -1),
        "mask_logits": ("TYPE_FP32", -1, -1, -1),
    }
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if form.batch else MOST_BATCH}",
    ]
    lines += [f"input {tensor('images', *images)}"]
    lines += [f"output {tensor(each, *shapes.get(each, ('TYPE_FP32', classes, tall, wide)))}" for each in outputs]
    return "\n".join([*lines, *([] if form.batch else ["dynamic_batching { }"])]) + "\n"
