"""UPerNet over Swin against the library transformers, whose arithmetic is the same."""

import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import SwinOptions

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
NUM_CLASSES = 7
WIDTH = 24
# Theirs → ours, in the order they are tried.
NAMES = (
    (r"backbone\.swin\.embeddings\.patch_embeddings\.projection", "encoder.chain.patch_embed.proj"),
    (r"backbone\.swin\.embeddings\.norm", "encoder.chain.patch_embed.norm"),
    (r"backbone\.swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.", r"encoder.chain.layers_\1.blocks.\2."),
    (r"attention\.relative_position_bias\.relative", "attn.relative"),
    (r"attention\.(q|k|v|o)_proj", r"attn.\1"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"batch_norm", "bn"),
    (r"auxiliary_head\.convs\.0\.", "decoder.heads.0.conv."),
    (r"auxiliary_head\.classifier", "decoder.heads.0.classify"),
    (r"decode_head\.psp_modules\.(\d)\.1\.", r"decoder.main.pooling.levels.\1."),
    (r"decode_head\.lateral_convs", "decoder.main.laterals"),
    (r"decode_head\.fpn_convs", "decoder.main.outputs"),
    (r"decode_head\.fpn_bottleneck", "decoder.main.fuse"),
    (r"decode_head\.classifier", "decoder.main.classify"),
    (r"decode_head\.", "decoder.main."),
)


def renamed(key: str) -> str:
    if match := re.match(r"backbone\.hidden_states_norms\.stage(\d)\.(.*)", key):
        return f"encoder.norms.{int(match[1]) - 1}.{match[2]}"
    if match := re.match(r"backbone\.swin\.encoder\.layers\.(\d)\.downsample\.(.*)", key):
        return f"encoder.chain.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    for theirs, ours in NAMES:
        key = re.sub(theirs, ours, key)
    return key


def ours_of(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {renamed(key): value for key, value in theirs.items() if not key.startswith("backbone.swin.layernorm.")}
    for query in [key for key in found if ".attn.q." in key]:
        parts = [found.pop(query.replace(".q.", f".{part}.")) for part in "qkv"]
        found[query.replace(".q.", ".qkv.")] = torch.cat(parts)
    return {key.replace(".attn.o.", ".attn.proj."): value for key, value in found.items()}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    swin = transformers.SwinConfig(
        **{k: list(v) if isinstance(v, tuple) else v for k, v in SIZES.items()}, out_features=STAGES
    )
    config = transformers.UperNetConfig(
        backbone_config=swin, hidden_size=WIDTH, num_labels=NUM_CLASSES, auxiliary_in_channels=64, auxiliary_channels=256
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                value.add_(torch.rand_like(value))
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * (0.2 if value.ndim == 1 else 0.08))
    return model


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> SegmentationModel:
    encoder = SwinOptions(weights=None, **SIZES)
    decoder = decoder_options("upernet", channels=WIDTH, auxiliary=True)
    recipe = Recipe(name="test/x", model=ModelRecipe(encoder=encoder, decoder=decoder, num_classes=NUM_CLASSES))
    model = build(recipe)
    model.load_state_dict(ours_of(theirs.state_dict()))
    return model


@pytest.mark.parametrize("size", [(64, 96), (97, 131)], ids=str)
def test_scores_are_theirs(ours: SegmentationModel, theirs: nn.Module, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        expected = theirs(ours.prepare(images)).logits
        scores = ours.scores(images)
    assert expected.std() > 0.05
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)


def test_the_auxiliary_head_is_theirs(ours: SegmentationModel, theirs: nn.Module) -> None:
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = theirs.backbone.forward_with_filtered_kwargs(ours.prepare(images)).feature_maps
        (head,) = ours(images).main.auxiliary
        torch.testing.assert_close(head.logits, theirs.auxiliary_head(maps), rtol=0, atol=1e-4)
