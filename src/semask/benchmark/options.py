"""What is measured, and how. Without torch, since a command's help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    """One measurement of some sides; every side is measured alike.

    size: (height, width) [px], None is each recipe's crop, or the protocol's with `largest`. batch: images at once.
    largest: find each side's largest batch that fits, in `memory` [GiB] on a processor. step: training steps with the
    optimiser's. test: how `predict` and `evaluate` go over an image. channels_last: None as semask itself has it, in
    training where convolutions gain. plain: all sides by plain formulations. threads: None keeps torch's. images:
    pictures of one run of `evaluate` and `load`; root: of whose folder, else the recipe's scenes or drawn files.
    """

    what: What = "forward"
    size: tuple[int, int] | None = None
    batch: int = 1
    largest: bool = False
    memory: float | None = None
    dtype: Dtype = "float32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    channels_last: bool | None = None
    against: tuple[Library, ...] = ()
    plain: bool = False
    test: Test = "whole"
    step: bool = False
    rounds: int = FEW_ROUNDS
    warmup: int = 3
    threads: int | None = None
    root: Path | None = None
    images: int = 16
    workers: int = 0

    @property
    def reads_files(self) -> bool:
        """Whether pictures come from files, not from random numbers."""
        return self.what in ("evaluate", "load")


def check(options: Options) -> None:
    """Raise a ValueError that tells what cannot be measured, before anything is built."""
    numbers = {"--batch": options.batch, "--rounds": options.rounds, "--images": options.images}
    if options.threads is not None:
        numbers["--threads"] = options.threads
    for flag, number in numbers.items():
        if number < 1:
            raise ValueError(f"{flag} must be at least 1, got {number}")
    if options.warmup < 0 or options.workers < 0:
        raise ValueError(f"--warmup and --workers are numbers from 0 on, got {options.warmup} and {options.workers}")
    if options.size is not None and min(options.size) < 1:
        raise ValueError(f"--size is a height and a width [px] from 1 on, got {options.size[0]} {options.size[1]}")
    if options.memory is not None and not options.memory > 0:
        raise ValueError(f"--memory must be more than 0 GiB, got {options.memory:g}")
    if options.largest and options.reads_files:
        raise ValueError(f"the largest batch is found for forward, predict and train, not for --what {options.what}")
    if options.reads_files and (peers := [library for library in options.against if library != "plain"]):
        raise ValueError(
            f"--what {options.what} measures semask's own way from files, which {', '.join(peers)} have no equal of; "
            "compare forward, predict or train"
        )
    if options.what == "load" and options.images < options.batch:
        raise ValueError(f"--images {options.images} is less than one batch of {options.batch}; give a multiple of it")
    if options.what != "train" and options.step:
        raise ValueError(f"--step is the optimiser's and belongs to --what train, not to {options.what}")
