"""Sizes of images and maps, by arithmetic first; resizing and padding."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from semask.ops.reference import is_reference, runs_eagerly

logger = logging.getLogger(__name__)
CLEAR, OVERSHOOT = 0.75, 0.1
"""How far beyond [0, 1] values are of another range for certain, and may be overshoots of cubic resizing."""


def size_of(x: Shaped[Tensor, "*b h w"]) -> tuple[int, int]:
    """Return the (height, width) of maps or images, channels first."""
    return x.shape[-2], x.shape[-1]


def resize(
    x: Float[Tensor, "b c h w"], size: tuple[int, int], *, align_corners: bool = False, antialias: bool = False
) -> Float[Tensor, "b c H W"]:
    """Resize maps bilinearly to `size` (height, width); a map of that size is returned as it is."""
    if _are_equal(size_of(x), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners, antialias=antialias)


def _are_equal(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Compare two sizes; symbolic ones are equal only if they are for all images, so that one graph serves all."""
    if not torch.compiler.is_compiling():
        return size == tuple(other)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size[0] == other[0]) and statically_known_true(size[1] == other[1])


def sum_equal_sizes(maps: Iterable[Tensor]) -> Iterable[Tensor]:
    """Add up neighbouring maps of equal size, so that what follows, a linear step, runs once for their sum."""
    if is_reference():
        return maps
    sums: list[Tensor] = []
    for level in maps:
        if sums and _are_equal(size_of(sums[-1]), size_of(level)):
            sums[-1] = sums[-1] + level
        else:
            sums.append(level)
    return sums


def convolve_resized(
    conv: nn.Conv2d, levels: Sequence[Float[Tensor, "b _c _h _w"]], size: tuple[int, int]
) -> Float[Tensor, "b o h w"]:
    """Apply a 1×1 convolution without bias to maps that are resized to `size` and concatenated."""
    if is_reference():
        return conv(torch.cat([resize(level, size) for level in levels], dim=1))
    # Both steps are linear, so each level is convolved at its own grid and resized afterwards.
    total: Tensor | None = None
    # the columns of the weight that act on this level
    for level, weight in zip(levels, conv.weight.chunk(len(levels), dim=1), strict=True):
        part = resize(F.conv2d(level, weight), size)
        total = part if total is None else total + part
    assert total is not None
    return total


def concatenate_resized(
    levels: Iterable[Float[Tensor, "b _c _h _w"]], size: tuple[int, int], *, channels: int
) -> Float[Tensor, "b c h w"]:
    """Resize maps of `channels` in all to one size, side by side.

    Without gradients one map at a time is in memory beside the result, if `levels` makes them as they are asked for.
    """
    if torch.is_grad_enabled() or not runs_eagerly():
        return torch.cat([resize(level, size) for level in levels], dim=1)
    joined: Tensor | None = None
    first = 0
    for level in levels:
        if joined is None:
            last = level.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            shape = (len(level), channels, *size)
            joined = torch.empty(shape, dtype=level.dtype, device=level.device, memory_format=layout)
        joined[:, first : first + level.shape[1]] = resize(level, size)
        first += level.shape[1]
    assert joined is not None
    return joined


def pad_images(images: Float[Tensor, "b c h w"], bottom: int, right: int) -> Float[Tensor, "b c H W"]:
    """Pad images with zeros at the bottom and right [px]."""
    if not torch.compiler.is_compiling() and bottom == right == 0:
        return images  # padding by nothing would copy them
    return F.pad(images, (0, right, 0, bottom))


def to_float(image: UInt8[Tensor, "*b c H W"] | Float[Tensor, "*b c H W"]) -> Float[Tensor, "*b c H W"]:
    """Return bytes as float32 in [0, 1], contiguous channel by channel, and floats as they are."""
    return image.contiguous().float().div_(255.0) if image.dtype == torch.uint8 else image


def check_range(images: Tensor) -> None:
    """Refuse images that are clearly of another range than [0, 1], and warn of those that may be.

    May be: somewhat beyond, or so dark that 8-bit values were divided twice. Compiled and exported graphs do not look.
    """
    if not runs_eagerly() or not images.is_floating_point() or not images.numel():
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if low < -CLEAR or high > 1 + CLEAR:
        raise ValueError(
            f"float images have values in [0, 1], got {low:g} … {high:g}; divide 8-bit values by 255, and leave mean "
            "and standard deviation to the model"
        )
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        logger.warning("images have values in [0, 1], and these lie in %.3g … %.3g; are they normalised?", low, high)
    if 0 < high <= 1 / 255:
        logger.warning("all values of the images are below 1/255 (at most %.3g); were they divided by 255 twice?", high)


def fit_size(height: int, width: int, box: tuple[int, int], ratio: float = 1.0) -> tuple[int, int]:
    """Return the size (height, width) [px] that fits an image into `box`, aspect ratio kept.

    The box is (long, short) [px] whatever the image's orientation; `ratio` scales the box, truncated to whole pixels.

    Source: SeMask recipes (mmsegmentation's Resize, mmcv 1.3.0 rescaling): side·f + 0.5, truncated.
    """
    long_side, short_side = (max(1, int(side * ratio)) for side in (max(box), min(box)))
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def enlarged_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size (height, width) [px] with a short side of `side`, ratio kept; no image is made smaller.

    Source: Segmenter's authors' code: the long side is truncated to whole pixels.
    """
    short, long = min(height, width), max(height, width)
    if short >= side:
        return height, width
    stretched = int(long / short * side)
    return (side, stretched) if height == short else (stretched, side)


def padding_to_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Return the (bottom, right) padding [px] that makes both sides divisible by `multiple`."""
    return divide_up(height, multiple) * multiple - height, divide_up(width, multiple) * multiple - width


def divide_up(side: int, divisor: int) -> int:
    """Return ⌈side / divisor⌉.

    Where these are nested, a compiler for all sizes makes one of them: ⌈⌈a / b⌉ / c⌉ = ⌈a / bc⌉. Remainders, and
    (side + divisor - 1) // divisor, grow from layer to layer, and it takes minutes to follow them.
    """
    return -(-side // divisor)


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return the offsets [px] of windows that cover `size`; the last one ends at the border.

    A window larger than the axis starts at 0 (the caller pads or shrinks it).
    """
    last = max(size - window, 0)
    return [*range(0, last, stride), last]
