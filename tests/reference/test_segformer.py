"""SegFormer against mmsegmentation's fixtures and the library transformers, in every published layout."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from semask import recipes
from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.pretrained import load_encoder
from semask.checkpoints.rules import segformer
from semask.models.build import build, build_encoder
from semask.models.model import SegmentationModel
from semask.recipes import Recipe
from tests.facts import facts, missing
from tests.reference.synthetic_weights import FIXTURES, arrays, assert_close, checkpoint, layout, synthetic_image

TOLERANCE = 1e-4
CLASSES = 7
PORTS = ("segformer_mit_b0_150_64x96", "segformer_mit_b0_150_97x131")
SIZES = [(64, 96), (97, 131), (33, 47)]


def test_every_fixture_is_covered() -> None:
    assert {path.name.split(".")[0] for path in (FIXTURES / "mmsegmentation").glob("segformer_*")} == set(PORTS)


@pytest.mark.parametrize("name", PORTS)
def test_the_port_of_mmsegmentation(name: str) -> None:
    conversion = convert(checkpoint(f"mmsegmentation/{name}"), "ade20k/segformer-b0")
    assert conversion.layout == segformer.MMSEGMENTATION
    decoder = conversion.recipe.model.decoder
    assert (decoder.kind, decoder.channels) == ("segformer_mmseg", 256)
    assert conversion.recipe.published.miou is None, "the paper's figure is of the other form"
    model, stored, spec = conversion.model, arrays(f"mmsegmentation/{name}"), layout(f"mmsegmentation/{name}")
    assert sum(p.numel() for p in model.parameters()) == spec["parameters"]["total"]
    image = synthetic_image(spec["input"]["height"], spec["input"]["width"]) * model.std + model.mean
    with torch.inference_mode():
        features, out, scores = model.encode(image), model(image), model.scores(image)
    for stage, level in enumerate(features.maps):
        assert_close(stored, f"feat_stage{stage}", level, TOLERANCE)
    assert_close(stored, "main_logits", out.main.logits, TOLERANCE)
    assert_close(stored, "main_up", scores, TOLERANCE)
    two = scores.topk(2, dim=1).values
    decided = (two[:, 0] - two[:, 1] > TOLERANCE).numpy()  # where two classes come this close, either may win
    assert decided.mean() > 0.999
    assert (scores.argmax(1).numpy() == stored["main_up/argmax"])[decided].all()


def recipe_of(*, channels: int = 256) -> Recipe:
    recipe = recipes.get_recipe("ade20k/segformer-b0")
    decoder = dataclasses.replace(recipe.model.decoder, channels=channels)
    model = dataclasses.replace(recipe.model, decoder=decoder, num_classes=CLASSES)
    return dataclasses.replace(recipe, model=model)


@pytest.fixture(scope="module")
def library() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return SimpleNamespace(
        config=transformers.SegformerConfig,
        segmenter=transformers.SegformerForSemanticSegmentation,
        classifier=transformers.SegformerForImageClassification,
    )


def shaken(model: nn.Module) -> nn.Module:
    """Give every tensor a value that tells."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.08))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module", params=[256, 768])
def published(request: pytest.FixtureRequest, library: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    """Their model, the folder it is saved in, and ours of that folder."""
    config = library.config(num_labels=CLASSES, decoder_hidden_size=request.param)
    theirs = shaken(library.segmenter(config))
    folder = tmp_path_factory.mktemp("segformer")
    theirs.save_pretrained(folder)
    recipe = recipe_of(channels=request.param)
    return SimpleNamespace(theirs=theirs, folder=folder, recipe=recipe, ours=load_published(folder, recipe))


@pytest.mark.parametrize("size", SIZES)
def test_their_checkpoint_computes_the_same_here(published: SimpleNamespace, size: tuple[int, int]) -> None:
    ours, images = published.ours, torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = published.theirs(ours.prepare(images), output_hidden_states=True)
        features, out = ours.encode(images), ours(images)
    for mine, other in zip(features.maps, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE)
    assert theirs.logits.std() > 0.1, "nothing would be seen in logits that are all alike"
    torch.testing.assert_close(out.main.logits, theirs.logits, rtol=0, atol=TOLERANCE)


def test_names_in_memory_and_of_files_are_one(published: SimpleNamespace) -> None:
    same_weights(load_published(published.theirs.state_dict(), published.recipe), published.ours)


def test_layouts_and_what_they_change(published: SimpleNamespace) -> None:
    conversion = convert(published.folder, published.recipe)
    assert conversion.layout == segformer.TRANSFORMERS
    assert conversion.recipe.model.encoder.norm_eps == 1e-5
    assert {m.eps for m in conversion.model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    mine = as_authors(published.theirs.state_dict())
    mine |= {"decode_head.conv_seg.weight": torch.rand(CLASSES, 128, 1, 1), "decode_head.conv_seg.bias": torch.rand(9)}
    conversion = convert(mine, published.recipe)
    assert conversion.layout == segformer.AUTHORS
    assert {m.eps for m in conversion.model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    same_weights(conversion.model, published.ours)


def test_what_lies_beside_is_compared(published: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((published.folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(number): f"thing {number}" for number in range(CLASSES)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    conversion = convert(tmp_path, published.recipe)
    assert missing(conversion.beside, "config.json") == []
    assert conversion.classes is not None
    assert conversion.classes.names == tuple(config["id2label"].values())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": [1, 2, 4, 8]}))
    with pytest.raises(ValueError, match=facts("num_attention_heads", [1, 2, 4, 8], [1, 2, 5, 8])):
        convert(tmp_path, published.recipe)


def same_weights(one: SegmentationModel, other: SegmentationModel) -> None:
    found = other.state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, found[key]), key


AUTHORS = (
    (r"segformer\.stages\.(\d)\.patch_embeddings\.proj", "backbone.patch_embed{}.proj"),
    (r"segformer\.stages\.(\d)\.patch_embeddings\.layer_norm", "backbone.patch_embed{}.norm"),
    (r"segformer\.stages\.(\d)\.layer_norm", "backbone.norm{}"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_before", "backbone.block{}.{}.norm1"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_after", "backbone.block{}.{}.norm2"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.attention\.q_proj", "backbone.block{}.{}.attn.q"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.attention\.o_proj", "backbone.block{}.{}.attn.proj"),
    (
        r"segformer\.stages\.(\d)\.blocks\.(\d+)\.attention\.sequence_reduction\.sequence_reduction",
        "backbone.block{}.{}.attn.sr",
    ),
    (
        r"segformer\.stages\.(\d)\.blocks\.(\d+)\.attention\.sequence_reduction\.layer_norm",
        "backbone.block{}.{}.attn.norm",
    ),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.mlp\.fc1", "backbone.block{}.{}.mlp.fc1"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.mlp\.dwconv\.dwconv", "backbone.block{}.{}.mlp.dwconv.dwconv"),
    (r"segformer\.stages\.(\d)\.blocks\.(\d+)\.mlp\.fc2", "backbone.block{}.{}.mlp.fc2"),
    (r"decode_head\.linear_projections\.(\d)\.proj", "decode_head.linear_c{}.proj"),
    (r"decode_head\.linear_fuse", "decode_head.linear_fuse.conv"),
    (r"decode_head\.batch_norm", "decode_head.linear_fuse.bn"),
    (r"decode_head\.classifier", "decode_head.linear_pred"),
)
"""What the authors call the tensors that transformers has in memory; their stages count from 1."""


def as_authors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name, kind = key.rsplit(".", 1)
        if name.endswith("v_proj"):
            continue
        if match := re.fullmatch(r"segformer\.stages\.(\d)\.blocks\.(\d+)\.attention\.k_proj", name):
            joined = torch.cat((value, tensors[key.replace("k_proj", "v_proj")]))
            found[f"backbone.block{int(match[1]) + 1}.{match[2]}.attn.kv.{kind}"] = joined
            continue
        (match, authors), *more = [(m, a) for pattern, a in AUTHORS if (m := re.fullmatch(pattern, name))]
        assert not more
        stage, *rest = match.groups() or ("0",)
        found[f"{authors.format(int(stage) + 1, *rest)}.{kind}"] = value
    return found


def test_weights_of_the_encoder_alone(library: SimpleNamespace, tmp_path: Path) -> None:
    """ImageNet weights: transformers' classifier, the authors' file, and a whole segmenter's are filled in alike."""
    theirs = shaken(library.classifier(library.config(num_labels=10)))
    theirs.save_pretrained(tmp_path)
    bare = {
        key.removeprefix("backbone."): value
        for key, value in as_authors({k: v for k, v in theirs.state_dict().items() if "segformer" in k}).items()
    }
    torch.save(bare | {"head.weight": torch.rand(10, 256), "head.bias": torch.rand(10)}, tmp_path / "mit_b0.pth")
    spec = dataclasses.replace(recipes.get_recipe("ade20k/segformer-b0").model.encoder, norm_eps=1e-5)
    images = torch.randn(1, 3, 65, 95)
    with torch.inference_mode():
        expected = theirs(images, output_hidden_states=True).hidden_states
    for file in ("model.safetensors", "mit_b0.pth"):
        encoder = build_encoder(spec, CLASSES, crop=(64, 64)).eval()
        report = load_encoder(encoder, "mit_b0", str(tmp_path / file))
        assert report.share == 1
        with torch.inference_mode():
            for mine, other in zip(encoder(images).maps, expected, strict=True):
                torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE)


def test_semantic_layers_start_fresh_over_the_weights(tmp_path: Path) -> None:
    recipe = recipes.get_recipe("folder/semask-segformer-b0")
    torch.save(backbone_of_the_port(), tmp_path / "mit_b0.pth")
    report = load_encoder(build(recipe).encoder, "mit_b0", str(tmp_path / "mit_b0.pth"))
    assert (report.matched, report.share) == (192, 1)


def backbone_of_the_port() -> dict[str, Tensor]:
    """As mmsegmentation's conversion of the ImageNet weights names them."""
    tensors = checkpoint(f"mmsegmentation/{PORTS[0]}")
    return {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}


def test_the_hub_of_timm_has_none() -> None:
    encoder = build_encoder(recipes.get_recipe("ade20k/segformer-b0").model.encoder, CLASSES, crop=(64, 64))
    with pytest.raises(ValueError, match=facts("'mit_b0'", "--model.encoder.weights PATH")):
        load_encoder(encoder, "mit_b0", "timm")


def test_files_of_another_size_and_of_another_class_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semask.checkpoints.convert.list_recipes", lambda: ["ade20k/swin-t-fpn", "ade20k/segformer-b0"])
    tensors = checkpoint(f"mmsegmentation/{PORTS[0]}")
    with pytest.raises(ValueError, match=facts("'ade20k/segformer-b1'", "'ade20k/segformer-b0'")):
        load_published(tensors, "ade20k/segformer-b1")
    conversion = convert(tensors, "ade20k/segformer-b0", num_classes=3)
    assert set(conversion.fresh) == {"decoder.classify.weight", "decoder.classify.bias"}
