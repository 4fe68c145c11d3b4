"""Published files as they lie about: wrapped, prefixed, in other types, of another class count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semask import recipes
from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.rules.semask_fpn import CLASS_TENSORS, rename
from semask.data.classes import Classes
from semask.recipes.decoders import SemanticFPNOptions
from tests.facts import facts, missing
from tests.reference.synthetic_weights import checkpoint, hollow_checkpoint

NAME = "semask_swin_t_fpn_150_64x96"
RECIPE = "ade20k/semask-swin-t-fpn"
SMALL = "mmsegmentation/segmenter_vit_t_mask_150_64x96"
SMALL_RECIPE = "ade20k/seg-t-mask-16"


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    """Of a fifth of the size, for what does not depend on the layout."""
    return checkpoint(SMALL)


@pytest.fixture(scope="module")
def small_model(small) -> torch.nn.Module:
    return load_published(small, SMALL_RECIPE)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


def test_as_mmsegmentation_saves_it(small, small_model, tmp_path: Path) -> None:
    meta = {
        "mmseg_version": "0.11.0",
        "CLASSES": tuple(f"class {i}" for i in range(150)),
        "PALETTE": [[i, 0, 255 - i] for i in range(150)],
        "iter": 80000,
    }
    wrapped = {"meta": meta, "state_dict": {f"module.{k}": v.double() for k, v in small.items()}, "optimizer": {}}
    torch.save(wrapped, tmp_path / "iter_80000.pth")
    conversion = convert(tmp_path / "iter_80000.pth", SMALL_RECIPE)
    assert equal(conversion.model, small_model)
    assert conversion.classes.names[7] == "class 7"
    assert conversion.classes.colours[7] == (7, 0, 248)
    assert not conversion.fresh
    assert conversion.loaded == len(conversion.model.state_dict())


def test_what_was_given_stays_the_callers(small, small_model) -> None:
    given = {value.untyped_storage().data_ptr() for value in small.values()}
    for value in small_model.state_dict().values():
        assert value.untyped_storage().data_ptr() not in given
        assert value.is_contiguous()
    assert all(parameter.requires_grad for parameter in small_model.parameters())


def test_names_spelt_with_blanks_are_the_packaged_ones(small) -> None:
    """So that a converted file can be evaluated on its own data set."""
    names = tuple(f"{name.upper()} " for name in Classes.load("ade20k").names)
    conversion = convert({"meta": {"CLASSES": names}, "state_dict": small}, SMALL_RECIPE)
    assert conversion.classes == Classes.load("ade20k")


def test_bare_safetensors(small, small_model, tmp_path: Path) -> None:
    save_file(small, tmp_path / "model.safetensors")
    conversion = convert(tmp_path / "model.safetensors", SMALL_RECIPE)
    assert equal(conversion.model, small_model)
    assert conversion.classes == Classes.load("ade20k")


def test_missing_unexpected_and_misshapen_tensors_are_counted_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The search for a recipe that fits has its own tests.
    monkeypatch.setattr("semask.checkpoints.convert.fitting_recipe", lambda tensors, recipe: None)
    broken = hollow_checkpoint(NAME)
    del broken["backbone.norm2.weight"], broken["decode_head.conv_seg.bias"]
    broken |= {f"auxiliary_head.{number}.weight": torch.zeros(1) for number in range(7)}
    broken["backbone.norm1.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=facts(270, "'ade20k/semask-swin-t-fpn'")) as error:
        load_published(broken, RECIPE)
    absent, unknown, misshapen = str(error.value).splitlines()[1:]
    assert missing(absent, 2, "encoder.norms.2.weight, decoder.classify.bias") == []
    assert missing(unknown, 7, ", ".join(f"auxiliary_head.{number}.weight" for number in range(5)), 2) == []
    assert missing(misshapen, 1, "backbone.norm1.bias", (5,), (192,)) == []


def test_a_plain_swin_is_no_semask() -> None:
    with pytest.raises(ValueError, match=facts(44, "encoder.semantic.0.units.0.gain", 39, "'ade20k/swin-t-fpn'")):
        load_published(hollow_checkpoint("swin_t_fpn_150_64x96"), RECIPE)


class Unheard(SemanticFPNOptions):
    kind = "unheard_of"


def test_decoders_without_published_files() -> None:
    recipe = recipes.get_recipe(RECIPE)
    recipe = recipe.override({"model.decoder": Unheard()})
    with pytest.raises(ValueError, match=facts("'unheard_of'", "semantic_fpn, segformer")):
        load_published({"a": torch.zeros(1)}, recipe)


def test_another_class_count() -> None:
    published = checkpoint(NAME)
    with pytest.raises(ValueError, match=facts(150, 19, "num_classes=19")):
        load_published(published, "cityscapes/semask-swin-t-fpn")
    conversion = convert(published, RECIPE, num_classes=7)
    assert conversion.model.num_classes == 7
    assert len(conversion.fresh) == 4 * 4 + 2
    assert all(CLASS_TENSORS.fullmatch(key) for key in conversion.fresh)
    ours = conversion.model.state_dict()
    for key, value in published.items():
        name = rename(key)
        if name is not None and name not in conversion.fresh:
            assert torch.equal(ours[name], value), name


def test_the_class_count_that_the_file_has_keeps_all(small, small_model) -> None:
    conversion = convert(small, SMALL_RECIPE, num_classes=150)
    assert not conversion.fresh
    assert equal(conversion.model, small_model)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "absent.pth")))):
        load_published(tmp_path / "absent.pth", RECIPE)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=facts("list.pth", "list", "dict")):
        load_published(tmp_path / "list.pth", RECIPE)
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match=facts("epoch")):
        load_published(tmp_path / "epoch.pth", RECIPE)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.pth")
    with pytest.raises(ValueError, match=facts("array.pth")):
        load_published(tmp_path / "array.pth", RECIPE)
