"""Exported files as models: ONNX Runtime, OpenVINO, torch.export and ExecuTorch behind the attributes of a model."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from semask.exports.metadata import KEY, RECORD, Metadata, find, parse
from semask.exports.origin import read_trusted
from semask.ops.argmax import label_map
from semask.ops.lazy_scores import Crop, Decided, InMemory, LazyScores
from semask.ops.resize import check_range, padding_to_multiple
from semask.structures import LabelMap, MaskLogits, PixelLogits

if TYPE_CHECKING:
    from semask.inference.predictor import ImageLike

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "pkg.onnxscript.torch_lib", "pkg.onnxscript.torch_lib.common"}
"""Operators that ONNX Runtime brings itself; others would need a library of their own."""
MOST_RECORD = 2**24
"""Size of the largest record [bytes]."""
STEP = 1e-3
"""Largest distance of a value from a byte's, of 255."""
Session = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Runs a graph on a batch."""


class Refusal(ValueError):
    """A runtime's refusal of a batch that its file should take."""


class ExportedModel(nn.Module):
    """A file that predictors, evaluations and benchmarks take for a model.

    Attributes:
        metadata: Form of the graph, recipe and classes.
        fixed_size: (height, width) [px] that images are padded up to; larger ones go through windows of that size.
        labels_only: The file gives neither scores nor probabilities.
    """

    mean: Tensor
    semantic_layers: tuple[nn.Module, ...] = ()

    def __init__(self, path: Path, metadata: Metadata, session: Session, *, threads: int | None = None) -> None:
        super().__init__()
        form = metadata.form
        self.path, self.metadata, self.threads, self._session = path, metadata, threads, session
        self.recipe, self.classes, self.num_classes = metadata.recipe, metadata.classes, form.num_classes
        self.fixed_size = form.size or form.fixed_size
        self.size_multiple = 1 if form.size else form.size_multiple
        self.labels_only = form.output == "labels"
        # the share of probabilities in their sum is what they are
        self.scores_are_logits = form.scores_are_logits and form.output != "probabilities"
        self.register_buffer("mean", torch.tensor(form.mean).reshape(-1, 1, 1), persistent=False)
        self.eval()

    def __reduce__(self) -> Any:
        return open_export, (self.path, self.threads)

    def lazy_scores(self, images: Float[Tensor, "b c H W"]) -> LazyScores:
        """Class scores at the images' size; of a file of labels, the labels alone.

        Raises:
            ValueError: Number of channels, size or values are none that the file takes.
        """
        form = self.metadata.form
        channels, height, width = images.shape[1:]
        if channels != len(form.mean):
            raise ValueError(f"{self.path.name} takes images of {len(form.mean)} channels, got {channels}")
        outputs = self.decode_main(images)
        tall, wide = form.size or (height, width)
        if form.output != "raw" and outputs[0].shape[-2:] != (tall, wide):
            raise Refusal(f"{self.path.name} gives {tuple(outputs[0].shape)} for images of {height}×{width} px")
        if form.output == "raw":
            bottom, right = padding_to_multiple(tall, wide, form.size_multiple)
            padded = form.fixed_size or (tall + bottom, wide + right)
            if len(outputs) == 2:
                scores = MaskLogits(outputs[0], outputs[1]).lazy_scores(padded)
            else:
                scores = PixelLogits(outputs[0], align_corners=form.align_corners).lazy_scores(padded)
        elif form.output in ("labels", "confidence"):
            return Decided(*(each[..., :height, :width] for each in outputs), num_classes=form.num_classes)
        else:
            scores = InMemory(outputs[0])
        return Crop(scores, (height, width))

    def labels(self, images: Float[Tensor, "b c H W"]) -> UInt8[Tensor, "b H W"]:
        """Class of every pixel by the graph alone, without the recipe's scale, windows and flips."""
        check_range(images)
        return label_map(self.lazy_scores(images))

    def decode_main(self, images: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """Outputs of the graph, as they are."""
        return self._run(self._pad(images))

    def predict(self, image: ImageLike, **test: Any) -> UInt8[LabelMap, "*b H W"]:
        """Label map of an image, or of a batch, read by the recipe; see `SegmentationModel.predict`."""
        from semask.inference.single import predict_image

        return predict_image(self, image, **test)

    def _pad(self, images: Float[Tensor, "b c H W"]) -> Tensor:
        """Images at the file's only size, padded with the mean, which the network sees as 0, or near it in bytes.

        Raises:
            ValueError: They are larger.
        """
        size, (height, width) = self.metadata.form.size, images.shape[-2:]
        if size is None or (height, width) == size:
            return images
        bottom, right = size[0] - height, size[1] - width
        if min(bottom, right) < 0:
            raise ValueError(
                f"{self.path.name} takes images of {size[0]}×{size[1]} px, not {height}×{width}; use sliding windows, "
                "or export without --size"
            )
        padding = images.new_tensor(self.metadata.form.padding).reshape(-1, 1, 1)
        return F.pad(images - padding, (0, right, 0, bottom)) + padding

    def _run(self, images: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """Outputs of the graph, in as many runs as its batch needs."""
        form, device = self.metadata.form, images.device
        images = images.cpu().float()
        if form.input == "bytes":
            images = self._to_bytes(images)
        values, found = np.ascontiguousarray(images.numpy()), []
        step = form.batch or len(values)
        for first in range(0, len(values), step):
            part = values[first : first + step]
            # the last image once more where a batch is not full
            filled = np.concatenate([part, part[-1:].repeat(step - len(part), axis=0)])
            try:
                outputs = self._session(filled)
            except Exception as error:  # every runtime has classes of its own
                reason = str(error).strip().splitlines()[-1]
                raise Refusal(f"{self.path.name} cannot run on images {filled.shape}: {reason}") from error
            found.append([each[: len(part)] for each in outputs])
        return [torch.from_numpy(np.concatenate(each)).to(device) for each in zip(*found, strict=True)]

    def _to_bytes(self, images: Float[Tensor, "b c H W"]) -> UInt8[Tensor, "b H W c"]:
        stored = images * 255
        rounded = stored.round()
        if not (stored - rounded).abs().max() <= STEP or rounded.min() < 0 or rounded.max() > 255:
            raise ValueError(
                f"{self.path.name} takes pixels of 8 bits as files hold them; these images were resized or have other "
                "values; export with --input floats"
            )
        return rounded.to(torch.uint8).permute(0, 2, 3, 1)


def open_export(path: str | Path, threads: int | None = None) -> ExportedModel:
    """A file that `semask export` wrote, as a model.

    The file is taken for untrusted: it may have no operators of its own, and no data outside of it. A program of
    torch.export, which can run any code, must have been exported by this user on this machine.

    Args:
        path: The file, or the folder of the export.
        threads: Threads of the runtime; None: as many as PyTorch uses.

    Raises:
        ValueError: It is missing, broken, of another origin, or its runtime is not installed.
    """
    path = find(Path(path))
    metadata = Metadata.of(read_record(path), source=path)
    return ExportedModel(path, metadata, open_session(path, metadata, threads), threads=threads)


def open_session(path: Path, metadata: Metadata, threads: int | None = None) -> Session:
    """The graph of a file in its runtime.

    Raises:
        ValueError: The runtime refuses it.
    """
    with _refusing(path):
        return _SESSIONS[path.suffix](path, metadata, threads or torch.get_num_threads())


def read_record(path: Path) -> dict[str, Any]:
    """The record in an exported file, or beside a format that has no place for it.

    Raises:
        ValueError: There is none, or the file is broken or needs more than its runtime.
    """
    with _refusing(path):
        text = _RECORDS[path.suffix](path)
    return parse(text, source=path)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Make a ValueError of whatever a reader or a runtime raises."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch"}.get(path.suffix)
        raise ValueError(f"{str(path)!r} needs the package {error.name}: pip install 'semask[{extra}]'") from error
    except ValueError:
        raise
    except Exception as error:  # each has classes of its own
        raise ValueError(f"{str(path)!r} cannot be opened: {error}") from error


def _onnx_record(path: Path) -> str | None:
    """Our metadata in an ONNX file that is safe to open."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if odd := {each.domain for each in (*model.opset_import, *_messages(model, "NodeProto"))} - DOMAINS:
        raise ValueError(f"{str(path)!r} needs operators of {', '.join(sorted(odd))}; they are not loaded")
    # a place of data is also any file, or any address in memory
    if any(tensor.external_data or tensor.data_location for tensor in _messages(model, "TensorProto")):
        raise ValueError(f"{str(path)!r} refers to data outside of it, which exports never do; they are not loaded")
    return next((each.value for each in model.metadata_props if each.key == KEY), None)


def _messages(message: Any, kind: str) -> Iterator[Any]:
    """All messages of a kind within a protobuf message, however deep."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in (value,) if hasattr(value, "ListFields") else value:
                if field.message_type.name == kind:
                    yield each
                yield from _messages(each, kind)


def _openvino_record(path: Path) -> str | None:
    model = _openvino(path)
    return str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


def _torch_record(path: Path) -> str | None:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if entry.filename.endswith(f"/extra/{KEY}")]
        return archive.read(found[0]).decode() if found and found[0].file_size <= MOST_RECORD else None


def _record_beside(path: Path) -> str | None:
    beside = path.with_name(RECORD)
    return beside.read_text(encoding="utf-8") if beside.is_file() and beside.stat().st_size <= MOST_RECORD else None


def _onnx_session(path: Path, metadata: Metadata, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: session.run(None, {name: images})


def _openvino(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(str(path))


def _openvino_session(path: Path, metadata: Metadata, threads: int) -> Session:
    import openvino

    # OpenVINO would compute in bfloat16 wherever the CPU can
    hint = "bf16" if metadata.form.precision == "bf16" else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(_openvino(path), "CPU", options)
    # copies, since the next run writes into the same memory
    return lambda images: [np.array(each) for each in compiled(images).values()]


def _torch_session(path: Path, metadata: Metadata, threads: int) -> Session:
    program = torch.export.load(io.BytesIO(read_trusted(path))).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [cast(Tensor, each).numpy() for each in program(torch.from_numpy(images))]

    return run


def _executorch_session(path: Path, metadata: Metadata, threads: int) -> Session:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    # copies, since the next run writes into the same memory
    return lambda images: [each.numpy().copy() for each in method.execute([torch.from_numpy(images)])]


_RECORDS: dict[str, Callable[[Path], str | None]] = {
    ".onnx": _onnx_record,
    ".xml": _openvino_record,
    ".pt2": _torch_record,
    ".pte": _record_beside,
}
_SESSIONS: dict[str, Callable[[Path, Metadata, int], Session]] = {
    ".onnx": _onnx_session,
    ".xml": _openvino_session,
    ".pt2": _torch_session,
    ".pte": _executorch_session,
}
