from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semask.checkpoints.variant import MAX_BYTES, check_variant, read_variant
from semask.recipes import get_recipe, list_recipes
from tests.each import failures
from tests.facts import facts, missing

SEGMENTER = [
    name for name in list_recipes() if get_recipe(name).model.decoder.kind.startswith("segmenter") and "/seg-" in name
]


def variant(backbone: str, *, decoder: str, num_classes: int, side: int, layers: int = 2) -> dict[str, object]:
    """What the authors' training writes, in short."""
    head: dict[str, object] = {"name": decoder}
    if decoder == "mask_transformer":
        head |= {"drop_path_rate": 0.0, "dropout": 0.1, "n_layers": layers}
    return {
        "algorithm_kwargs": {"batch_size": 8, "start_epoch": 0, "num_epochs": 64, "eval_freq": 2},
        "amp": False,
        "net_kwargs": {
            "backbone": backbone,
            "d_model": 192,
            "decoder": head,
            "distilled": "deit" in backbone,
            "drop_path_rate": 0.1,
            "dropout": 0.0,
            "image_size": (side, side),
            "n_cls": num_classes,
            "n_layers": 12,
            "normalization": "deit" if "deit" in backbone else "vit",
        },
        "version": "normal",
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "variant.yml"
    path.write_text(content if isinstance(content, str) else yaml.dump(content))
    return path


def test_a_file_of_the_authors_is_read(tmp_path: Path) -> None:
    content = variant("vit_tiny_patch16_384", decoder="mask_transformer", num_classes=150, side=512)
    path = write(tmp_path, content)
    assert "!!python/tuple" in path.read_text(), "which plain safe loading refuses"
    assert read_variant(path) == content


def takes_its_own_variant_alone(name: str, folder: Path) -> None:
    recipe = get_recipe(name)
    backbone = recipe.model.encoder.name.split(".")[0]
    mask = recipe.model.decoder.kind == "segmenter_mask"
    content = variant(
        "vit_base_patch8_384" if "patch8" in backbone else backbone,
        decoder="mask_transformer" if mask else "linear",
        num_classes=recipe.model.num_classes,
        side=recipe.data.crop[0],
        layers=getattr(recipe.model.decoder, "layers", 2),
    )
    path = write(folder, content)
    check_variant(path, recipe)
    for other in SEGMENTER:
        if other != name:
            with pytest.raises(ValueError, match=facts("variant.yml", repr(other), repr(name))):
                check_variant(path, get_recipe(other))


def test_every_recipe_takes_its_own_variant_alone(tmp_path: Path) -> None:
    assert SEGMENTER
    assert failures(lambda name: takes_its_own_variant_alone(name, tmp_path), SEGMENTER) == []


def test_differences_are_told_with_both_values(tmp_path: Path) -> None:
    content = variant("vit_large_patch16_384", decoder="mask_transformer", num_classes=19, side=768, layers=2)
    recipe = get_recipe("cityscapes/seg-l-mask-16")
    with pytest.raises(ValueError, match=facts(repr(recipe.name), "net_kwargs.decoder.n_layers", 2, 1)):
        check_variant(write(tmp_path, content), recipe)
    content["net_kwargs"] |= {"normalization": "deit", "image_size": [512, 512], "n_cls": 7}  # type: ignore[operator]
    with pytest.raises(ValueError, match=facts(repr(recipe.name))) as error:
        check_variant(write(tmp_path, content), recipe, any_classes=True)
    assert missing(str(error.value), "net_kwargs.normalization", "'deit'", "'vit'") == []
    assert missing(str(error.value), "net_kwargs.image_size", (512, 512), (768, 768)) == []
    assert "n_cls" not in str(error.value)


def test_what_is_not_said_is_not_compared(tmp_path: Path) -> None:
    check_variant(write(tmp_path, "net_kwargs: {backbone: vit_tiny_patch16_384}"), get_recipe("ade20k/seg-t-mask-16"))
    check_variant(write(tmp_path, "net_kwargs: {decoder: none, image_size: [512, 512]}"), get_recipe("ade20k/seg-t-16"))


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("net_kwargs: !!python/object/apply:os.system ['touch harmed']", "python/object/apply:os.system"),
        ("net_kwargs: {backbone: !!python/name:os.system }", "python/name:os.system"),
        ("a: !!python/module:os", "python/module:os"),
        ("a: !!python/object/new:type {args: [x]}", "python/object/new:type"),
        ("a: [!!python/tuple [!!python/complex 1j]]", "python/complex"),
        ("a: !own thing", "!own"),
        ("a: !!timestamp never", "timestamp"),
        ("a: !!binary aGk=", "binary"),
        ("a: &a {b: 1}\nc: {<<: *a}", "merge"),
    ],
)
def test_other_tags_are_refused_and_run_nothing(
    text: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=facts("variant.yml")) as error:
        read_variant(write(tmp_path, text))
    assert tag in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["variant.yml"]


@pytest.mark.parametrize(
    "text",
    [
        "net_kwargs: [1, 2",
        "net_kwargs: {a: b}: c",
        "\tnet_kwargs:",
        "net_kwargs: {a: *nowhere}",
        "--- {}\n--- {}",
        "net_kwargs: {? [a] : b}",
        "net_kwargs: {? !!python/tuple [1, 2] : b}",
        "net_kwargs: {? {a: b} : c}",
        "net_kwargs: {? !!str {=: a} : c}",
        "net_kwargs: {image_size: !!python/tuple [[512], 512]}",
        "net_kwargs: {image_size: !!python/tuple [512, {a: b}]}",
        "net_kwargs: !!python/tuple ab",
        "net_kwargs: !!python/tuple {a: b}",
        "net_kwargs: !!bool maybe",
        "net_kwargs: !!int ''",
        "net_kwargs: " + "9" * 5000,
        "net_kwargs: {n_cls: " + "1:" * 300 + "1.5}",
        "a: " + "[" * 1100,
        "a: \x00",
    ],
)
def test_malformed_files(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "variant.yml")))):
        read_variant(write(tmp_path, text))


@pytest.mark.parametrize("text", ["", "42", "- net_kwargs", "other: {}", "net_kwargs: 3"])
def test_files_of_something_else(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts("net_kwargs", "variant.yml", "Segmenter")):
        read_variant(write(tmp_path, text))


def test_huge_files(tmp_path: Path) -> None:
    path = write(tmp_path, "net_kwargs: {}\n".ljust(MAX_BYTES + 1, "#"))
    with pytest.raises(ValueError, match=facts(MAX_BYTES)):
        read_variant(path)
    assert read_variant(write(tmp_path, "net_kwargs: {}\n".ljust(MAX_BYTES, "#"))) == {"net_kwargs": {}}


def test_tuples_that_multiply_are_not_hashed(tmp_path: Path) -> None:
    """Python forgets the hash of a tuple: as a key, ten levels of eight references each take half an hour."""
    lines = ["a0: &a0 !!python/tuple [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} !!python/tuple [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 10)]
    with pytest.raises(ValueError, match=facts("variant.yml")):
        read_variant(write(tmp_path, "\n".join([*lines, "? *a9\n: 1"])))
    with pytest.raises(ValueError, match=facts("variant.yml")):
        read_variant(write(tmp_path, "\n".join(lines)))


def test_references_that_multiply_stay_small(tmp_path: Path) -> None:
    """Nine levels of nine references each would be half a billion words, written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = write(tmp_path, "\n".join([*lines, "net_kwargs: {backbone: *a8}"]))
    with pytest.raises(ValueError, match=facts("net_kwargs.backbone")) as error:
        check_variant(path, get_recipe("ade20k/seg-t-mask-16"))
    assert len(str(error.value)) < 1000000


def test_heads_of_another_width(tmp_path: Path) -> None:
    content = variant("vit_tiny_patch16_384", decoder="mask_transformer", num_classes=150, side=512)
    content["net_kwargs"]["n_heads"] = 3
    check_variant(write(tmp_path, content), get_recipe("ade20k/seg-t-mask-16"))
    content["net_kwargs"]["n_heads"] = 6
    with pytest.raises(ValueError, match=facts("net_kwargs.n_heads", 6, "d_model", 192, 3)):
        check_variant(write(tmp_path, content), get_recipe("ade20k/seg-t-mask-16"))
