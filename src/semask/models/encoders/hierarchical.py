"""Any hierarchical backbone, with a semantic layer or a probe after each stage when there are some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from semask.models.encoders.chain import Chain
from semask.ops.memory import checkpoint_stage
from semask.structures import Features


class HierarchicalEncoder(nn.Module):
    """A chain of stages; the masked map of a semantic layer replaces the stage's map and flows on.

    Source: SeMask (arXiv:2112.12782) §3.1, figure 2.
    """

    num_checkpointable: ClassVar[int] = 4

    def __init__(self, chain: Chain, *, semantic: Sequence[nn.Module] = (), norms: Sequence[nn.LayerNorm] = ()) -> None:
        """`semantic` and `norms` hold one module per stage, or none; a norm acts on what leaves the encoder only."""
        super().__init__()
        stages = len(chain.outputs)
        for what, modules in (("semantic layers", semantic), ("norms", norms)):
            if len(modules) not in {0, stages}:
                raise ValueError(f"an encoder of {stages} stages takes {stages} {what} or none, got {len(modules)}")
        self.channels = chain.channels
        self.strides = chain.strides
        self.size_multiple = chain.size_multiple
        self.fixed_size = chain.fixed_size
        self.channels_last = chain.channels_last
        self.stage_of = {name: stage for stage, name in enumerate(chain.outputs)}
        self.masked_stage_of = {name: stage for stage, name in enumerate(chain.semantic_after or chain.outputs)}
        self.chain = chain.modules
        self.checkpointed_stages: frozenset[int] = frozenset()
        self.semantic = nn.ModuleList(semantic)
        self.norms = nn.ModuleList(norms)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Features:
        """Encode normalised images; maps and priors are b c h w and b k h w at the strides of the stages."""
        x: Tensor = images
        maps: list[Tensor] = []
        priors: list[Tensor] = []
        steps: list[tuple[str, Callable[[Tensor], Tensor]]] = []
        for name, module in self.chain.items():
            steps.append((name, module))
            if name in self.stage_of:  # the last step of a stage
                run: Callable[..., tuple[Tensor, Tensor, list[Tensor]]] = self._run
                if len(maps) + 1 in self.checkpointed_stages:
                    run = partial(checkpoint_stage, self._run, modules=(self.chain, self.semantic))
                x, level, prior = run(x, steps, len(maps))
                maps.append(level)
                priors.extend(prior)
                steps = []
        return Features(tuple(maps), tuple(priors))

    def _run(
        self, x: Tensor, steps: Sequence[tuple[str, Callable[[Tensor], Tensor]]], stage: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run a stage; return the next stage's input, the stage's map, and its semantic map if there is one."""
        prior: list[Tensor] = []
        for name, module in steps:
            x = module(x)
            if self.semantic and name in self.masked_stage_of:
                # the semantic layer masks the map, and the masked map flows on
                layer = self.semantic[self.masked_stage_of[name]]
                x = apply_semantic_layer(layer, x, priors=prior, channels_last=self.channels_last)
        level = x.permute(0, 3, 1, 2) if self.channels_last else x
        if self.norms:
            level = self.norms[stage](level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x, level, prior


def apply_semantic_layer(
    layer: nn.Module, x: Float[Tensor, "b ..."], *, priors: list[Tensor], channels_last: bool = False
) -> Float[Tensor, "b ..."]:
    """Return the masked map, and append its semantic map b k h w, if the layer returns one, to the `priors`."""
    masked, prior = layer(x if channels_last else x.permute(0, 2, 3, 1))
    if prior is not None:
        priors.append(prior.permute(0, 3, 1, 2))
    return masked if channels_last else masked.permute(0, 3, 1, 2)


class Probe(nn.Module):
    """A linear classifier of a stage's tokens, supervised like a semantic map; the stage's map stays as it is.

    With `queries` the input has twice `channels`: the map, then the queries of its last block, which are classified.

    Source: SeMask table 5, "Swin-T FPN" with auxiliary loss and "Query Swin-T FPN"; the projection is ours.
    """

    def __init__(self, channels: int, num_classes: int, *, queries: bool = False) -> None:
        super().__init__()
        self.channels, self.queries = channels, queries
        self.classify = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Float[Tensor, "b h w i"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"]]:
        tokens, read = (x[..., : self.channels], x[..., self.channels :]) if self.queries else (x, x)
        return tokens, self.classify(read)
