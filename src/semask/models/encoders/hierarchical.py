"""Any hierarchical backbone, with a semantic layer after each stage when there are some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from semask.models.encoders.chain import Chain
from semask.ops.checkpoint import checkpoint_stage
from semask.structures import Features

Step = Callable[[Tensor], Tensor]


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
        for stage, steps in enumerate(self._stages()):
            if stage + 1 in self.checkpointed_stages:
                x, level, prior = checkpoint_stage(self._run, x, steps, modules=(self.chain, self.semantic))
            else:
                x, level, prior = self._run(x, steps)
            maps.append(level)
            priors.extend(prior)
        return Features(tuple(maps), tuple(priors))

    def _stages(self) -> list[list[tuple[str, Step]]]:
        """Return the modules of every stage, by name; the output of a stage is its last."""
        stages: list[list[tuple[str, Step]]] = [[]]
        for name, module in self.chain.items():
            stages[-1].append((name, module))
            if name in self.stage_of:
                stages.append([])
        return stages[:-1]

    def _run(self, x: Tensor, steps: Sequence[tuple[str, Step]]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run a stage; return the next stage's input, the stage's map, and its semantic map if there is one."""
        prior: list[Tensor] = []
        for name, module in steps:
            x = module(x)
            if self.semantic and name in self.masked_stage_of:
                # the semantic layer masks the map, and the masked map flows on
                layer = self.semantic[self.masked_stage_of[name]]
                x = self._channels_first(x)
                x = apply_semantic_layer(layer, x, priors=prior)
                x = x.permute(0, 2, 3, 1) if self.channels_last else x
        level = self._channels_first(x)
        if self.norms:
            level = self.norms[self.stage_of[steps[-1][0]]](level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x, level, prior

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def apply_semantic_layer(
    layer: nn.Module, x: Float[Tensor, "b i h w"], *, priors: list[Tensor]
) -> Float[Tensor, "b c h w"]:
    """Return the masked map, and append its semantic map, if the layer returns one, to the `priors`."""
    masked, prior = layer(x.permute(0, 2, 3, 1))
    if prior is not None:
        priors.append(prior.permute(0, 3, 1, 2))
    out: Tensor = masked.permute(0, 3, 1, 2)
    return out
