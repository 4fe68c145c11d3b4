"""Mask2Former beside that of the library `transformers`: equal weights, alternating runs, medians of ratios.

    python benchmarks/mask2former.py --size 512 512 --rounds 7 --threads 1

First both must give equal logits and, on the CPU, equal losses from equal random draws. Then three things are timed in
one process, ours and theirs in turn: the score map of a user (theirs: forward, resize, softmax, product), the forward
pass with all ten predictions, and a training step (forward, loss at 12544 points, backward). Masks of the labels are
made beforehand for theirs. Peak memory of a training step is measured in fresh processes, in turn as well.

Times differ from machine to machine and hour to hour; what is reported are ratios within a round.
"""

from __future__ import annotations

import gc
import platform
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from semask.benchmark.memory import in_fresh_process, peak_memory
from semask.benchmark.rounds import Clock, Quantiles, alternate, clock_of, cpu_time, rotated
from semask.checkpoints.transformers.export import write_transformers
from semask.losses.build import build_loss
from semask.losses.masks import MaskClassificationLoss
from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.recipes import get_recipe
from semask.structures import MaskLogits


@dataclass(frozen=True)
class Options:
    """What is compared.

    encoder: of a recipe ade20k/<encoder>-mask2former over Swin. classes: in every image, in blocks. attention: what
    transformers is told; "default" is its own choice. clock: "cpu" counts the time that the process computed, for
    machines that others use as well; with one thread that is what the wall clock says on an idle one. rounds,
    memory_rounds: 0 leaves that part out.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 1
    memory_batch: int = 2
    encoder: str = "swin-t"
    classes: int = 12
    rounds: int = 7
    memory_rounds: int = 3
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["default", "sdpa"] = "default"
    clock: Literal["wall", "cpu"] = "wall"

    @property
    def recipe(self) -> str:
        return f"ade20k/{self.encoder}-mask2former"

    def timer(self) -> Clock:
        return cpu_time if self.clock == "cpu" else clock_of(torch.device(self.device))

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


@dataclass(frozen=True)
class Inputs:
    """Images in [0, 1], and labels in both forms."""

    images: Tensor
    labels: Tensor
    class_labels: list[Tensor]
    mask_labels: list[Tensor]


@dataclass(frozen=True)
class Ours:
    """This library's side."""

    model: SegmentationModel
    loss: MaskClassificationLoss

    def scores(self, inputs: Inputs) -> Tensor:
        return self.model.scores(inputs.images)

    def forward(self, inputs: Inputs) -> list[Tensor]:
        out = self.model(inputs.images).main
        assert isinstance(out, MaskLogits)
        return [logits for each in (*out.auxiliary, out) for logits in (each.class_logits, each.mask_logits)]

    def total(self, inputs: Inputs) -> Tensor:
        return self.loss(self.model(inputs.images), inputs.labels).total


@dataclass(frozen=True)
class Theirs:
    """That of transformers; images are normalised as ours are, within what is timed."""

    model: nn.Module
    mean: Tensor
    std: Tensor

    def scores(self, inputs: Inputs) -> Tensor:
        out = self.model(self._normalise(inputs.images))
        size = inputs.images.shape[-2:]
        masks = F.interpolate(out.masks_queries_logits.float(), size=size, mode="bilinear", align_corners=False)
        classes = out.class_queries_logits.float().softmax(-1)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())

    def forward(self, inputs: Inputs) -> list[Tensor]:
        out = self.model(self._normalise(inputs.images), output_auxiliary_logits=True)
        earlier = [(each["class_queries_logits"], each["masks_queries_logits"]) for each in out.auxiliary_logits]
        return [logits for pair in (*earlier, (out.class_queries_logits, out.masks_queries_logits)) for logits in pair]

    def total(self, inputs: Inputs) -> Tensor:
        pixels = self._normalise(inputs.images)
        loss: Tensor = self.model(pixels, mask_labels=inputs.mask_labels, class_labels=inputs.class_labels).loss
        return loss.squeeze()

    def _normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


Side = Ours | Theirs


def make_ours(options: Options) -> Ours:
    torch.manual_seed(0)
    recipe = get_recipe(options.recipe)
    loss = build_loss(recipe)
    assert isinstance(loss, MaskClassificationLoss)
    return Ours(build(recipe).to(options.device), loss)


def make_theirs(options: Options) -> Theirs:
    """Build theirs of the weights of ours, through a folder of files as transformers reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as library
    transformers: Any = library  # whose types are partial
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    ours = make_ours(options).model
    told: dict[str, Any] = {}
    if options.attention != "default":
        told["attn_implementation"] = {"backbone_config": options.attention}
    with tempfile.TemporaryDirectory() as folder:
        write_transformers(folder, ours, get_recipe(options.recipe))
        model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folder, **told).eval()
    print("attention of their encoder:", model.model.pixel_level_module.encoder.config._attn_implementation)
    return Theirs(model.to(options.device), ours.mean.clone(), ours.std.clone())


def make_inputs(options: Options, *, size: tuple[int, int], batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 3, *size, generator=generator)
    # One row of blocks for every class, cut at random places.
    rows = torch.linspace(0, options.classes - 1e-3, size[0])[:, None] + torch.linspace(0, 2, size[1])
    ids = torch.stack([torch.randperm(150, generator=generator)[: options.classes] for _ in range(batch)])
    labels = torch.stack([row[rows.long() % options.classes] for row in ids])
    classes = [row.sort().values for row in ids]
    masks = [(image == row[:, None, None]).float() for image, row in zip(labels, classes, strict=True)]
    device = options.device
    return Inputs(images.to(device), labels.to(device), [c.to(device) for c in classes], [m.to(device) for m in masks])


def check_equal(ours: Ours, theirs: Theirs, inputs: Inputs) -> None:
    """Assert equal outputs to 1e-3 and, on the CPU, losses from equal draws: a GPU's depend on how they are grouped."""
    with torch.inference_mode():
        pairs = [(ours.scores(inputs), theirs.scores(inputs))]
        pairs += zip(ours.forward(inputs), theirs.forward(inputs), strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)
        print(f"equal: {len(pairs)} outputs to 1e-3")
        if inputs.images.device.type != "cpu":
            return
        losses = []
        for side in (ours, theirs):
            torch.manual_seed(2)
            losses.append(side.total(inputs))
        torch.testing.assert_close(*losses, rtol=1e-3, atol=0)
        print(f"equal: losses {losses[0].item():.5f} and {losses[1].item():.5f}")


def step(side: Side, inputs: Inputs, options: Options) -> None:
    """Forward, loss and backward; the gradients of the step before are overwritten in place."""
    side.model.zero_grad(set_to_none=False)
    with options.autocast():
        loss = side.total(inputs)
    loss.backward()


def infer(work: Callable[[Inputs], object], inputs: Inputs, options: Options) -> None:
    with torch.inference_mode(), options.autocast():
        work(inputs)


def compare_times(options: Options) -> None:
    ours, theirs = make_ours(options), make_theirs(options)
    inputs = make_inputs(options, size=options.size, batch=options.batch)
    check_equal(ours, theirs, inputs)
    tasks: dict[str, Callable[[Side], None]] = {
        "score map": lambda side: infer(side.scores, inputs, options),
        "forward, all predictions": lambda side: infer(side.forward, inputs, options),
        "training step": lambda side: step(side, inputs, options),
    }
    for name, task in tasks.items():
        for side in (ours, theirs):
            side.model.train(name == "training step")
        works = {"ours": partial(task, ours), "theirs": partial(task, theirs)}
        found = alternate(works, rounds=options.rounds, warmup=1, clock=options.timer())
        print(f"{name}: theirs took {told(found.ratio('theirs', 'ours'))} of the time of ours", flush=True)


def told(found: Quantiles) -> str:
    return f"{found.median:.2f}× ({found.min:.2f} … {found.max:.2f}, {found.runs} rounds)"


def measure_memory(options: Options, side_name: Literal["ours", "theirs"]) -> dict[str, float]:
    """Return what a training step needs [MiB]: weights with gradients, and what comes on top at the peak.

    Weights and gradients are there before the step, and a step at 64×64 px has loaded all that is loaded late.
    """
    torch.set_num_threads(options.threads)
    side: Side = make_ours(options) if side_name == "ours" else make_theirs(options)
    side.model.train()
    gc.collect()
    step(side, make_inputs(options, size=(64, 64), batch=2), options)
    inputs = make_inputs(options, size=options.size, batch=options.memory_batch)
    fixed = 2 * sum(parameter.nbytes for parameter in side.model.parameters())
    memory = peak_memory(lambda: step(side, inputs, options), torch.device(options.device))
    return {"fixed": fixed / 2**20, "activations": memory.above / 2**20, "process": memory.total / 2**20}


def compare_memory(options: Options) -> None:
    """Run either side in fresh processes, in turn."""
    ratios: dict[str, list[float]] = {}
    for number in range(options.memory_rounds):
        found = {side: in_fresh_process(measure_memory, options, side) for side in rotated(["ours", "theirs"], number)}
        for each in found.values():
            each["step"] = each["fixed"] + each["activations"]
        print({side: {key: round(value) for key, value in each.items()} for side, each in found.items()}, "MiB")
        for key in ("activations", "step", "process"):
            ratios.setdefault(key, []).append(found["ours"][key] / found["theirs"][key])
    for key, name in (
        ("step", "weights, gradients and activations"),
        ("activations", "activations alone"),
        ("process", "the whole process, libraries included"),
    ):
        print(f"peak memory of a training step, {name}: ours took {told(Quantiles.of(ratios[key]))} of theirs")


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    from importlib.metadata import version

    print(f"Python {platform.python_version()},", *(f"{name} {version(name)}" for name in ("torch", "transformers")))
    print(options)
    if options.rounds:
        compare_times(options)
    if options.memory_rounds:
        compare_memory(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
