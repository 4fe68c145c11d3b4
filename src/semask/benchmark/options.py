"""The flags of `semask bench`; without torch, since its help reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import arg

from semask.recipes.bounds import check_flags

What = Literal["forward", "predict", "train", "evaluate", "load"]
Rival = Literal["reference", "transformers", "smp", "torchvision", "timm"]
Test = Literal["whole", "sliding", "recipe"]
Dtype = Literal["float32", "bfloat16"]
PROTOCOL_SIZE = (512, 512)
"""Image size of the largest batch. Source: Segmenter (arXiv:2105.05633) §4.1."""
FEW_ROUNDS = 20
"""Rounds from which on the 90th and 99th percentile are certain."""

ON_MODEL: tuple[What, ...] = ("forward", "predict", "train", "evaluate")
EFFECT: dict[str, tuple[What, ...]] = {
    **dict.fromkeys(("step", "checkpoint_stages"), ("train",)),
    **dict.fromkeys(("root", "workers"), ("evaluate", "load")),
    **dict.fromkeys(("compile", "channels_last", "dtype"), ON_MODEL),
    "test": ("predict", "evaluate"),
    "max_batch": ("forward", "predict", "train"),
}
"""Kinds of run in which a flag has an effect; the others have one in all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One measurement; all cases are measured alike."""

    what: What = "forward"
    """forward: images to logits at the model's own grid; predict: bytes to label maps; train: forward, loss and
    backward; evaluate: files to the confusion matrix; load: files to batches of training."""
    size: tuple[int, ...] | None = None
    """Height and width of images [px], or the side of squares; None is the recipe's crop, with --max-batch 512. With
    evaluate and load: of the images that are drawn where there is no data."""
    batch: int | None = None
    """Number of images at once; None is 1, with train 2."""
    max_batch: bool = False
    """Find the largest batch that fits into the memory, and measure with that (Segmenter's protocol)."""
    memory: float | None = None
    """With --max-batch on a CPU: the most memory to use [GiB]; None is 80 % of the free memory."""
    dtype: Dtype = "float32"
    """bfloat16 is by autocast."""
    compile: bool = False
    """Compile the models with torch.compile; the first run, which compiles, is reported separately."""
    channels_last: bool | None = None
    """Use the memory format channels-last; None follows `semask train`: in training, where convolutions gain."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    threads: int | None = None
    """Number of CPU threads; None keeps torch's choice."""
    against: tuple[Rival, ...] = ()
    """Measure these beside every recipe: its own reference forms, and other libraries' models of its kind."""
    reference: bool = False
    """Measure the reference forms, as SEMASK_REFERENCE=1 does."""
    test: Test = "whole"
    """With predict and evaluate: the image at once, by the recipe's sliding windows, or by the recipe's whole test."""
    step: bool = False
    """With train: run the optimiser's step too."""
    checkpoint_stages: tuple[int, ...] | None = None
    """With train: stages of our encoders, 1 … 4, whose activations the backward pass recomputes; None: the recipe's."""
    rounds: int = FEW_ROUNDS
    """Number of measured runs of each case."""
    warmup: int = 3
    """Number of runs of each case before those, besides a first one."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """With evaluate and load: folder or zip file of the recipe's data set; without one, scenes are drawn to files."""
    images: int = 16
    """With evaluate and load: images of a run."""
    workers: int = 0
    """With evaluate and load: processes that read images; 0 reads in the measuring process."""

    @property
    def reads_files(self) -> bool:
        """Whether images come from files, not from random numbers."""
        return self.what in ("evaluate", "load")

    @property
    def batch_size(self) -> int:
        """Images at once, without --max-batch."""
        return self.batch if self.batch is not None else 2 if self.what == "train" else 1

    def size_for(self, crop: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of images [px] for a recipe of that crop."""
        if self.size is not None:
            return self.size[0], self.size[-1]
        return PROTOCOL_SIZE if self.max_batch else crop


def check(names: Sequence[str], options: Options) -> None:
    """Check recipes and flags before anything is built.

    Raises:
        ValueError: a value is out of range, two flags contradict, or a flag would change nothing.
    """
    check_flags(options)
    what, size, batch = options.what, options.size, options.batch_size
    if not names:
        raise ValueError("there is nothing to measure; give recipes (`semask models` lists them) or checkpoints")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"{twice[0]!r} is given twice; give it once")
    if size is not None and len(size) not in {1, 2}:
        given = " ".join(map(str, size)) or "nothing"
        raise ValueError(f"--size takes a height and a width, or the side of a square; got {given}")
    # flags without effect, which the record would show as if they had one
    for field in fields(options):
        where = EFFECT.get(field.name, (what,))
        if what not in where and getattr(options, field.name) != field.default:
            flag = "--data.root" if field.name == "root" else f"--{field.name.replace('_', '-')}"
            raise ValueError(f"{flag} is for --what {', '.join(where)}; leave it out with --what {what}")
    if options.memory is not None and not options.max_batch:
        raise ValueError("--memory is for --max-batch; leave it out")
    # contradictions
    if options.max_batch and options.batch is not None:
        raise ValueError(f"--max-batch finds the batch; leave out --batch {options.batch}")
    if options.reference and "reference" in options.against:
        raise ValueError("--reference measures the reference forms alone; leave it out to compare with them")
    if what == "load" and options.images < batch:
        raise ValueError(f"--images {options.images} is less than a batch of {batch}; give a multiple")
    # comparisons without a counterpart
    libraries = get_args(Rival)[1:]
    without = {"load": get_args(Rival), "evaluate": libraries, "predict": ("timm",)}.get(what, ())
    if rivals := [rival for rival in options.against if rival in without]:
        raise ValueError(
            f"--against {' '.join(rivals)} has no counterpart of --what {what}; use --what forward or train"
        )
