from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from semask.recipes import TrainRecipe
from semask.structures import IGNORE, Sample
from semask.training.datamodule import ResumableDistributedSampler, ValidationShare, micro_batch
from tests.facts import facts


@given(
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    size=st.integers(1, 3),
    steps=st.integers(1, 5),
    data=st.data(),
)
def test_ranks_share_each_step_of_the_draws(
    world: int, accumulate: int, size: int, steps: int, data: st.DataObject
) -> None:
    batch = world * accumulate * size
    train = TrainRecipe(steps=steps, batch_size=batch, accumulate=accumulate)
    first = data.draw(st.integers(0, steps))
    shares = [
        list(ResumableDistributedSampler(train, rank=r, world_size=world, first_step=first)) for r in range(world)
    ]
    per_step = size * accumulate
    for step in range(steps - first):
        taken = [draw for share in shares for draw in share[step * per_step : (step + 1) * per_step]]
        assert sorted(taken) == list(range((first + step) * batch, (first + step + 1) * batch))
    assert all(len(share) == (steps - first) * per_step for share in shares)


def test_uneven_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=facts("train.batch_size", 6, 4, "--train.batch-size 8")):
        micro_batch(TrainRecipe(batch_size=6), 4)
    assert micro_batch(TrainRecipe(batch_size=24, accumulate=3), 4) == 2


class Numbered(Dataset[Sample]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(3, 2, 2), torch.full((2, 2), index % 200, dtype=torch.uint8), str(index))


@given(count=st.integers(1, 20), world=st.integers(1, 6))
def test_validation_shares_are_even_and_count_everything_once(count: int, world: int) -> None:
    shares = [ValidationShare(Numbered(count), rank=rank, world_size=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    samples = [share[i] for share in shares for i in range(len(share))]
    counted = [sample.name for sample in samples if (sample.label != IGNORE).any()]
    assert sorted(counted, key=int) == [str(i) for i in range(count)]
