import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.ops.resize import fit_size, padding_to_multiple, window_starts
from semask.ops.windows import join_windows, pad_to_windows, split_windows


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 7))
def test_joining_undoes_splitting(batch: int, height: int, width: int, size: int) -> None:
    x = torch.randn(batch, height, width, 2)
    padded = pad_to_windows(x, size)
    windows = split_windows(padded, size)
    assert windows.shape[1] == size * size
    joined = join_windows(windows, size, padded)
    assert torch.equal(joined, padded)
    assert torch.equal(joined[:, :height, :width], x)
    assert padded[:, height:].abs().sum() == 0
    assert padded[:, :, width:].abs().sum() == 0


def test_windows_are_cut_row_by_row() -> None:
    grid = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert split_windows(grid, 2)[..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_window_starts_cover_everything(size: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    starts = window_starts(size, window, stride)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered >= set(range(size))
    assert starts == sorted(set(starts))
    assert starts[-1] == max(size - window, 0)


def test_fit_size_against_recorded_numbers() -> None:
    # mmcv 1.3.0's rescaling: (height, width) into a (long, short) box, side·f + 0.5 truncated.
    assert fit_size(512, 683, (2048, 512)) == (512, 683)
    assert fit_size(683, 512, (2048, 512)) == (683, 512)
    assert fit_size(1024, 2048, (2048, 1024), 0.5) == (512, 1024)
    assert fit_size(480, 640, (2048, 512)) == (512, 683)
    assert fit_size(256, 2048, (2048, 512)) == (256, 2048)
    assert fit_size(300, 400, (2048, 512), 1.75) == (896, 1195)
    assert fit_size(1, 5000, (2048, 512)) == (1, 2048)
    assert fit_size(1, 100, (100, 1), 0.5) == (1, 50)


def test_padding_to_multiple() -> None:
    assert padding_to_multiple(97, 131, 32) == (31, 29)
    assert padding_to_multiple(64, 96, 32) == (0, 0)
