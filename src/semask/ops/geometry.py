"""Sizes: fitting an image into a box, padding to a multiple, the windows that cover an image."""

from __future__ import annotations


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
