"""What is measured, and how: the flags of `semask bench`. Without torch, since its help reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

What = Literal["forward", "predict", "train", "evaluate", "load"]
Library = Literal["plain", "transformers", "smp", "torchvision", "timm"]
Test = Literal["whole", "sliding", "recipe"]
Dtype = Literal["float32", "bfloat16"]
PROTOCOL_SIZE = (512, 512)
"""Of the largest batch. Source: Segmenter (arXiv:2105.05633) §4.1."""
FEW_ROUNDS = 20
"""Below this, the 90th and 99th percentile say little."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One measurement; all sides are measured alike."""

    what: What = "forward"
    """forward: images to logits at the model's own grid; predict: bytes to label maps; train: forward, loss and
    backward; evaluate: files to the confusion matrix; load: files to batches of training."""
    size: tuple[int, ...] | None = None
    """Height and width of images [px], or the side of squares; None is the recipe's crop, with --max-batch 512. With
    evaluate and load: of the pictures that are drawn where there is no data."""
    batch: int | None = None
    """Images at once; None is 1, of train 2."""
    max_batch: bool = False
    """Find the largest batch that fits into the memory, and measure with that (Segmenter's protocol)."""
    memory: float | None = None
    """With --max-batch on a processor: the most memory to use [GiB]; None is 80 % of what is free."""
    dtype: Dtype = "float32"
    """bfloat16 is by autocast."""
    compile: bool = False
    """Compile the models with torch.compile; the first run, which does that, is told apart."""
    channels_last: bool | None = None
    """Lay the models out channels last; None is as `semask train` has it: in training, where convolutions gain."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    threads: int | None = None
    """Of the processor; None keeps torch's choice."""
    against: tuple[Library, ...] = ()
    """Measure these beside every recipe: its own plain formulations, and other libraries' models of its kind."""
    plain: bool = False
    """Measure the plain formulations, as SEMASK_PLAIN=1 does."""
    test: Test = "whole"
    """With predict and evaluate: the image at once, by the recipe's sliding windows, or as the recipe's test says."""
    step: bool = False
    """With train: the optimiser's step too."""
    recompute_stages: tuple[int, ...] | None = None
    """With train: stages of our encoders, 1 … 4, that are made again in the backward pass; None is the recipe's own."""
    rounds: int = FEW_ROUNDS
    """Measured runs of each."""
    warmup: int = 3
    """Runs of each before those, besides a first one."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """With evaluate and load: folder or zip file of the recipe's data set; without one, scenes are drawn to files."""
    images: int = 16
    """With evaluate and load: pictures of a run."""
    workers: int = 0
    """With evaluate and load: processes that read pictures; 0 reads in the measuring process."""

    @property
    def reads_files(self) -> bool:
        """Whether pictures come from files, not from random numbers."""
        return self.what in ("evaluate", "load")

    @property
    def batch_size(self) -> int:
        """Images at once, where the largest batch is not asked for."""
        return self.batch if self.batch is not None else 2 if self.what == "train" else 1

    def size_for(self, crop: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of images [px] for a recipe of that crop."""
        if self.size is not None:
            return self.size[0], self.size[-1]
        return PROTOCOL_SIZE if self.max_batch else crop


def check(names: Sequence[str], options: Options) -> None:
    """Raise a ValueError that tells what cannot be measured, before anything is built."""
    if not names:
        raise ValueError("there is nothing to measure; give recipes (`semask models` lists them) or checkpoints")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"{twice[0]!r} is given twice; give it once, a model is not compared with itself")
    numbers = {"batch": options.batch, "rounds": options.rounds, "images": options.images, "threads": options.threads}
    for flag, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"--{flag} must be at least 1, got {number}")
    if options.warmup < 0 or options.workers < 0:
        raise ValueError(f"--warmup and --workers are numbers from 0 on, got {options.warmup} and {options.workers}")
    if options.size is not None and (len(options.size) not in {1, 2} or min(options.size) < 1):
        told = " ".join(map(str, options.size))
        raise ValueError(
            f"--size is a height and a width, or the side of a square, from 1 px on; got {told or 'nothing'}"
        )
    if options.memory is not None and not options.memory > 0:
        raise ValueError(f"--memory must be more than 0 GiB, got {options.memory:g}")
    if options.max_batch and options.batch is not None:
        raise ValueError(f"--max-batch finds the batch, so leave --batch {options.batch} out")
    if options.plain and "plain" in options.against:
        raise ValueError("--plain measures the plain formulations alone; leave it out to compare with them")
    _check_unused(options)
    if options.what == "predict" and "timm" in options.against:
        raise ValueError("timm's encoder alone makes no label maps; compare with it by --what forward or train")
    if options.reads_files:
        _check_files(options)


def _check_unused(options: Options) -> None:
    """Refuse flags that would change nothing: the record would tell of what was not measured."""
    what, model = options.what, "runs of a model, not for --what load"
    flags = (
        ("--step", options.step, what == "train", "--what train"),
        ("--recompute-stages", options.recompute_stages is not None, what == "train", "--what train"),
        ("--test", options.test != "whole", what in ("predict", "evaluate"), "--what predict and evaluate"),
        ("--data.root", options.root is not None, options.reads_files, "--what evaluate and load"),
        ("--workers", options.workers > 0, options.reads_files, "--what evaluate and load"),
        ("--memory", options.memory is not None, options.max_batch, "--max-batch"),
        ("--compile", options.compile, what != "load", model),
        ("--channels-last", options.channels_last is not None, what != "load", model),
        ("--dtype", options.dtype != "float32", what != "load", model),
    )
    for flag, given, used, where in flags:
        if given and not used:
            raise ValueError(f"{flag} is for {where}; here it would change nothing, so leave it out")


def _check_files(options: Options) -> None:
    if options.max_batch:
        raise ValueError(f"the largest batch is found for forward, predict and train, not for --what {options.what}")
    if peers := [library for library in options.against if library != "plain" or options.what == "load"]:
        raise ValueError(
            f"--what {options.what} is semask's own way from files, which {', '.join(peers)} have no equal of; leave "
            "--against out, or compare forward, predict or train"
        )
    if options.what == "load" and options.images < options.batch_size:
        raise ValueError(
            f"--images {options.images} are less than a batch of {options.batch_size}; give a multiple of the batch"
        )
