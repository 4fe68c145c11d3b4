"""Mask2Former's and MaskFormer's losses against those of transformers: equal logits, labels and seed."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from semask.losses.masks import MaskClassificationLoss
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE, MaskLogits

NUM_CLASSES = 9


@pytest.fixture(scope="module")
def theirs() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss
        from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

    def mask2former(recipe: MaskLossRecipe) -> torch.nn.Module:
        config = Mask2FormerConfig(
            num_labels=NUM_CLASSES,
            no_object_weight=recipe.no_object_weight,
            train_num_points=recipe.points,
            oversample_ratio=recipe.oversample_ratio,
            importance_sample_ratio=recipe.importance_sample_ratio,
            class_weight=recipe.class_weight,
            mask_weight=recipe.mask_weight,
            dice_weight=recipe.dice_weight,
        )
        return Mask2FormerLoss(config, {})

    def maskformer(recipe: MaskLossRecipe) -> torch.nn.Module:
        matcher = MaskFormerHungarianMatcher(recipe.class_weight, recipe.mask_weight, recipe.dice_weight)
        return MaskFormerLoss(NUM_CLASSES, matcher, {}, recipe.no_object_weight)

    return SimpleNamespace(mask2former=mask2former, maskformer=maskformer)


def example(seed: int, *, queries: int) -> tuple[MaskLogits, torch.Tensor]:
    """Three predictions for two images of 20×28 px; the second has one class less and its own ignored pixels."""
    generator = torch.Generator().manual_seed(seed)

    def prediction() -> MaskLogits:
        return MaskLogits(
            2 * torch.randn(2, queries, NUM_CLASSES + 1, generator=generator),
            3 * torch.randn(2, queries, 5, 7, generator=generator),
        )

    labels = torch.randint(0, NUM_CLASSES - 2, (2, 5, 7), generator=generator)
    labels[1][labels[1] == 0] = 1
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return prediction()._replace(auxiliary=(prediction(), prediction())), labels.to(torch.uint8)


def their_terms(loss: torch.nn.Module, out: MaskLogits, labels: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    ids = [sorted(set(image.flatten().tolist()) - {IGNORE}) for image in labels]
    masks = [torch.stack([image == i for i in row]).float() for image, row in zip(labels, ids, strict=True)]
    auxiliary = [
        {"masks_queries_logits": other.mask_logits, "class_queries_logits": other.class_logits}
        for other in out.auxiliary
    ]
    terms = loss(out.mask_logits, out.class_logits, masks, [torch.tensor(row) for row in ids], auxiliary)
    names = {"classes": "loss_cross_entropy", "masks": "loss_mask", "dice": "loss_dice"}
    return {ours: [terms[f"{name}{end}"] for end in ("", "_0", "_1")] for ours, name in names.items()}


RECIPES = {
    "mask2former": MaskLossRecipe(points=300, ignored="background"),
    "maskformer": MaskLossRecipe(
        class_weight=1, mask_weight=20, dice_weight=1, mask_loss="focal", points=None, ignored="background"
    ),
}


@pytest.mark.parametrize("queries", [12, 4])
@pytest.mark.parametrize("name", RECIPES)
def test_same_terms_and_gradients(theirs: SimpleNamespace, name: str, queries: int) -> None:
    recipe = RECIPES[name]
    out, labels = example(3, queries=queries)
    leaves = [part.requires_grad_() for one in (out, *out.auxiliary) for part in (one.class_logits, one.mask_logits)]
    torch.manual_seed(5)
    expected = their_terms(getattr(theirs, name)(recipe), out, labels)
    gradients = torch.autograd.grad(sum(sum(values) for values in expected.values()), leaves)
    torch.manual_seed(5)
    terms = MaskClassificationLoss(recipe).terms(out, labels)
    for term, values in expected.items():
        torch.testing.assert_close(getattr(terms, term), torch.stack(values), rtol=1e-5, atol=1e-6, msg=term)
    ours = torch.autograd.grad(sum(term.sum() for term in terms), leaves)
    for mine, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
