import torch

from semask.models.encoders.hrnet import PolarizedSelfAttention


def test_it_is_the_paper_s_formula_cell_by_cell() -> None:
    attention = PolarizedSelfAttention(6)
    for weight in attention.parameters():
        weight.data.mul_(3)
    x = torch.randn(2, 6, 3, 4)
    query, value, up, cell_query, cell_value = (
        conv.weight[..., 0, 0]
        for conv in (
            attention.channel_query,
            attention.channel_value,
            attention.channel_gate,
            attention.cell_query,
            attention.cell_value,
        )
    )
    with torch.no_grad():
        out = attention(x)
        for image, ours in zip(x, out, strict=True):
            cells = image.flatten(1)  # c n
            share = (query @ cells)[0].softmax(0)
            summed = sum(share[n] * (value @ cells[:, n]) for n in range(12))
            channel_gate = torch.sigmoid(up @ summed)
            mean = (cell_query @ cells).mean(1).softmax(0)
            for n in range(12):
                cell_gate = torch.sigmoid(mean @ (cell_value @ cells[:, n]))
                expected = channel_gate * cells[:, n] + cell_gate * cells[:, n]
                torch.testing.assert_close(ours.flatten(1)[:, n], expected)


def test_it_works_at_half_the_width() -> None:
    assert sum(weight.numel() for weight in PolarizedSelfAttention(48).parameters()) == 48 + 4 * 48 * 24
