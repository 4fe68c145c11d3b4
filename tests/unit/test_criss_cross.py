import pytest
import torch

from semask.models.decoders.ccnet import CrissCrossAttention


def by_cells(attention: CrissCrossAttention, x: torch.Tensor) -> torch.Tensor:
    """Criss-cross attention one cell at a time."""
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    batch, _, height, width = x.shape
    out = torch.empty_like(x)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                seen = [(k, j) for k in range(height) if k != i] + [(i, k) for k in range(width)]
                scores = torch.stack([query[b, :, i, j] @ key[b, :, r, c] for r, c in seen]).softmax(0)
                out[b, :, i, j] = sum(s * value[b, :, r, c] for s, (r, c) in zip(scores, seen, strict=True))
    return x + attention.gain * out


@pytest.mark.parametrize("size", [(3, 5), (4, 1), (1, 4), (1, 1)], ids=str)
def test_every_cell_sees_its_row_and_its_column_itself_once(size: tuple[int, int]) -> None:
    attention = CrissCrossAttention(16)
    attention.gain.data.fill_(0.7)
    for conv in (attention.query, attention.key):
        conv.weight.data.mul_(4)
    x = torch.randn(2, 16, *size)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), by_cells(attention, x))


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(CrissCrossAttention(8)(x), x)
