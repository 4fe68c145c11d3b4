"""Attention in windows, through class maps and to a few points, beside reference forms and timm's; recomputing.

    python benchmarks/attention.py --threads 1 --rounds 9 --clock cpu

Sides take turns, round by round, in one process, with equal weights; first their outputs are compared. Tables hold
medians of the rounds' ratios, quartiles in brackets: below 1 ours is faster. Memory is the most that a step holds above
what was there before it, in fresh processes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timm.layers import set_fused_attn
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import reference_forms
from semask.benchmark.memory import in_fresh_process, peak_memory
from semask.benchmark.rounds import Clock, Quantiles, Work, alternate, cpu_time, wall
from semask.models.build import build
from semask.models.encoders.swin import DenseSwinBlock
from semask.models.layers.semantic import SemanticAttention, SemanticLayer
from semask.ops.deformable import deformable_attention, grid_of
from semask.ops.memory import checkpoint_stages

MAPS = {"512×512": (128, 128), "500×667": (125, 167)}
VARIANTS = {"Swin-T": (96, 3, 7), "Swin-L": (192, 6, 12)}
"""Width and heads of the first stage, and the side of windows."""
TINY = "ade20k/semask-swin-t-fpn"


def timm_block(width: int, heads: int, window: int, size: tuple[int, int], *, shift: int, fused: bool) -> nn.Module:
    set_fused_attn(fused, experimental=fused)
    block = SwinTransformerBlock(
        width, size, heads, window_size=window, shift_size=shift, always_partition=True, dynamic_mask=True
    )
    set_fused_attn(True)
    return block.eval()


def parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return those of a block's attention."""
    return list(getattr(module, "attn", module).parameters())


def step(module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter]) -> object:
    return torch.autograd.grad(module(x).square().sum(), [x, *parameters])


def forward(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(x)


def by_reference(work: Callable[[], object]) -> object:
    with reference_forms():
        return work()


def window_attention(clock: Clock, rounds: int) -> None:
    """Attention of a block with shifted windows: ours, its reference form, and timm's in both of its ways."""
    print(
        "| attention | image | pass | against reference | against timm | against timm, fused |\n"
        "|---|---|---|---|---|---|"
    )
    for variant, (first, heads, window) in VARIANTS.items():
        for image, finest in MAPS.items():
            for stage in (1, 3):
                scale = 2 ** (stage - 1)
                size = tuple(-(-side // scale) for side in finest)
                theirs = {
                    name: timm_block(
                        first * scale, heads * scale, window, size, shift=window // 2, fused=name == "timm, fused"
                    )
                    for name in ("timm", "timm, fused")
                }
                ours = DenseSwinBlock(theirs["timm"]).attn
                x = torch.randn(1, *size, first * scale, requires_grad=True)
                check(forward(ours, x), plainly(partial(forward, ours, x)))
                for kind in ("forward", "step"):
                    run = partial(forward, x=x) if kind == "forward" else partial(step, x=x)
                    sides: dict[str, Work] = {}
                    for name, module in {"ours": ours, **theirs}.items():
                        given = {} if kind == "forward" else {"parameters": parameters(module)}
                        sides[name] = partial(run, module if name == "ours" else module._attn, **given)
                    sides["reference"] = partial(by_reference, sides["ours"])
                    times = alternate(sides, rounds=rounds, warmup=1, clock=clock)
                    cells = [ratio(times.ratio("ours", to)) for to in ("reference", "timm", "timm, fused")]
                    print(f"| {variant}, stage {stage} | {image} | {kind} | {' | '.join(cells)} |", flush=True)


def semantic_layers(clock: Clock, rounds: int) -> None:
    """A semantic layer over a map of 150 classes, in windows and over the whole map."""
    print(
        "\n| semantic layer | tokens | pass | time against reference | memory against reference |\n"
        "|---|---|---|---|---|"
    )
    for title, width, window, size in (
        ("windows of 7", 96, 7, (128, 128)),
        ("whole map", 384, None, (32, 32)),
        ("whole map", 384, None, (64, 128)),
    ):
        for kind in ("forward", "step"):
            sides = {
                name: semantic_work(width, window, size, kind, name == "reference") for name in ("ours", "reference")
            }
            few = 3 if size == (64, 128) else rounds
            times = alternate(sides, rounds=few, warmup=1, clock=clock)
            held = {
                name: in_fresh_process(
                    memory_of, partial(semantic_work, width, window, size, kind, name == "reference")
                )
                for name in sides
            }
            memory = f"{held['ours'] / held['reference']:.2f}× ({held['ours'] >> 20} of {held['reference'] >> 20} MiB)"
            print(
                f"| {title} | {size[0]}×{size[1]} | {kind} | {ratio(times.ratio('ours', 'reference'))} | {memory} |",
                flush=True,
            )


def tokens_held(clock: Clock, rounds: int) -> None:
    """What a semantic layer over a whole map holds as the map grows, up to the third stage of an image of 4096²."""
    print("\n| tokens of the whole map | memory of a forward pass | KiB a token |\n|---|---|---|")
    for size in ((32, 32), (64, 64), (64, 128), (128, 128), (256, 256)):
        held = in_fresh_process(memory_of, partial(semantic_work, 384, None, size, "forward", False))
        print(f"| {size[0]}×{size[1]} | {held >> 20} MiB | {held / 2**10 / math.prod(size):.1f} |", flush=True)


def semantic_work(width: int, window: int | None, size: tuple[int, int], kind: str, reference: bool) -> Work:
    torch.manual_seed(0)
    layer = SemanticLayer(width, [SemanticAttention(width, 150, dropout=0.0)], window_size=window)
    x = torch.randn(1, *size, width, requires_grad=True)

    def first(x: Tensor) -> Tensor:
        out: Tensor = layer(x)[0]
        return out

    # The query's gradient comes through attention alone here.
    work = partial(forward, first, x) if kind == "forward" else partial(step, first, x, list(layer.parameters()))
    return partial(by_reference, work) if reference else work


def points(clock: Clock, rounds: int) -> None:
    """Deformable attention over the three coarser maps of a 512×512 image, as Mask2Former has it."""
    print("\n| deformable attention, 8 heads of 32, 3 levels, 4 points | time against grid_sample |\n|---|---|")
    sizes = [(16, 16), (32, 32), (64, 64)]
    grid = grid_of(sizes, device=torch.device("cpu"))
    count = sum(height * width for height, width in sizes)
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, count, 8, 32, requires_grad=True),
        (grid.references[None, :, None, None, None] + 0.02 * torch.randn(1, count, 8, 3, 4, 2)).requires_grad_(),
        torch.rand(1, count, 8, 3, 4, requires_grad=True),
    ]

    def run() -> Tensor:
        values, locations, weights = inputs
        return deformable_attention(values, grid, locations, weights)

    check(run(), plainly(run))
    for kind in ("forward", "step"):
        work = (
            torch.no_grad()(run) if kind == "forward" else (lambda: torch.autograd.grad(run().square().sum(), inputs))
        )
        times = alternate(
            {"ours": work, "reference": partial(by_reference, work)}, rounds=rounds, warmup=1, clock=clock
        )
        print(f"| {kind} | {ratio(times.ratio('ours', 'reference'))} |", flush=True)


def recomputing(clock: Clock, rounds: int) -> None:
    """A training step of the tiny SeMask-FPN, 2 images of 512×512, 150 classes; a simple loss on coarse logits."""
    print("\n| stages made again | time against none | memory above the weights |\n|---|---|---|")
    choices: list[tuple[int, ...]] = [(), (1,), (1, 2), (1, 2, 3, 4)]
    sides = {str(stages): training_step(stages) for stages in choices}
    times = alternate(sides, rounds=rounds, warmup=1, clock=clock)
    for stages in choices:
        held = in_fresh_process(memory_of, partial(training_step, stages))
        said = " ".join(map(str, stages)) or "none"
        print(f"| {said} | {ratio(times.ratio(str(stages), '()'))} | {held >> 20} MiB |", flush=True)


def training_step(stages: tuple[int, ...]) -> Work:
    model = build(TINY).train()
    checkpoint_stages(model.encoder, stages)
    images = torch.rand(2, 3, 512, 512)

    def work() -> None:
        model.zero_grad(set_to_none=False)
        out = model(images)
        (out.main.logits.square().mean() + out.prior.logits.square().mean()).backward()

    return work


def memory_of(make: Callable[[], Work]) -> int:
    torch.set_num_threads(1)
    work = make()
    work()
    return peak_memory(work).above


def check(mine: Tensor, other: object) -> None:
    assert isinstance(other, Tensor)
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def ratio(spread: Quantiles) -> str:
    return f"{spread.median:.2f}× ({spread.q25:.2f} … {spread.q75:.2f})"


PARTS = {
    "windows": window_attention,
    "semantic": semantic_layers,
    "tokens": tokens_held,
    "points": points,
    "recompute": recomputing,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = cpu_time if given.clock == "cpu" else wall
    for part in given.parts:
        PARTS[part](clock, 3 if part == "recompute" else given.rounds)


if __name__ == "__main__":
    main()
