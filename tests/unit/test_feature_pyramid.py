import torch
from torchvision.ops import FeaturePyramidNetwork

from semask.models.decoders.semantic_fpn import FeaturePyramid, SemanticFPN
from semask.structures import Features

WIDTHS = (4, 6, 8)


def maps() -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, width, *size) for width, size in zip(WIDTHS, ((13, 17), (7, 9), (4, 5)), strict=True))


def test_it_is_torchvision_s() -> None:
    ours, theirs = FeaturePyramid(WIDTHS, 5), FeaturePyramidNetwork(list(WIDTHS), 5)
    for level in range(len(WIDTHS)):
        theirs.inner_blocks[level][0].load_state_dict(ours.laterals[level].state_dict())
        theirs.layer_blocks[level][0].load_state_dict(ours.outputs[level].state_dict())
    x = maps()
    with torch.inference_mode():
        expected = theirs({str(level): value for level, value in enumerate(x)})
        for level, out in enumerate(ours(x)):
            torch.testing.assert_close(out, expected[str(level)])


def test_semantic_fpn_reads_the_neck_s_maps() -> None:
    with_neck = SemanticFPN(WIDTHS, num_classes=3, channels=8, neck=5).eval()
    without = SemanticFPN((5,) * len(WIDTHS), num_classes=3, channels=8).eval()
    without.load_state_dict(
        {key: value for key, value in with_neck.state_dict().items() if not key.startswith("neck.")}
    )
    x = maps()
    with torch.inference_mode():
        expected = without(Features(with_neck.neck(x))).logits
        torch.testing.assert_close(with_neck(Features(x)).logits, expected)
    assert without.neck is None
