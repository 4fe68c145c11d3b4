"""Options of an export: the kind of file, what goes in and comes out, and what its proof must show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semask.recipes.recipe import DataRecipe, TestRecipe

Format = Literal["onnx", "openvino", "torch", "executorch", "triton", "web"]
Input = Literal["bytes", "floats"]
Output = Literal["labels", "confidence", "probabilities", "scores", "raw"]
Precision = Literal["float32", "fp16", "bf16", "int8"]
RECEIPT, PAGE = "export.json", "export.html"
"""Files of the proof."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written, and what it must prove first."""

    format: Format = "onnx"
    """onnx: any runtime of ONNX; openvino: its own files (.xml, .bin); torch: a program of torch.export (.pt2);
    executorch: for phones and boards (.pte); triton: a folder for the server's model repository; web: ONNX in an HTML
    page that segments images in a browser, without a network."""
    output: Output | None = None
    """labels: class ids as bytes; confidence: these and the probability of each; probabilities, or scores, of every
    class; raw: the decoder's own prediction, which semask brings to the image's size. None: labels, or raw where the
    recipe's windows, scales or flips need scores."""
    input: Input | None = None
    """bytes: pixels b H W c as files hold them; floats: b c H W in [0, 1]. None: bytes for labels where images are
    read at their own size from 8 bits, else floats."""
    size: tuple[int, int] | None = None
    """Height and width of all images [px]; None takes any, where the format can."""
    batch: int | None = None
    """Number of images at once; None takes any, where the format can."""
    precision: Precision = "float32"
    """fp16 stores weights in half the size; bf16 also computes in it, where the CPU can (openvino); int8 stores
    and computes in bytes. All but float32 keep the promises below, on labelled images, or there is no file."""
    images: tuple[Path, ...] = ()
    """Images for the proof: files or folders; none are drawn scenes."""
    split: str | None = None
    """Split of labelled images (--data.root) for mIoU and the promises; None is the recipe's validation split."""
    max_drop: float = 0.5
    """Largest drop of mIoU that a smaller precision may cost [points], on --data."""
    max_class_drop: float = 2.0
    """Largest drop of a class's IoU [points]."""
    calibration: int = 64
    """Training images that int8 takes the ranges of values from."""
    threads: int | None = None
    """Threads of the runtime in the proof; None is its own choice."""
    resolution: float | None = None
    """Size of a pixel [cm], which QGIS Deepness reads rasters at."""
    name: str = "semask"
    """Name of the model in Triton's configuration: that of its folder in the repository."""
    runtime: Path | None = None
    """web only: folder of the unpacked npm package onnxruntime-web; None lets npm fetch it once."""
    overwrite: bool = False
    """Replace an earlier export in OUT."""


def rescales(data: DataRecipe, test: TestRecipe) -> bool:
    """Whether images reach the model at another size than their own."""
    return data.base_scale is not None or data.base_ratio != 1 or test.scales != (1.0,) or _enlarges(test)


def needs_scores(data: DataRecipe, test: TestRecipe) -> bool:
    """Whether the recipe merges or resizes scores, which labels alone cannot replace."""
    return rescales(data, test) or test.flip or test.mode == "sliding"


def _enlarges(test: TestRecipe) -> bool:
    return test.mode == "sliding" and test.enlarge
