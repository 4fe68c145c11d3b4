"""The dense Swin against timm's own where both mean the same, and against a loop over pairs of tokens."""

import jaxtyping
import pytest
import timm
import torch
from timm.models.swin_transformer import WindowAttention

from semask.checkpoints.pretrained import resize_bias_table
from semask.models.build import build_encoder
from semask.models.encoders.chain import timm_chain
from semask.models.encoders.swin import ShiftedWindowAttention, relative_positions
from semask.recipes.encoders import SwinOptions

SMALL = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4)}


def test_equals_timm_where_windows_tile_the_maps() -> None:
    name = "swin_tiny_patch4_window7_224"
    chain = timm_chain(name, **SMALL)
    theirs = timm.create_model(name, features_only=True, **SMALL).eval()
    chain.modules.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224)
    x = images
    ours = []
    with torch.inference_mode():
        for child in chain.modules.eval().values():
            x = child(x)
            ours.append(x)
        expected = theirs(images)
    for mine, other in zip(ours[-4:-1], expected[:-1], strict=True):  # timm's last stage, 7×7, does not shift
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 8), (5, 7), (3, 2)])
def test_against_a_loop_over_pairs(shift: int, height: int, width: int) -> None:
    size, heads, width_of_head = 4, 2, 3
    attention = WindowAttention(heads * width_of_head, heads, window_size=size)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    dense = ShiftedWindowAttention(attention, shift=shift)
    x = torch.randn(1, height, width, heads * width_of_head)
    rows, columns = -(-height // size) * size, -(-width // size) * size
    grid = torch.zeros(rows, columns, heads * width_of_head)
    grid[:height, :width] = x[0]
    query, key, value = dense.qkv(grid).unflatten(-1, (3, heads, -1)).unbind(2)
    table = attention.relative_position_bias_table

    def place(token: int, axis: int) -> tuple[int, int]:
        """Position after the shift, and the token's region on the padded grid."""
        position = (token - shift) % axis
        return position, int(position >= axis - size) + int(position >= axis - shift) if shift else 0

    expected = torch.zeros(height, width, heads, width_of_head)
    tokens = [(r, c) for r in range(rows) for c in range(columns)]
    for r, c in [(r, c) for r in range(height) for c in range(width)]:
        (pr, region_r), (pc, region_c) = place(r, rows), place(c, columns)
        for head in range(heads):
            scores, values = [], []
            for r2, c2 in tokens:
                (pr2, region_r2), (pc2, region_c2) = place(r2, rows), place(c2, columns)
                if (pr // size, pc // size) != (pr2 // size, pc2 // size):
                    continue
                bias = table[(pr - pr2 + size - 1) * (2 * size - 1) + pc - pc2 + size - 1, head]
                apart = 0.0 if (region_r, region_c) == (region_r2, region_c2) else -100.0
                scores.append(query[r, c, head] @ key[r2, c2, head] * width_of_head**-0.5 + bias + apart)
                values.append(value[r2, c2, head])
            expected[r, c, head] = torch.softmax(torch.stack(scores), 0) @ torch.stack(values)
    torch.testing.assert_close(dense(x)[0], dense.proj(expected.flatten(2)), rtol=1e-4, atol=1e-5)


def test_drop_path_rises_linearly_to_the_last_block() -> None:
    encoder = build_encoder(SwinOptions(drop_path=0.3, weights=None), 2)
    rates = [
        m.drop_prob for name, m in encoder.named_modules() if name.endswith("drop_path1") and hasattr(m, "drop_prob")
    ]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 12)[1:])


def test_no_drop_path_means_none() -> None:
    """timm's Swin has a default of its own."""
    encoder = build_encoder(SwinOptions(drop_path=0.0, weights=None), 2)
    assert not [m for m in encoder.modules() if getattr(m, "drop_prob", 0.0)]


def test_relative_positions() -> None:
    index = relative_positions(2)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    attention = WindowAttention(4, 1, window_size=7)
    assert torch.equal(relative_positions(7), attention.relative_position_index)


def test_bias_tables_of_another_window() -> None:
    table = torch.linspace(-1, 1, 13)[:, None].repeat(1, 13).reshape(-1, 1)  # rises with the row difference
    resized = resize_bias_table(table, (12, 12)).reshape(23, 23)
    assert (resized.diff(dim=0) >= -1e-6).all()
    assert resized.std(dim=1).max() < 1e-6
    torch.testing.assert_close(resize_bias_table(table, (7, 7)), table)


@pytest.mark.parametrize("strength", [1.0, 40.0])
def test_exported_attention_has_no_denormal_weights(monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    """Products with them take ten times as long in ONNX Runtime. Strong scores reach over what lowers them."""
    import onnxruntime

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    layer = ShiftedWindowAttention(WindowAttention(16, num_heads=2, window_size=4), shift=2).eval()
    x = torch.randn(1, 10, 9, 16)
    with torch.no_grad():
        layer.qkv.weight[:32] *= strength
        program = torch.export.export(layer, (x,))
        model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
        expected = layer(x)
    weights = [node.output[0] for node in model.graph.node if node.op_type == "Where"]
    model.graph.output.extend(type(model.graph.output[0])(name=name) for name in weights)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, *weights = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    tiny = torch.finfo(torch.float32).tiny
    assert weights
    assert not any(((each > 0) & (each < tiny)).any() for each in weights)
