"""Mask2Former's decoder: what bounds the queries' attention, and which predictions come out."""

import torch

from semask.models.decoders.mask2former import Mask2FormerPredictor
from semask.models.layers.attention import sine_positions
from semask.ops.resize import resize
from semask.structures import Features, MaskLogits, PixelFeatures

WIDTH = 16


def predictor(layers: int = 4) -> Mask2FormerPredictor:
    """In float64, so that no mask lies on the edge by rounding."""
    torch.manual_seed(0)
    module = Mask2FormerPredictor(num_classes=3, width=WIDTH, queries=6, layers=layers, num_heads=2, hidden=8)
    return module.double().eval()


def pixels(seed: int = 0) -> PixelFeatures:
    generator = torch.Generator().manual_seed(seed)
    masks, *pyramid = (
        torch.randn(2, WIDTH, *size, generator=generator, dtype=torch.float64)
        for size in ((16, 24), (2, 3), (4, 6), (8, 12))
    )
    return PixelFeatures(masks, tuple(pyramid))


def flat(out: MaskLogits) -> list[torch.Tensor]:
    return [logits for each in (*out.auxiliary, out) for logits in (each.class_logits, each.mask_logits)]


def test_attention_is_bounded_by_the_masks_predicted_before() -> None:
    """As published: the mask of full size is resized to the level, and what is below one half is hidden."""
    module, given = predictor(), pixels()
    queries = module.query_features.expand(2, -1, -1)
    expected = []
    for number in range(5):
        prediction = module.head(module.norm(queries), given.masks)
        expected += prediction[:2]
        if number == 4:
            break
        level = given.pyramid[number % 3]
        tokens = level.flatten(2).transpose(1, 2) + module.level_embeddings[number % 3]
        shares = resize(prediction.mask_logits, level.shape[-2:]).flatten(2).sigmoid()
        hidden = shares < 0.5
        hidden[hidden.all(-1)] = False
        assert hidden.any()
        keys = tokens + sine_positions(level, WIDTH)
        queries = module.layers[number](queries, module.query_positions[None], keys, tokens, ~hidden)
    for ours, theirs in zip(flat(module(Features(()), given)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_query_of_an_empty_mask_sees_all() -> None:
    """As one whose mask is everywhere; a mask of one half of the map gives something else."""
    module, given = predictor(), pixels()
    for layer in (module.head.embed[0], module.head.embed[2], module.head.embed[4]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.ones_(layer.bias)
    everywhere = torch.ones_like(given.masks)
    half = everywhere.clone()
    half[..., :12] = -1
    full, empty, some = (module(Features(()), given._replace(masks=m)) for m in (everywhere, -everywhere, half))
    assert (full.mask_logits > 0).all()
    assert (empty.mask_logits < 0).all()
    torch.testing.assert_close(empty.class_logits, full.class_logits)
    assert (some.class_logits - full.class_logits).abs().max() > 1e-3


def test_resized_embeddings_give_resized_masks() -> None:
    module, given = predictor(), pixels()
    queries = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    for size in ((2, 3), (5, 7)):
        resized = resize(module.head.masks(queries, given.masks), size)
        torch.testing.assert_close(module.head.masks(queries, resize(given.masks, size)), resized)


def test_the_last_prediction_does_not_need_the_others() -> None:
    module, given = predictor(), pixels()
    out, alone = module(Features(()), given), module(Features(()), given, auxiliary=False)
    assert (len(out.auxiliary), len(alone.auxiliary)) == (4, 0)
    assert torch.equal(alone.class_logits, out.class_logits)
    assert torch.equal(alone.mask_logits, out.mask_logits)


def test_masks_bound_attention_without_a_gradient() -> None:
    """The embeddings of the pixels learn from what is predicted, not from what was hidden."""
    module, given = predictor(), pixels()
    masks = given.masks.requires_grad_()
    module(Features(()), given._replace(masks=masks)).class_logits.sum().backward()
    assert masks.grad is None
