"""Robustness: the loss of a predictor's mIoU on corrupted images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from semask.data.corruptions import CORRUPTIONS, KINDS, STRENGTHS, corrupt
from semask.evaluation.loop import Samples
from semask.evaluation.metrics.confusion import null
from semask.structures import Sample


@dataclass(frozen=True)
class CorruptedSamples:
    """Chosen samples under one corruption, the same at every access; `name` None leaves them as they are."""

    samples: Samples
    chosen: Sequence[int]
    name: str | None
    strength: int = 1
    seed: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[self.chosen[index]]
        if self.name is None:
            return sample
        # the name seeds, so that order and number of images do not matter
        key = f"{self.seed} {sample.name}"
        corrupted = corrupt(sample.image, sample.label, name=self.name, strength=self.strength, key=key)
        return Sample(*corrupted, sample.name)


class Robustness(NamedTuple):
    """The mIoU of clean images and, by corruption, of corrupted ones, one for each of the strengths."""

    clean: float
    strengths: tuple[int, ...]
    miou: dict[str, tuple[float, ...]]

    def degradation(self, miou: float) -> float:
        """Return the share of the clean mIoU that is lost; nan where the clean one is 0."""
        return 1.0 - miou / self.clean if self.clean else float("nan")

    def by_corruption(self) -> dict[str, float]:
        """Return each corruption's mean over the strengths."""
        return {name: float(np.mean(values)) for name, values in self.miou.items()}

    def by_kind(self) -> dict[str, float]:
        """Return each kind's mean over its measured corruptions."""
        means = self.by_corruption()
        measured = {kind: [means[name] for name in names if name in means] for kind, names in KINDS.items()}
        return {kind: float(np.mean(values)) for kind, values in measured.items() if values}

    def mean(self) -> float:
        """Return the mean over all corruptions and strengths."""
        return float(np.mean(list(self.by_corruption().values())))

    def to_dict(self) -> dict[str, Any]:
        """Return scores, means and degradation for JSON, null where they are undefined."""
        means = {**self.by_corruption(), **self.by_kind(), "mean": self.mean()}
        return {
            "clean": null(self.clean),
            "strengths": list(self.strengths),
            "miou": {name: [null(value) for value in values] for name, values in self.miou.items()},
            "means": {name: null(value) for name, value in means.items()},
            "degradation": {name: null(self.degradation(value)) for name, value in means.items()},
        }


def spread_out(total: int, images: int | None) -> range | list[int]:
    """Return the indices of all images, or of so many at even distances, first and last among them.

    Raises:
        ValueError: `images` is less than 1.
    """
    if images is not None and images < 1:
        raise ValueError(f"--images must be at least 1, got {images}; leave it out for all")
    if images is None or images >= total:
        return range(total)
    return [round(place) for place in np.linspace(0, total - 1, images)]


def check_choice(corruptions: Sequence[str], strengths: Sequence[int]) -> None:
    """Check corruptions and strengths.

    Raises:
        ValueError: one is unknown or given twice, or there are none.
    """
    for what, given, allowed in (("corruptions", corruptions, CORRUPTIONS), ("strengths", strengths, STRENGTHS)):
        unknown = [str(value) for value in given if value not in allowed]
        if unknown or not given or len({*given}) < len(given):
            fault = f"{', '.join(unknown)} is none of them" if unknown else "give at least one, and each once"
            raise ValueError(f"{what} are {', '.join(map(str, allowed))}; {fault}")


def measure_robustness(
    evaluate: Callable[[Samples], float],
    samples: Samples,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    strengths: Sequence[int] = STRENGTHS,
    images: int | None = None,
    seed: int = 0,
) -> Robustness:
    """Return the mIoU by `evaluate` of samples, clean and under every corruption at every strength.

    `images` takes so many, spread evenly over the data set; None takes all. The same ones are used throughout.

    Raises:
        ValueError: as in `check_choice` and `spread_out`.
    """
    check_choice(corruptions, strengths)
    # clean, then every corruption at every strength
    chosen = tuple(spread_out(len(samples), images))
    clean = evaluate(CorruptedSamples(samples, chosen, name=None))

    def scores(name: str) -> tuple[float, ...]:
        runs = (CorruptedSamples(samples, chosen, name=name, strength=each, seed=seed) for each in strengths)
        return tuple(evaluate(corrupted) for corrupted in runs)

    return Robustness(clean, tuple(strengths), {name: scores(name) for name in corruptions})
