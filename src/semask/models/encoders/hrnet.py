"""HRNet: branches of four strides side by side, which exchange their maps after every module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import timm
import torch
from jaxtyping import Float
from timm.models.hrnet import HighResolutionModule, HighResolutionNet
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from semask.models.encoders.hierarchical import apply_semantic_layer
from semask.ops.resize import resize, size_of
from semask.structures import Features

STRIDES = (4, 8, 16, 32)
ATTENTION = ".aa."
"""In the names of the modules of `attention`, which no weights of timm's contain."""


def timm_hrnet(
    name: str, *, attention: Callable[[int], nn.Module] | None = None, in_channels: int = 3
) -> HighResolutionNet:
    """Build a timm HRNet with random weights and without a head, under timm's parameter names.

    `attention` builds, for a width, a module b c h w → b c h w; one follows the first activation of every basic block,
    under the name `aa`.
    """
    network: HighResolutionNet = timm.create_model(name.split(".", 1)[0], head="", num_classes=0, in_chans=in_channels)
    if attention is not None:
        for module in network.modules():
            if isinstance(module, BasicBlock):
                module.aa = attention(module.conv1.out_channels)
    return network


class HRNetEncoder(nn.Module):
    """HRNet; stage s adds a branch at stride 2^(s+1), and all four branches of stage 4 are the maps.

    The semantic layer of a stage acts on its coarsest branch, which the stage has just completed. The masked map flows
    on: the next stage derives its new branch from it and merges it into the others.

    Source: HRNetV2 (arXiv:1908.07919) §3; SeMask (arXiv:2112.12782) §3.1 for the place after every stage.
    Differs: timm's network for classification doubles maps by nearest neighbours and only takes multiples of 32 px;
    here, as in segmentation, maps grow bilinearly, and a second time to the exact size where sides are odd.
    """

    def __init__(self, backbone: HighResolutionNet, *, semantic: Sequence[nn.Module] = ()) -> None:
        """`backbone` comes from `timm_hrnet`; `semantic` holds one layer per stage, of `stage_channels`, or none."""
        super().__init__()
        if len(semantic) not in {0, len(STRIDES)}:
            raise ValueError(f"HRNet takes {len(STRIDES)} semantic layers or none, got {len(semantic)}")
        for module in backbone.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", False
        self.channels, self.strides, self.size_multiple = branch_channels(backbone), STRIDES, 1
        self.backbone = backbone
        self.semantic = nn.ModuleList(semantic)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Features:
        """Encode normalised images of any size; map i is b c ⌈H/s⌉ ⌈W/s⌉ at the stride s of branch i."""
        net = self.backbone
        # stem and stage 1
        x = net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(images))))))
        priors: list[Tensor] = []
        branches = [self._mask(0, net.layer1(x), priors)]
        transitions, stages = (net.transition1, net.transition2, net.transition3), (net.stage2, net.stage3, net.stage4)
        for stage, (transition, modules) in enumerate(zip(transitions, stages, strict=True), start=1):
            # bring the branches to the next widths and derive a new one from the coarsest
            branches = [
                branches[i] if isinstance(step, nn.Identity) else step(branches[-1])
                for i, step in enumerate(transition)
            ]
            for module in modules:
                branches = exchange(module, branches)
            branches[-1] = self._mask(stage, branches[-1], priors)
        return Features(tuple(branches), tuple(priors))

    def _mask(self, stage: int, x: Tensor, priors: list[Tensor]) -> Tensor:
        return apply_semantic_layer(self.semantic[stage], x, priors=priors) if self.semantic else x


def stage_channels(backbone: HighResolutionNet) -> tuple[int, ...]:
    """Return the width of each stage's coarsest branch; that of stage 1 is wider than the finest map."""
    return (backbone.layer1[-1].bn3.num_features, *branch_channels(backbone)[1:])


def branch_channels(backbone: HighResolutionNet) -> tuple[int, ...]:
    """Return the width of every branch of the last stage, fine to coarse."""
    return tuple(int(width) for width in backbone.stage4[-1].num_in_chs)


def exchange(module: HighResolutionModule, branches: list[Tensor]) -> list[Tensor]:
    """Run the branches side by side, then give each the sum of all at its own size."""
    # residual units of every branch
    ran = [branch(x) for branch, x in zip(module.branches, branches, strict=True)]
    out: list[Tensor] = []
    # multi-resolution fusion
    for own, fuse in zip(ran, module.fuse_layers, strict=True):
        given = (resize(step(x), size_of(own)) for step, x in zip(fuse, ran, strict=True))
        out.append(module.fuse_act(functools.reduce(torch.add, given)))
    return out


class PolarizedSelfAttention(nn.Module):
    """A gate per channel and a gate per cell, side by side, whose results are added: the parallel form.

    A channel's gate comes from features summed over the cells by a softmax, a cell's gate from the product of its
    features with the softmax of the map's mean features. Both work at half the width and end in a sigmoid.

    Source: Polarized Self-Attention (arXiv:2107.00782) §3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=False)
        self.channel_value = nn.Conv2d(channels, half, 1, bias=False)
        self.channel_gate = nn.Conv2d(half, channels, 1, bias=False)
        self.cell_query = nn.Conv2d(channels, half, 1, bias=False)
        self.cell_value = nn.Conv2d(channels, half, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # channel-only branch
        share = self.channel_query(x).flatten(2).softmax(-1)  # b 1 n
        summed = self.channel_value(x).flatten(2) @ share.transpose(1, 2)  # b c/2 1
        channels = torch.sigmoid(self.channel_gate(summed[..., None]))
        # spatial-only branch
        mean = self.cell_query(x).mean((2, 3)).softmax(-1)  # b c/2
        cells = torch.sigmoid(torch.einsum("bc,bchw->bhw", mean, self.cell_value(x)))[:, None]
        return x * channels + x * cells
