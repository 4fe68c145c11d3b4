"""Label maps of coarse scores, beside what one would write first: resize the scores, then take the best class.

    OMP_NUM_THREADS=1 python benchmarks/labels.py --rounds 7 --out benchmarks/labels_<hardware>_<date>.md

Plain is `torch.nn.functional.interpolate` and `argmax`; of masks with classes, `interpolate`, `sigmoid`, `einsum` and
`argmax`; of windows and of mirrored images, sums at the image's size. Ours is what `Pipeline.labels` does; both begin
with the same scores. "Regions" are scores as a trained model gives them, of patches of one class; "noise" is the worst
case, where no neighbours agree. Sides take turns, in a process of its own the memory is measured above the scores'.
Labels must be the same, but for pixels whose two best scores are a millionth apart or less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semask.benchmark.memory import in_fresh_process, peak_memory
from semask.benchmark.rounds import alternate, cpu_time, wall
from semask.inference import Pipeline, sliding, tta
from semask.ops.lazy_scores import LazyScores
from semask.ops.reference import reference_mode
from semask.structures import MaskLogits, PixelLogits

WINDOW, STRIDE = 512, 341


class Case(NamedTuple):
    """What is decided: `kind` of scores, (height, width) of the image [px], classes, and the stride of the scores."""

    what: str
    size: tuple[int, int]
    classes: int
    stride: int
    look: str

    def title(self) -> str:
        height, width = self.size
        return f"{self.what}, {height}×{width}, K = {self.classes}, stride {self.stride}, {self.look}"


HD = (1024, 2048)
CASES = [
    *(Case("pixels", HD, k, stride, look) for k in (150, 19, 2) for stride in (4, 16) for look in ("regions", "noise")),
    *(Case("pixels", size, 150, 4, "regions") for size in ((512, 512), (509, 683))),
    *(Case("confidence", HD, k, 4, "regions") for k in (150, 19)),
    *(Case("masks", size, 150, 4, look) for size in ((640, 640), HD) for look in ("regions", "noise")),
    *(Case("windows", HD, k, 4, "regions") for k in (150, 19)),
    *(Case("flip", HD, k, 4, "regions") for k in (150, 19)),
]


def regions(case: Case) -> Tensor:
    """Return classes by patches of about 64 px, b h w, at the scores' grid."""
    height, width = (-(-side // case.stride) for side in case.size)
    patches = torch.randint(0, case.classes, (1, 1, -(-case.size[0] // 64), -(-case.size[1] // 64)))
    ragged = F.interpolate(
        F.one_hot(patches[0, 0], case.classes).permute(2, 0, 1)[None].float(), (height, width), mode="bicubic"
    )
    return (ragged + 0.1 * torch.randn_like(ragged)).argmax(1)


def scores(case: Case) -> Tensor:
    """Return logits (1 k h w)."""
    height, width = (-(-side // case.stride) for side in case.size)
    noise = torch.randn(1, case.classes, height, width)
    if case.look == "noise":
        return noise
    smooth = F.avg_pool2d(F.one_hot(regions(case), case.classes).permute(0, 3, 1, 2).float(), 3, 1, 1)
    return (8 * smooth + noise).contiguous()


def masks(case: Case) -> MaskLogits:
    """Return a hundred queries: of regions, each the mask of a class, or of noise."""
    height, width = (-(-side // case.stride) for side in case.size)
    classes = torch.randn(1, 100, case.classes + 1)
    noise = torch.randn(1, 100, height, width)
    if case.look == "noise":
        return MaskLogits(classes, noise)
    queries = case._replace(classes=100)
    inside = F.avg_pool2d(F.one_hot(regions(queries), 100).permute(0, 3, 1, 2).float(), 3, 1, 1)
    return MaskLogits(
        8 * F.one_hot(torch.randperm(100) % case.classes, case.classes + 1)[None] + classes,
        (16 * inside - 8 + noise).contiguous(),
    )


class Known:
    """A model whose scores are known: of an image whose pixels tell their place, those at that place."""

    size_multiple, scores_are_logits = 1, True

    def __init__(self, case: Case) -> None:
        self.case, self.logits = case, scores(case)

    def lazy_scores(self, images: Tensor) -> LazyScores:
        size = (images.shape[-2], images.shape[-1])
        height, width = (-(-side // self.case.stride) for side in size)
        # Windows begin anywhere, and each takes scores of the size that it needs.
        top, left = (int(value) // self.case.stride for value in images[0, :2, 0].amin(-1))
        top, left = min(top, self.logits.shape[2] - height), min(left, self.logits.shape[3] - width)
        return PixelLogits(self.logits[:, :, top : top + height, left : left + width]).lazy_scores(size)

    lazy_prior = lazy_scores


def sides(case: Case) -> dict[str, Callable[[], Tensor]]:
    """Return both ways to a label map, or to labels and confidences."""
    torch.manual_seed(0)
    if case.what in ("windows", "flip"):
        return known_sides(case)
    prediction = masks(case) if case.what == "masks" else PixelLogits(scores(case))
    predictor = Pipeline(lambda images: prediction.lazy_scores(case.size))
    nothing = torch.empty(1, 3, 1, 1)

    def plain() -> Tensor:
        found = prediction.scores(case.size)
        if case.what == "confidence":
            return found.softmax(1).max(1)[1]
        return found.argmax(1)

    def ours() -> Tensor:
        return predictor.labelled(nothing).labels if case.what == "confidence" else predictor.labels(nothing)

    return {"plain": plain, "ours": ours}


def known_sides(case: Case) -> dict[str, Callable[[], Tensor]]:
    model = Known(case)
    rows, columns = torch.meshgrid(*(torch.arange(side).float() for side in case.size), indexing="ij")
    image = torch.stack([rows, columns, columns])[None]
    if case.what == "flip":
        predictor = tta(model, ratios=(1.0,), flip=True)
    else:
        predictor = sliding(model, window=(WINDOW, WINDOW), stride=(STRIDE, STRIDE))

    def plain() -> Tensor:
        with reference_mode():
            return predictor.labels(image)

    return {"plain": plain, "ours": lambda: predictor.labels(image)}


def peak(case: Case, side: str) -> int:
    """Return the most memory [bytes] above the scores; called in a process of its own."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        return peak_memory(sides(case)[side]).above


def differing(case: Case) -> str:
    """Return how many pixels differ; raise where one does whose two best scores are not nearly the same."""
    ways = sides(case)
    ours, plain = (ways[name]().long() for name in ("ours", "plain"))
    wrong = (ours != plain).nonzero()
    if len(wrong) and case.what in ("pixels", "confidence", "masks"):
        torch.manual_seed(0)
        prediction = masks(case) if case.what == "masks" else PixelLogits(scores(case))
        image, row, column = wrong.unbind(1)
        of_pixels = prediction.scores(case.size)[image, :, row, column]
        best, chosen = of_pixels.amax(1), of_pixels.gather(1, ours[image, row, column][:, None])[:, 0]
        gap = float(((best - chosen) / best.abs()).max())
        assert gap <= 1e-6, f"{case.title()}: {len(wrong)} pixels differ by up to {gap:g}"
    return str(len(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "| case | time, ours / plain | memory, ours / plain | pixels that differ |",
        "| --- | ---: | ---: | ---: |",
    ]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        if options.only not in case.title():
            continue
        with torch.inference_mode():
            clock = cpu_time if options.threads == 1 else wall
            ratio = alternate(sides(case), rounds=options.rounds, warmup=1, clock=clock).ratio("ours", "plain")
            same = differing(case)
        ours, plain = (in_fresh_process(peak, case, side) / 2**20 for side in ("ours", "plain"))
        time = f"{ratio.median:.3f} ({ratio.min:.3f} … {ratio.max:.3f})"
        lines.append(f"| {case.title()} | {time} | {ours / plain:.3f} ({ours:.0f} / {plain:.0f} MiB) | {same} |")
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
