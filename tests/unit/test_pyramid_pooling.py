import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.models.decoders.pspnet import PyramidPooling, averages, pool

SIDES = st.integers(1, 40)


@settings(max_examples=80, deadline=None)
@given(height=SIDES, width=SIDES, bins=st.integers(1, 9))
def test_pooling_is_adaptive_average_pooling(height: int, width: int, bins: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(pool(x, (bins, bins)), F.adaptive_avg_pool2d(x, bins))


def test_cells_overlap_where_they_do_not_divide_the_map() -> None:
    assert averages(4, 3, torch.zeros(1)).tolist() == [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]
    assert averages(2, 6, torch.zeros(1)).tolist() == [[1, 0]] * 3 + [[0, 1]] * 3


def test_levels_follow_the_map_coarsest_first() -> None:
    pooling = PyramidPooling(3, 4).eval()
    x = torch.randn(2, 3, 7, 11)
    with torch.inference_mode():
        out = pooling(x)
        levels = [
            level(F.adaptive_avg_pool2d(x, bins)) for bins, level in zip((1, 2, 3, 6), pooling.levels, strict=True)
        ]
    assert out.shape == (2, pooling.out_channels, 7, 11) == (2, 19, 7, 11)
    assert torch.equal(out[:, :3], x)
    for index, level in enumerate(levels):
        resized = F.interpolate(level, size=(7, 11), mode="bilinear", align_corners=False)
        torch.testing.assert_close(out[:, 3 + 4 * index : 7 + 4 * index], resized)


def test_a_map_of_a_level_s_own_size_exports_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pooling = PyramidPooling(3, 4).eval()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    sizes = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
    program = torch.export.export(pooling, (torch.randn(1, 3, 5, 9),), dynamic_shapes=(sizes,))
    for size in ((2, 3), (6, 6), (3, 2), (33, 64)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(x), pooling(x))
