"""Training from another model, with frozen parts, early ends and layer-wise rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import semask
from semask.checkpoints.store import save
from semask.checkpoints.warm_start import start_from
from semask.cli.main import main
from semask.cli.train import parse
from semask.data.augment.transforms import TrainTransform
from semask.data.classes import Classes
from semask.models.encoders.kinds import with_encoder
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, OptimRecipe, get_recipe
from semask.training.callbacks import EarlyStop
from semask.training.module import SegmentationModule
from semask.training.optim import blocks_above, build_optimizer, parameter_groups
from tests.facts import facts
from tests.unit.doctored import put_good

VIT = "vit_small_patch14_dinov2.lvd142m"
OLD, NEW = ("sky", "Road ", "tree", "car"), ("road", "person", "car")


def models(name: str, tmp_path: Path, *, classes: bool = True) -> tuple[SegmentationModel, SegmentationModel]:
    torch.manual_seed(0)
    old = semask.build(get_recipe(name).override({"model.num_classes": len(OLD)}))
    torch.manual_seed(1)
    new = semask.build(get_recipe(name).override({"model.num_classes": len(NEW)}))
    save(old, tmp_path / "old", classes=Classes.from_dict({"classes": [*OLD]}) if classes else None)
    return old, new


@pytest.mark.parametrize("name", ["scenes/semask-micro-fpn", "scenes/micro-mask2former", "scenes/micro-seg-mask"])
def test_everything_fits_but_new_classes(name: str, tmp_path: Path) -> None:
    old, new = models(name, tmp_path)
    fresh = {key: value.clone() for key, value in new.state_dict().items()}
    report = start_from(new, tmp_path / "old", NEW)
    assert (report.known, report.new) == (("road", "car"), ("person",))
    assert report.taken == report.total
    theirs = old.state_dict()
    by_class = 0
    for key, value in new.state_dict().items():
        if value.shape == theirs[key].shape:
            assert torch.equal(value, theirs[key])
            continue
        # rows of road and car are the source's, that of person is fresh; "no object" follows
        axis = next(i for i, (a, b) in enumerate(zip(value.shape, theirs[key].shape, strict=True)) if a != b)
        by_class += 1
        for ours, origin in ((0, 1), (2, 3), *(((3, 4),) if value.shape[axis] == 4 else ())):
            assert torch.equal(value.select(axis, ours), theirs[key].select(axis, origin)), key
        assert torch.equal(value.select(axis, 1), fresh[key].select(axis, 1)), key
    assert by_class


def test_classes_of_one_count_in_another_order_are_taken_by_name(tmp_path: Path) -> None:
    old, _ = models("scenes/semask-micro-fpn", tmp_path)
    other = semask.build(get_recipe("scenes/semask-micro-fpn").override({"model.num_classes": 4}))
    start_from(other, tmp_path / "old", OLD[::-1])
    image = torch.rand(1, 3, 64, 64)
    old.eval(), other.eval()
    with torch.no_grad():
        assert torch.allclose(old.scores(image), other.scores(image).flip(1), atol=1e-5)


def test_renamed_classes_of_one_order_keep_their_rows(tmp_path: Path) -> None:
    old, _ = models("scenes/semask-micro-fpn", tmp_path)
    other = semask.build(get_recipe("scenes/semask-micro-fpn").override({"model.num_classes": 4}))
    report = start_from(other, tmp_path / "old", ("sky", "street", "tree", "vehicle"))
    assert (report.known, report.renamed, report.new) == (("sky", "tree"), ("street", "vehicle"), ())
    assert report.taken == report.total
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in other.state_dict().items())
    # a name that another class had shows another order: names decide
    report = start_from(other, tmp_path / "old", ("sky", "car", "tree", "street"))
    assert (report.known, report.renamed, report.new) == (("sky", "car", "tree"), (), ("street",))


def test_without_names_classes_start_anew_and_strangers_are_refused(tmp_path: Path) -> None:
    _, new = models("scenes/semask-micro-fpn", tmp_path, classes=False)
    report = start_from(new, tmp_path / "old", NEW)
    assert 0 < report.taken < report.total
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=facts("other.pth", "scenes/semask-micro-fpn")):
        start_from(new, tmp_path / "other.pth", NEW)
    with pytest.raises(ValueError, match=facts("absent")):
        start_from(new, tmp_path / "absent", NEW)


def test_a_run_s_folder_and_a_file_of_weights_keep_their_names(tmp_path: Path) -> None:
    _, new = models("scenes/semask-micro-fpn", tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "old").rename(run / "best")
    (run / "recipe.json").write_text((run / "best/recipe.json").read_text())
    for source in (run, run / "best", run / "best/model.safetensors"):
        assert start_from(new, source, NEW).known == ("road", "car")
    (run / "best/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=facts("model.safetensors")):
        start_from(new, run, NEW)


def test_a_run_starts_from_a_model_and_goes_on_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    put_good(tmp_path / "set")
    flags = ["train", "folder/semask-micro-fpn", "--data.root", "set", "--workers", "0", "--train.batch-size", "2"]
    flags += ["--train.eval-every", "2"]
    assert main([*flags, "--train.steps", "2", "--out", "a"]) == 0
    assert main([*flags, "--train.steps", "4", "--out", "a", "--resume"]) == 0
    assert "step 4/4" in capsys.readouterr().out
    assert main([*flags, "--train.steps", "3", "--out", "a", "--resume"]) == 2
    assert "--train.steps 3" in capsys.readouterr().err
    # without the flag, a run is as long as it was
    assert main([*flags, "--out", "a", "--resume"]) == 0
    assert json.loads((tmp_path / "a/recipe.json").read_text())["recipe"]["train"]["steps"] == 4
    assert main([*flags, "--train.steps", "4", "--out", "a", "--resume", "--optim.lr", "1e-5"]) == 2
    assert "--init a/best" in capsys.readouterr().err
    assert main([*flags, "--train.steps", "1", "--out", "b", "--init", "a/best", "--optim.lr", "1e-5"]) == 0
    assert "ground, wall, sky, rare" in capsys.readouterr().out


def test_a_run_without_gain_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    put_good(tmp_path / "set")
    flags = ["train", "folder/semask-micro-fpn", "--data.root", str(tmp_path / "set"), "--workers", "0"]
    flags += ["--train.batch-size", "2", "--train.eval-every", "1", "--optim.lr", "1e-12", "--early-stop", "1"]
    assert main([*flags, "--train.steps", "30", "--out", str(tmp_path / "run"), "--train.ema", "None"]) == 0
    out = capsys.readouterr().out
    assert "step 2/30" in out
    assert "step 30/30" not in out
    assert (tmp_path / "run/best/model.safetensors").exists()
    # what a resumed run goes on from knows of the evaluation without gain
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["callbacks"]
    (stop,) = (values for name, values in state.items() if name.startswith("EarlyStop"))
    assert stop["wait_count"] == 1
    other = EarlyStop(6)
    other.load_state_dict(stop)
    assert (other.patience, other.wait_count) == (6, 1)


def test_frozen_parameters_and_their_norms_stay() -> None:
    recipe = get_recipe("folder/lite0-fpn").override({"train.freeze": ("encoder.chain.blocks_0.*", "*.bias")})
    model = semask.build(recipe)
    module = SegmentationModule(model, None, recipe).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    wanted = {
        name
        for name, _ in model.named_parameters()
        if name.startswith("encoder.chain.blocks_0.") or name[-5:] == ".bias"
    }
    assert frozen == wanted
    norms = {name: layer for name, layer in module.model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert {name for name, norm in norms.items() if not norm.training} == {
        name for name in norms if name.startswith("encoder.chain.blocks_0.")
    }
    for patterns, fact in ((("nothing.*",), "nothing.*"), (("*",), "*")):
        with pytest.raises(ValueError, match=fact.replace("*", r"\*")):
            SegmentationModule(model, None, recipe.override({"train.freeze": patterns}))


def test_rates_fall_from_block_to_block() -> None:
    with torch.device("meta"):
        model = semask.build("folder/dinov2-s-mask")
    names = [name for name, _ in model.named_parameters()]
    above = blocks_above(names)
    depth = 1 + max(int(name.split("blocks.")[1].split(".")[0]) for name in names if "encoder.backbone.blocks." in name)
    recipe = OptimRecipe(lr=1.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in parameter_groups(model, recipe) for p in group["params"]}
    for name, parameter in model.named_parameters():
        if "encoder.backbone.blocks." in name:
            block = int(name.split("blocks.")[1].split(".")[0])
            assert rates[id(parameter)] == 0.5 ** (depth - 1 - block) == 0.5 ** above[name]
        elif name.startswith("encoder.backbone.patch_embed"):
            assert rates[id(parameter)] == 0.5**depth
        elif name.startswith("decoder."):
            assert rates[id(parameter)] == 1
    # every trained parameter is in one group
    assert sorted(rates) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(build_optimizer(model, recipe).param_groups) > depth


def test_a_pyramid_over_a_plain_encoder_starts_anew() -> None:
    with torch.device("meta"):
        names = [
            key for key, _ in semask.build(with_encoder(get_recipe("folder/semask-swin-t-fpn"), VIT)).named_parameters()
        ]
    above = blocks_above(names)
    assert {value for key, value in above.items() if key.startswith("encoder.levels.")} == {0}
    assert max(value for key, value in above.items() if "blocks." in key) == 11


def test_the_norm_of_a_stage_belongs_to_its_last_block() -> None:
    with torch.device("meta"):
        recipe = with_encoder(get_recipe("folder/semask-swin-t-fpn"), "pvt_v2_b0")
        above = blocks_above([key for key, _ in semask.build(recipe).named_parameters()])
    for stage in range(4):
        of_stage = {key: value for key, value in above.items() if f"stages_{stage}." in key}
        norms = {value for key, value in of_stage.items() if f"stages_{stage}.norm." in key}
        assert norms == {min(of_stage.values())}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("folder/semask-swin-t-fpn", 15, 0), ("folder/semask-lite0-fpn", 16, 0), ("folder/semask-segformer-b0", 11, 0)],
)
def test_blocks_of_hierarchical_encoders(name: str, first: int, last: int) -> None:
    with torch.device("meta"):
        names = [key for key, _ in semask.build(name).named_parameters()]
    above = blocks_above(names)
    encoder = [above[key] for key in names if key.startswith("encoder.chain.")]
    assert (encoder[0], encoder[-1]) == (first, last)
    assert sorted(encoder, reverse=True) == encoder
    assert {above[key] for key in names if key.startswith("encoder.semantic.")} == {0}


def test_presets_of_augmentation() -> None:
    aerial = parse(["folder/semask-lite0-fpn", "--augment", "aerial", "--data.flip", "0.25"]).recipe.data
    assert (aerial.vertical_flip, aerial.rotate, aerial.flip) == (0.5, True, 0.25)
    assert parse(["folder/semask-lite0-fpn", "--augment", "microscopy"]).recipe.data.hue == (0, 0)
    assert not parse(["folder/semask-lite0-fpn", "--augment", "street"]).recipe.data.rotate
    with pytest.raises(ValueError, match=facts("--augment moon", "aerial")):
        parse(["folder/semask-lite0-fpn", "--augment", "moon"])


def test_turned_crops_keep_their_labels() -> None:
    """Red is the label in every pixel: however a crop is turned, both stay together, and all eight poses occur."""
    label = torch.from_numpy(np.arange(256, dtype=np.uint8).reshape(16, 16) % 200)
    image = label[None].expand(3, -1, -1).contiguous()
    data = DataRecipe(crop=(16, 16), photometric=False, cat_max_ratio=1.0, flip=0.5, vertical_flip=0.5, rotate=True)
    transform, poses = TrainTransform(data), set()
    for seed in range(100):
        turned, ids = transform(image, label, np.random.default_rng(seed))
        assert torch.equal((turned[0] * 255).round().to(torch.uint8), ids)
        poses.add(tuple(ids.flatten().tolist()))
    assert len(poses) == 8
    # a crop that is not square keeps its sides
    wide = TrainTransform(DataRecipe(crop=(8, 16), photometric=False, cat_max_ratio=1.0, rotate=True))
    for seed in range(20):
        turned, ids = wide(image, label, np.random.default_rng(seed))
        assert (turned.shape, ids.shape) == ((3, 8, 16), (8, 16))
