"""The authors' published files as models of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from semask.checkpoints.mismatch import differences, explain, file_classes
from semask.checkpoints.record import WEIGHTS
from semask.checkpoints.rules import detectron2, mmsegmentation, segformer, segmenter, semask_fpn, setr
from semask.checkpoints.rules.translation import Rule, Translation
from semask.checkpoints.safe_load import read_checkpoint, tensors_of
from semask.checkpoints.store import fill
from semask.checkpoints.transformers import keys as transformers
from semask.checkpoints.transformers.config import (
    CONFIG,
    PROCESSOR,
    check_config,
    check_processor,
    config_names,
    read_config,
)
from semask.checkpoints.variant import VARIANT, check_variant
from semask.data.classes import Classes
from semask.models.build import BASELINES, build, build_encoder, build_on_meta, build_without_init
from semask.models.meta import on_meta_device
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, get_recipe, list_recipes
from semask.recipes.encoders import EncoderOptions, SemanticLayers

RULES: dict[str, Rule] = {
    "semantic_fpn": semask_fpn,
    "segformer": segformer,
    "segformer_mmseg": segformer,
    **dict.fromkeys(BASELINES, mmsegmentation),
    **dict.fromkeys(("setr_naive", "setr_pup", "setr_mla"), setr),
    "ocr": mmsegmentation,
    "segmenter_linear": segmenter,
    "segmenter_mask": segmenter,
    "maskformer": detectron2,
    "mask2former": detectron2,
}
"""Rule file by decoder; mask classifiers and Semantic FPN have a second one, see `_rule`."""
_WEIGHTS_THERE = (WEIGHTS, "pytorch_model.bin")
"""Files of weights in a folder of transformers."""
_SHARDS = tuple(f"{name}.index.json" for name in _WEIGHTS_THERE)
"""What lies there instead where the weights are in several files."""


class Conversion(NamedTuple):
    """A converted file.

    loaded: how many tensors were filled. fresh: tensors left at their random start because they depend on the class
    count. classes: names and colours, if the file carries them. layout: whose file it is, in words. beside: what was
    made of the file that describes the model, a variant.yml or config.json; None for layouts that have none.
    """

    model: SegmentationModel
    recipe: Recipe
    loaded: int
    fresh: tuple[str, ...]
    classes: Classes | None
    layout: str
    beside: str | None


Source = str | Path | Mapping[str, Any]
"""A published file, a folder of `transformers`, or a state dict."""


def load_published(
    source: Source, recipe: str | Recipe, num_classes: int | None = None, *, trust: bool = False
) -> SegmentationModel:
    """Return the model of a published file, folder of `transformers` or state dict, in evaluation mode.

    State dicts may be bare or wrapped. Every tensor must match; a ValueError counts those that do not. `num_classes`
    keeps all but the tensors that depend on the class count, which then start fresh. `trust` reads numpy arrays too
    (`semask.checkpoints.safe_load.read_checkpoint`).
    """
    return convert(source, recipe, num_classes, trust=trust).model


def convert(source: Source, recipe: str | Recipe, num_classes: int | None = None, *, trust: bool = False) -> Conversion:
    """Return the model of a published file together with what was done; the layout may change the recipe."""
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    _require_rule(recipe)
    if num_classes is not None:
        recipe = recipe.override({"model.num_classes": num_classes})
    file, checkpoint = _open(source, trust=trust)
    tensors = tensors_of(checkpoint)
    rule = _rule(recipe, tensors)
    translation = rule.translate(tensors, recipe)
    beside = None
    if translation.layout == segmenter.AUTHORS and file is not None:
        beside = _compare_variant(file, recipe, any_classes=num_classes is not None)
    hollow = build_on_meta(translation.recipe)
    wanted = hollow.state_dict()
    fresh = _fresh(translation.tensors, wanted, rule) if num_classes is not None else ()
    problem = explain(
        translation,
        wanted,
        class_tensors=rule.CLASS_TENSORS,
        fresh=fresh,
        fitting=lambda: fitting_recipe(tensors, recipe),
    )
    if problem is not None:
        raise ValueError(problem)
    _require_equal_copies(hollow, translation)
    class_names, colours = _classes_in_meta(checkpoint)
    if translation.layout in (transformers.LAYOUT, segformer.TRANSFORMERS) and file is not None:
        beside, class_names = _compare_config(file, translation.recipe)
    kept = {key: value for key, value in translation.tensors.items() if key not in fresh}
    model = build(translation.recipe) if fresh else build_without_init(translation.recipe)
    fill(model, kept)
    classes = None if fresh else _classes(class_names, colours, recipe)
    return Conversion(model, translation.recipe, len(kept), fresh, classes, translation.layout, beside)


def fitting_recipe(tensors: Mapping[str, Tensor], recipe: Recipe) -> str | None:
    """Return the name of a recipe that a file fills, of the same dataset if its class count allows, else None."""
    dataset = recipe.name.partition("/")[0]
    translations: dict[tuple[Rule, bool], Translation] = {}
    for name in sorted(list_recipes(), key=lambda name: name.partition("/")[0] != dataset):
        candidate = get_recipe(name)
        if candidate.model.decoder.kind not in RULES:
            continue
        rule = _rule(candidate, tensors)
        kind = (rule, getattr(candidate.model.decoder, "auxiliary", False))
        if kind not in translations:
            translations[kind] = rule.translate(tensors, candidate)
        translation = translations[kind]
        if file_classes(translation.tensors, rule.CLASS_TENSORS) != candidate.model.num_classes:
            continue
        # The encoders are few; most candidates need not be built any further.
        if _shapes(translation.tensors) != _encoder_shapes(candidate):
            continue
        fitted = rule.translate(tensors, candidate)
        if not any(differences(fitted, _tensors_of(fitted.recipe))):
            return name
    return None


@cache
def _tensors_of(recipe: Recipe) -> dict[str, Tensor]:
    return build_on_meta(recipe).state_dict()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what lies in the encoder."""
    return {key: tuple(value.shape) for key, value in tensors.items() if key.startswith("encoder.")}


def _encoder_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    spec = recipe.model.encoder
    # Options that leave the shapes as they are must not make another encoder of it.
    shared: dict[str, Any] = {"weights": None}
    if hasattr(spec, "drop_path"):
        shared["drop_path"] = 0.0
    if isinstance(spec.semantic, SemanticLayers):
        shared["semantic"] = dataclasses.replace(spec.semantic, windows=(None,) * 4)
    spec = dataclasses.replace(spec, **shared)
    return _shapes_of_encoder(spec, recipe.model.num_classes, recipe.data.crop)


@cache
def _shapes_of_encoder(spec: EncoderOptions, num_classes: int, crop: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    with on_meta_device():
        encoder = build_encoder(spec, num_classes, crop=crop)
    return {f"encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items()}


def _require_rule(recipe: Recipe) -> None:
    name = recipe.model.decoder.kind
    if name not in RULES:
        raise ValueError(f"no published files are known for the decoder {name!r}; there are for: {', '.join(RULES)}")


def _rule(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Rule:
    rule = RULES[recipe.model.decoder.kind]
    if rule is semask_fpn and mmsegmentation.recognises(tensors):
        return mmsegmentation
    return transformers if rule is detectron2 and transformers.recognises(tensors) else rule


def _require_equal_copies(model: SegmentationModel, translation: Translation) -> None:
    """Raise a ValueError where the file has different values for one parameter of two names: FaPN shares norms."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if not translation.tensors[first].equal(translation.tensors[name]):
            raise ValueError(
                f"the file's {translation.names[first]} and {translation.names[name]} differ, but are one parameter of "
                f"the recipe {translation.recipe.name!r}: the file is of a model that shares no norms, or was changed. "
                "Make both tensors equal in it to load them."
            )


def _open(source: Source, *, trust: bool) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the file of weights, None for a state dict, and what it holds."""
    if isinstance(source, Mapping):
        return None, source
    file = _weights_file(Path(source))
    return file, read_checkpoint(file, trust=trust)


def _weights_file(path: Path) -> Path:
    """Return the file of weights in a folder of transformers, and a file as it is."""
    if not path.is_dir():
        return path
    found = [path / name for name in _WEIGHTS_THERE if (path / name).is_file()]
    if not found and (shards := next((name for name in _SHARDS if (path / name).is_file()), None)):
        raise ValueError(
            f"{str(path)!r} holds its weights in shards ({shards}), and one file is read. Join them: load the folder "
            "with transformers' from_pretrained, then call save_pretrained(folder, max_shard_size='100GB')."
        )
    if not found:
        raise ValueError(f"{str(path)!r} is a folder without {' or '.join(_WEIGHTS_THERE)}; give the file itself")
    return found[0]


def _compare_config(file: Path, recipe: Recipe) -> tuple[str, list[str]]:
    """Compare what lies beside a file of transformers; return what was found, and the class names told there."""
    config = file.with_name(CONFIG)
    if not config.is_file():
        return f"There is no {CONFIG} beside it to compare the recipe with.", []
    said = read_config(config)
    check_config(said, recipe)
    also = ""
    if (processor := file.with_name(PROCESSOR)).is_file():
        check_processor(read_config(processor), recipe)
        also = f", the {PROCESSOR} on normalisation"
    third = "strides" if recipe.model.decoder.kind == "segformer" else "norms"
    return f"The {CONFIG} beside it agrees on heads, activations and {third}{also}.", config_names(said)


def _compare_variant(source: Path, recipe: Recipe, *, any_classes: bool) -> str:
    path = source.with_name(VARIANT)
    if not path.is_file():
        return f"There is no {VARIANT} beside it to compare the recipe with."
    check_variant(path, recipe, any_classes=any_classes)
    return f"The {VARIANT} beside it agrees on backbone, image size, normalisation, decoder and classes."


def _fresh(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rule: Rule) -> tuple[str, ...]:
    return tuple(
        key
        for key, value in found.items()
        if key in wanted and rule.CLASS_TENSORS.fullmatch(key) and value.shape != wanted[key].shape
    )


def _classes_in_meta(checkpoint: Mapping[str, Any]) -> tuple[list[str], Sequence[Any] | None]:
    """Return class names and colours in mmsegmentation's 'meta', which spells some names with blanks at the end."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return [], None
    return [str(name) for name in meta.get("CLASSES") or ()], meta.get("PALETTE")


def _classes(names: Sequence[str], colours: Sequence[Any] | None, recipe: Recipe) -> Classes | None:
    """Return the classes that the file speaks of.

    That is the recipe's packaged table, with its label map, unless the file names others.
    """
    packaged = Classes.load(recipe.data.classes) if recipe.data.classes is not None else None
    if packaged is not None and len(packaged) != recipe.model.num_classes:
        packaged = None
    if len(names) != recipe.model.num_classes:
        return packaged
    names = [name.strip() for name in names]
    if packaged is not None and [n.casefold() for n in names] == [n.casefold() for n in packaged.names]:
        return packaged
    entries: list[dict[str, Any]] = [{"name": name} for name in names]
    if colours is not None and len(colours) == len(names):
        entries = [{**entry, "colour": list(colour)} for entry, colour in zip(entries, colours, strict=True)]
    return Classes.from_dict({"classes": entries})
