"""Layers that are computed together: which ones, and that the result stays that of the layers one by one."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import semask
from semask.models.fusion import Group, join_layers
from semask.models.layers.blocks import SameConvolution
from semask.models.layers.linear import adopt_linear
from semask.models.model import SegmentationModel
from semask.ops import linear
from semask.ops.convolution import packs
from semask.ops.reference import reference_mode

RECIPE = "scenes/semask-micro-fpn"
pytestmark = pytest.mark.skipif(not packs(), reason="this build of torch has no oneDNN")


class Chain(nn.Module):
    """A network whose layers are joined to a different degree."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU6(inplace=True)
        self.same = SameConvolution(8, 8, 3, stride=2, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8, affine=False)
        self.silu = nn.SiLU()
        # read twice: the norm cannot be folded
        self.read_twice = nn.Conv2d(8, 8, 1)
        self.bn3 = nn.BatchNorm2d(8)
        # an activation that two layers share
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 1, groups=2)
        self.shared = nn.ReLU()
        self.linear, self.gelu = nn.Linear(8, 16), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.silu(self.bn2(self.same(self.relu(self.bn(self.conv(x))))))
        twice = self.read_twice(x)
        x = self.bn3(twice) + twice
        x = self.shared(self.second(self.shared(self.first(x))))
        out: Tensor = self.gelu(self.linear(x.permute(0, 2, 3, 1)))
        return out


def shaken(network: nn.Module) -> nn.Module:
    """The network with statistics, weights and biases that show whether they count."""
    generator = torch.Generator().manual_seed(1)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.1)
    return network.eval()


@pytest.fixture
def chain() -> Chain:
    torch.manual_seed(0)
    network = Chain()
    adopt_linear(network)
    shaken(network)
    return network


@pytest.fixture(autouse=True)
def fast_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 0)
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)


def join(network: nn.Module) -> list[Group]:
    return join_layers(network, lambda network, images: network(images), (32, 32), 3)


def test_which_layers_are_joined(chain: Chain) -> None:
    found = {group.layer: (group.norm, group.activation) for group in join(chain)}
    assert found == {
        chain.conv: (chain.bn, chain.relu),
        chain.same: (chain.bn2, chain.silu),
        chain.read_twice: (None, None),
        chain.first: (None, None),
        chain.second: (None, None),
        chain.linear: (None, chain.gelu),
    }


@pytest.mark.parametrize("size", [(1, 32, 32), (2, 33, 47), (1, 1, 1)], ids=str)
def test_results_are_those_of_the_layers(chain: Chain, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    images = torch.randn(batch, 3, height, width)
    expected = copy.deepcopy(chain).double()(images.double())
    join(chain)
    with torch.inference_mode():
        found = chain(images)
    assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
    # with gradients, one by one
    assert chain(images).requires_grad


def test_changed_weights_are_seen(chain: Chain) -> None:
    images, groups = torch.randn(1, 3, 32, 32), join(chain)
    with torch.no_grad():
        before = chain(images)
        for change in (
            lambda: chain.conv.weight.mul_(1.5),
            lambda: chain.bn2.running_var.add_(1.0),
            lambda: chain.load_state_dict(shaken(Chain()).state_dict(), assign=True),
        ):
            change()
            with reference_mode():
                expected = chain(images)
            found = chain(images)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found, before, atol=1e-3)
            before = found
    assert all(group.packed is not None for group in groups if isinstance(group.layer, nn.Conv2d))


def test_a_norm_in_training_is_not_folded(chain: Chain) -> None:
    images = torch.randn(4, 3, 32, 32)
    plain = copy.deepcopy(chain)
    join(chain)
    for network in (plain, chain):
        network.bn.train()
    with torch.no_grad():
        torch.testing.assert_close(chain(images), plain(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chain.bn.running_mean, plain.bn.running_mean)


def test_a_path_around_the_layer_meets_the_norm(chain: Chain) -> None:
    """Fast paths may compute a convolution by its weight alone."""
    join(chain)
    with torch.inference_mode():
        x = torch.randn(1, 8, 4, 4)
        expected = nn.functional.batch_norm(
            x, chain.bn.running_mean, chain.bn.running_var, chain.bn.weight, chain.bn.bias
        )
        torch.testing.assert_close(chain.bn(x), expected)
        torch.testing.assert_close(chain.relu(x.clone()), x.clamp(0, 6))


@pytest.fixture
def model() -> SegmentationModel:
    torch.manual_seed(0)
    network = semask.build(RECIPE)
    shaken(network)
    return network


def scores(model: SegmentationModel, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.scores(images)


def test_models_keep_their_weights_and_names(model: SegmentationModel) -> None:
    images = torch.rand(2, 3, 50, 70)
    names, expected = [*model.state_dict()], scores(model, images)
    assert model.fuse() is model
    assert model.fuse()._groups is model._groups
    torch.testing.assert_close(scores(model, images), expected, rtol=1e-4, atol=1e-5)
    assert [*model.state_dict()] == names
    # training gives the second copy of the weights back
    model.train()
    assert all(group.packed is None for group in model._groups or ())


def test_copies_have_weights_of_their_own(model: SegmentationModel) -> None:
    images = torch.rand(1, 3, 50, 70)
    expected = scores(model.fuse(), images)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (*twins, torch.load(file, weights_only=False)):
        torch.testing.assert_close(scores(twin, images), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.3)
        assert not torch.allclose(scores(twin, images), expected, atol=1e-3)
    assert torch.equal(scores(model, images), expected)


def test_all_that_reads_a_recipe_is_joined(model: SegmentationModel) -> None:
    image = torch.rand(3, 50, 70)
    expected = model.labels(image[None])[0]
    assert model._groups is None
    assert torch.equal(model.predict(image), expected)
    assert model._groups
