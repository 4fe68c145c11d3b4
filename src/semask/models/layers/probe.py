"""Supervision of a stage's own tokens in place of a semantic layer: an ablation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Probe(nn.Module):
    """A classifier of the tokens of a stage, or of queries that come with them; the stage's map stays as it is.

    A probe takes the place of a semantic layer, and its scores are supervised like a semantic map.

    Source: SeMask (arXiv:2112.12782) table 5, "Swin-T FPN" with auxiliary loss and "Query Swin-T FPN", of which there
    is no public code; the projection to the classes is ours.
    """

    def __init__(self, channels: int, num_classes: int, *, queries: bool = False) -> None:
        """With `queries` the input has twice `channels`: the stage's map, then the queries."""
        super().__init__()
        self.channels = channels
        self.queries = queries
        self.classify = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Float[Tensor, "b h w i"]) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w k"]]:
        """Return the stage's map and the classes' scores of every token."""
        tokens, read = (x[..., : self.channels], x[..., self.channels :]) if self.queries else (x, x)
        return tokens, self.classify(read)
