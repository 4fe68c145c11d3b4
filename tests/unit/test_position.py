"""Sines and cosines of places against a loop, and against transformers' embedding."""

import math
import warnings

import pytest
import torch

from semask.models.layers.attention import sine_positions
from tests.facts import facts


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 2)])
def test_against_a_loop(height: int, width: int) -> None:
    channels = 12
    found = sine_positions(torch.zeros(2, 7, height, width), channels)
    assert found.shape == (1, height * width, channels)
    for token in range(height * width):
        row, column = divmod(token, width)
        expected = []
        for place, size in ((row, height), (column, width)):
            angle = 2 * math.pi * (place + 1) / (size + 1e-6)
            for pair in range(channels // 4):
                wave = angle / 10_000 ** (2 * pair / (channels // 2))
                expected += [math.sin(wave), math.cos(wave)]
        torch.testing.assert_close(found[0, token], torch.tensor(expected), rtol=0, atol=1e-5)


def test_against_transformers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding
    theirs = Mask2FormerSinePositionEmbedding(num_position_features=16, normalize=True)
    expected = theirs(torch.Size((1, 3, 7, 11)), torch.device("cpu"), torch.float32)
    found = sine_positions(torch.zeros(1, 3, 7, 11), 32)
    torch.testing.assert_close(found, expected.reshape(1, 32, -1).transpose(1, 2), rtol=0, atol=1e-5)


def test_places_are_computed_before_they_are_rounded() -> None:
    """In bfloat16 the places of a map of over 256 tokens would fall together."""
    half = sine_positions(torch.zeros(1, 1, 1, 400, dtype=torch.bfloat16), 8)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, sine_positions(torch.zeros(1, 1, 1, 400), 8).bfloat16())


def test_a_width_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=facts(4, 6)):
        sine_positions(torch.zeros(1, 1, 2, 2), 6)
