"""The semantic layer against a loop over windows, and its life at the start of training."""

import pytest
import torch
from torch import Tensor, nn

from semask.models.build import build
from semask.models.layers.semantic import SemanticAttention, SemanticLayer
from semask.recipes import get_recipe
from tests.facts import facts

CHANNELS, CLASSES = 6, 4


def layer_of(
    window_size: int | None, *, units: int = 1, residual: str = "norm", classes: int | None = CLASSES
) -> SemanticLayer:
    attention = [SemanticAttention(CHANNELS, classes) for _ in range(units)]
    return SemanticLayer(CHANNELS, attention, window_size=window_size, residual=residual)


def alive_layer(window_size: int | None, *, units: int = 1) -> SemanticLayer:
    layer = layer_of(window_size, units=units).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer


def one_window(layer: SemanticLayer, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token, as the paper writes it."""
    for unit in layer.units:
        semantic, key, value = unit.query(tokens), unit.key(tokens), unit.value(tokens)
        attended = torch.stack([torch.softmax(semantic[n] @ key.T, dim=0) @ value for n in range(len(tokens))])
        tokens = unit.gain * unit.project(attended) + tokens
    return tokens, semantic


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 9)])
@pytest.mark.parametrize("window", [None, 3, 4])
@pytest.mark.parametrize("units", [1, 2])
def test_against_a_loop_over_windows(height: int, width: int, window: int | None, units: int) -> None:
    layer = alive_layer(window, units=units)
    x = torch.randn(2, height, width, CHANNELS)
    masked, semantic = layer(x)
    side = max(height, width) if window is None else window
    rows, columns = -(-height // side) * side, -(-width // side) * side
    for image in range(2):
        padded = torch.zeros(rows, columns, CHANNELS)
        padded[:height, :width] = layer.norm(x[image])
        if window is None:
            windows = [(slice(0, height), slice(0, width))]
        else:
            windows = [
                (slice(top, top + side), slice(left, left + side))
                for top in range(0, rows, side)
                for left in range(0, columns, side)
            ]
        expected, expected_semantic = torch.zeros_like(padded), torch.zeros(rows, columns, CLASSES)
        for window_of in windows:
            tokens = padded[window_of]
            out, scores = one_window(layer, tokens.reshape(-1, CHANNELS))
            expected[window_of], expected_semantic[window_of] = (
                out.reshape(tokens.shape),
                scores.reshape(*tokens.shape[:2], -1),
            )
        torch.testing.assert_close(masked[image], expected[:height, :width], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(semantic[image], expected_semantic[:height, :width], rtol=1e-4, atol=1e-5)


def test_a_fresh_layer_is_layernorm() -> None:
    layer = layer_of(4).eval()
    x = torch.randn(1, 6, 6, CHANNELS)
    torch.testing.assert_close(layer(x)[0], nn.functional.layer_norm(x, (CHANNELS,)))
    assert layer.units[0].gain.shape == (1,)


def test_a_fresh_layer_on_its_input_is_the_identity() -> None:
    layer = layer_of(4, residual="input").eval()
    x = torch.randn(1, 6, 6, CHANNELS)
    torch.testing.assert_close(layer(x)[0], x)


def test_everything_gets_a_gradient_within_two_steps() -> None:
    layer = layer_of(None)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    x, target = torch.randn(2, 4, 4, CHANNELS), torch.randn(2, 4, 4, CHANNELS)
    seen: list[set[str]] = []
    for _ in range(2):
        optimiser.zero_grad()
        masked, _ = layer(x)  # no supervision of the prior: the harder case
        (masked - target).square().mean().backward()
        optimiser.step()
        seen.append({name for name, p in layer.named_parameters() if p.grad.abs().max() > 0})
    assert "units.0.gain" in seen[0]
    # A softmax does not see a constant added to every key, so the key's bias alone is without one.
    assert seen[1] >= {name for name, _ in layer.named_parameters()} - {"units.0.key.bias"}
    assert layer.units[0].gain.item() != 0


def test_initialisation() -> None:
    unit = SemanticAttention(64, 150)
    assert unit.gain.item() == 0
    for linear in (unit.query, unit.key, unit.value, unit.project):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias.abs().max() == 0


def test_dropout_follows_the_projection() -> None:
    layer = alive_layer(None).train()
    layer.units[0].dropout.p = 1.0
    x = torch.randn(1, 3, 3, CHANNELS)
    torch.testing.assert_close(layer(x)[0], layer.norm(x))


def test_bad_sizes() -> None:
    recipe = get_recipe("scenes/semask-micro-fpn")
    for name, value in (("units", (1, 0, 1, 1)), ("windows", (7, 7, None, 0))):
        path = f"model.encoder.semantic.{name}"
        with pytest.raises(ValueError, match=facts(f"--{path}", 1, 0)):
            build(recipe.override({path: value}))


def test_self_attention_against_torchs() -> None:
    """Without classes a unit is single-head attention as PyTorch has it, and there is no map to supervise."""
    layer = layer_of(None, classes=None).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    unit = layer.units[0]
    theirs = nn.MultiheadAttention(CHANNELS, 1, batch_first=True)
    linears = (unit.query, unit.key, unit.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in linears]))
        theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in linears]))
        theirs.out_proj.weight.copy_(unit.project.weight)
        theirs.out_proj.bias.copy_(unit.project.bias)
    x = torch.randn(2, 5, 3, CHANNELS)
    masked, semantic = layer(x)
    tokens = layer.norm(x).flatten(1, 2)
    expected = tokens + unit.gain * theirs(tokens, tokens, tokens)[0]
    torch.testing.assert_close(masked.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert semantic is None


def test_shifted_windows_against_a_loop_over_pairs() -> None:
    """A token looks at those of its window in the rolled map that did not come from the other border."""
    size, shift, height, width = 4, 2, 6, 7
    units = [SemanticAttention(CHANNELS, CLASSES)]
    layer = SemanticLayer(CHANNELS, units, window_size=size, shifts=[True]).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    x = torch.randn(1, height, width, CHANNELS)
    masked, semantic = layer(x)
    rows, columns = 8, 8
    padded = torch.zeros(rows, columns, CHANNELS)
    padded[:height, :width] = layer.norm(x[0])
    query, key, value = (linear(padded) for linear in (units[0].query, units[0].key, units[0].value))

    def window(row: int, column: int) -> tuple[int, int]:
        # Windows begin at 2, 6 …; what lies before 2 is a narrow window of its own.
        return (row + size - shift) // size, (column + size - shift) // size

    for row in range(height):
        for column in range(width):
            near = [(r, c) for r in range(rows) for c in range(columns) if window(r, c) == window(row, column)]
            weights = torch.softmax(torch.stack([query[row, column] @ key[r, c] for r, c in near]), dim=0)
            attended = sum(w * value[r, c] for w, (r, c) in zip(weights, near, strict=True))
            expected = padded[row, column] + units[0].gain * units[0].project(attended)
            torch.testing.assert_close(
                masked[0, row, column], expected[0] if expected.ndim > 1 else expected, rtol=1e-4, atol=1e-5
            )
    torch.testing.assert_close(semantic[0], query[:height, :width])


def test_without_a_learned_gain_the_residual_has_factor_one() -> None:
    unit = SemanticAttention(CHANNELS, CLASSES, learned_gain=False).eval()
    learned = SemanticAttention(CHANNELS, CLASSES).eval()
    learned.load_state_dict(unit.state_dict() | {"gain": torch.ones(1)})
    x = torch.randn(1, 9, CHANNELS)
    torch.testing.assert_close(unit(x)[0], learned(x)[0])
    assert "gain" not in unit.state_dict()
