from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semask.evaluation import evaluate_model
from semask.evaluation.metrics import Confusion
from semask.structures import IGNORE, Sample
from tests.facts import facts


class Images:
    """Seeded images of three sizes, in runs of one size."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index >= self.count:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(index)
        height, width = [(12, 17), (12, 17), (9, 20), (5, 5)][index % 4]
        label = torch.randint(0, 4, (height, width), generator=generator)
        label[0] = IGNORE
        return Sample(torch.rand(3, height, width, generator=generator), label, str(index))


def predict(images: Tensor) -> Tensor:
    return torch.cat([images, images.mean(1, keepdim=True)], dim=1)


def alone(count: int) -> Tensor:
    """One image after the other, without the code under test."""
    confusion = Confusion(4)
    for index in range(count):
        image, label, _ = Images(count)[index]
        confusion.update(predict(image[None])[0].argmax(0), label)
    return confusion.matrix


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("workers", [0, 1])
def test_neither_batches_nor_workers_change_a_count(batch_size: int, workers: int) -> None:
    steps: list[int] = []
    accumulator = evaluate_model(
        predict, Images(13), num_classes=4, batch_size=batch_size, workers=workers, progress=steps.append
    )
    assert torch.equal(accumulator.confusion.matrix, alone(13))
    assert sum(steps) == 13


def test_only_images_of_one_size_go_together() -> None:
    seen: list[tuple[int, ...]] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        assert torch.is_inference_mode_enabled()
        return predict(images)

    evaluate_model(watching, Images(5), num_classes=4, batch_size=5)
    assert seen == [(2, 3, 12, 17), (1, 3, 9, 20), (1, 3, 5, 5), (1, 3, 12, 17)]


def test_impossible_numbers_are_refused() -> None:
    for batch_size, workers in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match=facts("batch_size", "workers", batch_size, workers)):
            evaluate_model(predict, Images(2), num_classes=4, batch_size=batch_size, workers=workers)
