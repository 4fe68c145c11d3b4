import torch

from semask.models.decoders.ocr import OCR, ObjectContext
from semask.structures import Features


def test_pixels_mix_regions_by_attention() -> None:
    """Against the formula, one pixel and one class at a time."""
    block = ObjectContext(8, 4).eval()
    x, coarse = torch.randn(1, 8, 3, 4), 3 * torch.randn(1, 5, 3, 4)
    with torch.inference_mode():
        pixels, shares = x[0].flatten(1), coarse[0].flatten(1).softmax(1)  # a region's pixels share 1
        regions = torch.stack([sum(share[n] * pixels[:, n] for n in range(12)) for share in shares], dim=1)
        query = block.query(x)[0].flatten(1)
        key, value = (part(regions[None, :, :, None])[0, ..., 0] for part in (block.key, block.value))
        context = torch.empty(4, 12)
        for n in range(12):
            weights = torch.stack([query[:, n] @ key[:, k] / 2 for k in range(5)]).softmax(0)
            context[:, n] = sum(weights[k] * value[:, k] for k in range(5))
        expected = block.fuse(torch.cat([block.project(context.reshape(1, 4, 3, 4)), x], dim=1))
        torch.testing.assert_close(block(x, coarse), expected)


def test_the_coarse_logits_are_the_auxiliary_prediction() -> None:
    decoder = OCR((4, 6), num_classes=3, channels=8).eval()
    features = Features((torch.randn(2, 4, 6, 8), torch.randn(2, 6, 3, 4)))
    with torch.inference_mode():
        out, alone = decoder(features), decoder(features, auxiliary=False)
    (coarse,) = out.auxiliary
    assert coarse.logits.shape == out.logits.shape == (2, 3, 6, 8)
    assert alone.auxiliary == ()
    assert torch.equal(alone.logits, out.logits)
    with torch.no_grad():
        decoder.classify_coarse.weight.add_(1.0)
        assert not torch.equal(decoder(features).logits, out.logits), "the regions come from the coarse logits"
