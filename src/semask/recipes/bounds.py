"""Bounds of every number in a recipe and of the numbers beside it; standard library alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from semask.recipes.recipe import Recipe

MANY = 10**9
SIDE = 32_768
"""Largest side of crops, windows and images [px]."""


class Range(NamedTuple):
    """Allowed numbers; `above` and `below` leave the limit itself out."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and not (
            (self.above and value == self.low) or (self.below and value == self.high)
        )

    def __str__(self) -> str:
        return f"{'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


SHARE, RATE, POSITIVE = Range(0, 1), Range(0, 1, below=True), Range(0, MANY, above=True)
COUNT, WEIGHT, SIDES, FACTOR = Range(1, 65_536), Range(0, MANY), Range(1, SIDE), Range(0, 100, above=True)
BOUNDS: dict[str, dict[str, Range]] = {
    "model": {"num_classes": Range(2, 255), "mean": Range(-1000, 1000), "std": Range(0, 1000, above=True)},
    "model.encoder": {
        **dict.fromkeys(("drop_path", "dropout"), RATE),
        **dict.fromkeys(("embed_dim", "depths", "num_heads", "window_size", "patch_size"), COUNT),
        "image_size": SIDES,
        "norm_eps": Range(0, 1, above=True),
        "output_stride": Range(8, 32),
        "out_layers": Range(0, 65_536),  # the encoder knows how many there are
    },
    "model.encoder.semantic": {"windows": COUNT, "units": COUNT, "dropout": RATE},
    "model.decoder": {
        **dict.fromkeys(("channels", "neck", "window_size", "layers", "queries", "heads", "feedforward"), COUNT),
        **dict.fromkeys(("drop_path", "dropout"), RATE),
    },
    "model.decoder.pixel_decoder": {"layers": COUNT, "feedforward": COUNT},
    "loss": {
        **dict.fromkeys(("prior_weight", "auxiliary_weight", "class_weights"), WEIGHT),
        **dict.fromkeys(("cross_entropy", "dice", "tversky", "lovasz", "focal"), WEIGHT),
        "tversky_alpha": SHARE,
        "focal_gamma": Range(0, 100),
        "ohem_pixels": Range(1, MANY),
    },
    "loss.masks": {
        **dict.fromkeys(("class_weight", "mask_weight", "dice_weight", "no_object_weight"), WEIGHT),
        "points": Range(1, 10**7),
        "oversample_ratio": Range(1, 1000),
        "importance_sample_ratio": SHARE,
    },
    "data": {
        **dict.fromkeys(("fraction", "cat_max_ratio", "repeat_threshold"), Range(0, 1, above=True)),
        **dict.fromkeys(("padding", "flip", "vertical_flip", "rare_crops", "copy_paste"), SHARE),
        "channels": Range(1, 4096),
        "value_range": Range(-1e12, 1e12),
        **dict.fromkeys(("base_scale", "short_edges", "long_edge"), Range(1, 2**20)),
        "base_ratio": FACTOR,
        **dict.fromkeys(("scale_choices", "scale_range"), FACTOR),
        "crop": SIDES,
        "hue": Range(-90, 90),
        "rare_temperature": POSITIVE,
        "scene_size": Range(1, 4096),
        "scene_count": Range(1, 10**7),
    },
    "optim": {
        "lr": Range(0, 1000, above=True),
        "min_lr": Range(0, 1000),
        "weight_decay": Range(0, 1000),
        **dict.fromkeys(("betas", "momentum"), RATE),
        "power": Range(0, 100),
        "warmup_steps": Range(0, MANY),
        "warmup_ratio": SHARE,
        "encoder_lr_scale": WEIGHT,
        "layer_decay": Range(0, 1, above=True),
    },
    "train": {
        **dict.fromkeys(("steps", "eval_every"), Range(1, MANY)),
        **dict.fromkeys(("batch_size", "accumulate"), COUNT),
        "clip_norm": POSITIVE,
        "checkpoint_every": POSITIVE,
        "cached_views": Range(1, 10_000),
        "ema": RATE,
        "early_stop": COUNT,
        "checkpoint_stages": Range(0, 65_536),  # the encoder knows how many there are
        "eval_stride": SIDES,
        "seed": Range(0, 2**32 - 1),
    },
    "test": {
        **dict.fromkeys(("window", "stride"), SIDES),
        "scales": FACTOR,
        "memory_budget": POSITIVE,
        "batch_size": COUNT,
    },
}
"""Ranges by the part of a recipe and its field; each holds for every element of a tuple."""


FLAGS = {
    "actors": COUNT,
    "alpha": SHARE,
    "areas": Range(1, MANY),
    **{name: BOUNDS["data"][name] for name in ("base_scale", "base_ratio")},
    "batch": COUNT,
    "beta": Range(0, 1, below=True),
    "bins": Range(0, 10_000),
    "calibration": Range(1, 100_000),
    "checkpoint_stages": Range(0, 65_536),
    "decoded": Range(0, 100_000),
    "devices": Range(1, 1024),
    "distance": Range(0, 64),
    "end": Range(0, MANY),
    "every": COUNT,
    "gallery": Range(0, 1000),
    "images": Range(1, MANY),
    **dict.fromkeys(("max_drop", "max_class_drop"), Range(0, 100)),
    "memory": POSITIVE,
    "nodes": Range(1, 65_536),
    "outline": Range(0, 1000),
    "pack": Range(0, MANY),
    "resamples": Range(0, 1_000_000),
    "resolution": POSITIVE,
    "rounds": Range(1, 1_000_000),
    "seed": Range(0, 2**32 - 1),
    "seeds": Range(0, 2**32 - 1),
    "simplify": Range(0, 1000),
    "size": SIDES,
    "smooth": Range(1, 1000),
    "start": Range(0, MANY),
    "strengths": Range(1, 5),
    "threads": Range(1, 4096),
    "valid_border": Range(0, SIDE),
    "warmup": Range(0, 1_000_000),
    "workers": Range(0, 1024),
}
"""Ranges of the numbers that no recipe has, by flag; of tuples for every element."""


def check_numbers(part: Any, where: str = "") -> None:
    """Check every number of a recipe, or of a part of one at `where`.

    Raises:
        ValueError: A number is out of its range; the message names the flag.
    """
    for path, value in numbers(part, where):
        section, _, name = path.rpartition(".")
        allowed = BOUNDS[section][name]
        if value not in allowed:
            raise ValueError(f"{path} must lie in {allowed}, got {value:g} (--{path.replace('_', '-')})")


def numbers(part: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a recipe by their path, apart from published figures."""
    if is_dataclass(part):
        names = [field.name for field in fields(part) if not (isinstance(part, Recipe) and field.name == "published")]
        for name in names:
            yield from numbers(getattr(part, name), f"{where}.{name}" if where else name)
    elif isinstance(part, tuple):
        for value in part:
            yield from numbers(value, where)
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield where, part


def check_flags(settings: Any) -> None:
    """Check the numbers of a command's settings or a run's options, apart from those of recipes.

    Raises:
        ValueError: A number is out of its range; the message names the flag.
    """
    for field in fields(settings) if is_dataclass(settings) else ():
        value = getattr(settings, field.name)
        check_flags(value)
        for number in value if isinstance(value, tuple) else (value,):
            if field.name in FLAGS and isinstance(number, int | float) and number not in FLAGS[field.name]:
                raise ValueError(f"--{field.name.replace('_', '-')} must lie in {FLAGS[field.name]}, got {number:g}")
