"""Published files of the authors, mmsegmentation, detectron2 and transformers as models of this library."""

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
from semask.checkpoints.transformers import config as hf
from semask.checkpoints.transformers import keys as transformers
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
"""Rule file by kind of decoder; mask classifiers and Semantic FPN have a second one, see `_rule`."""
_FILES = (WEIGHTS, "pytorch_model.bin")
"""Files of weights in a folder of transformers; with .index.json behind them, lists of shards."""


class Conversion(NamedTuple):
    """A converted file.

    loaded: number of filled tensors. fresh: tensors at their random start, since they depend on the class count.
    classes: names and colours, if the file carries them. layout: origin of the file, in words. beside: outcome of the
    comparison with the variant.yml or config.json beside it; None for layouts that have none.
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
    """Model of a published file, in evaluation mode.

    Args:
        source: A file, a folder of `transformers`, or a state dict, bare or wrapped.
        recipe: Recipe of the model, or its name.
        num_classes: Another class count: tensors that depend on it start fresh.
        trust: Also read NumPy arrays (`semask.checkpoints.safe_load.read_checkpoint`).

    Raises:
        ValueError: The file cannot be read, or a tensor is missing, unexpected or of another shape.

    >>> import semask, tempfile
    >>> from semask.checkpoints.transformers.export import write_transformers
    >>> model = semask.build("scenes/micro-mask2former")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_transformers(folder, model, model.recipe)
    ...     same = semask.load_published(folder, "scenes/micro-mask2former")
    >>> same.num_classes
    12
    """
    return convert(source, recipe, num_classes, trust=trust).model


def convert(source: Source, recipe: str | Recipe, num_classes: int | None = None, *, trust: bool = False) -> Conversion:
    """Model of a published file with the report of its conversion; the layout may change the recipe."""
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    _check_decoder(recipe)
    if num_classes is not None:
        recipe = recipe.override({"model.num_classes": num_classes})
    # read, and bring names and shapes into ours
    file = None if isinstance(source, Mapping) else _weights_file(Path(source))
    checkpoint = read_checkpoint(file, trust=trust) if file is not None else source
    assert isinstance(checkpoint, Mapping)
    tensors = tensors_of(checkpoint)
    rule = _rule(recipe, tensors)
    translation = rule.translate(tensors, recipe)
    # the authors' description beside the file
    beside = None
    if translation.layout == segmenter.AUTHORS and file is not None:
        beside = f"There is no {VARIANT} beside it to compare the recipe with."
        if (variant := file.with_name(VARIANT)).is_file():
            check_variant(variant, recipe, any_classes=num_classes is not None)
            beside = f"The {VARIANT} beside it agrees on backbone, image size, normalisation, decoder and classes."
    # every tensor must fit, apart from those of another class count with num_classes
    hollow = build_on_meta(translation.recipe)
    wanted, found = hollow.state_dict(), translation.tensors
    fresh = tuple(
        key
        for key, value in found.items()
        if num_classes is not None
        and key in wanted
        and rule.CLASS_TENSORS.fullmatch(key)
        and value.shape != wanted[key].shape
    )
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
    # names and colours of the classes
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    class_names = [str(name) for name in meta.get("CLASSES") or ()]
    if translation.layout in (transformers.LAYOUT, segformer.TRANSFORMERS) and file is not None:
        beside, class_names = _compare_config(file, translation.recipe)
    classes = None if fresh else _classes(class_names, meta.get("PALETTE"), recipe)
    # fresh tensors need a random start, a whole file none
    kept = {key: value for key, value in found.items() if key not in fresh}
    model = build(translation.recipe) if fresh else build_without_init(translation.recipe)
    fill(model, kept)
    return Conversion(model, translation.recipe, len(kept), fresh, classes, translation.layout, beside)


def translated_tensors(path: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Tensors of a published file by the names that a recipe's model has for them, whatever the class count.

    Raises:
        ValueError: The file cannot be read, or no published files are known for the decoder.
    """
    _check_decoder(recipe)
    tensors = tensors_of(read_checkpoint(_weights_file(path)))
    return dict(_rule(recipe, tensors).translate(tensors, recipe).tensors)


def fitting_recipe(tensors: Mapping[str, Tensor], recipe: Recipe) -> str | None:
    """Name of a recipe that a file fills, of the same dataset if its class count allows, else None."""
    dataset = recipe.name.partition("/")[0]
    translations: dict[tuple[Rule, bool], Translation] = {}
    for name in sorted(list_recipes(), key=lambda name: name.partition("/")[0] != dataset):
        candidate = get_recipe(name)
        spec = candidate.model
        if spec.decoder.kind not in RULES:
            continue
        # one translation for all recipes of a rule; most differ in sizes alone
        rule = _rule(candidate, tensors)
        kind = (rule, getattr(spec.decoder, "auxiliary", False))
        if kind not in translations:
            translations[kind] = rule.translate(tensors, candidate)
        translation = translations[kind]
        if file_classes(translation.tensors, rule.CLASS_TENSORS) != spec.num_classes:
            continue
        # the encoders are few: one is built for all options that leave its shapes as they are
        shared: dict[str, Any] = {"weights": None}
        if hasattr(spec.encoder, "drop_path"):
            shared["drop_path"] = 0.0
        if isinstance(spec.encoder.semantic, SemanticLayers):
            shared["semantic"] = dataclasses.replace(spec.encoder.semantic, windows=(None,) * 4)
        encoder = {key: tuple(v.shape) for key, v in translation.tensors.items() if key.startswith("encoder.")}
        options = dataclasses.replace(spec.encoder, **shared)
        if encoder != _encoder_shapes(options, spec.num_classes, candidate.data.crop):
            continue
        # the whole model, for the few candidates that are left
        fitted = rule.translate(tensors, candidate)
        if not any(differences(fitted, _tensors_of(fitted.recipe))):
            return name
    return None


@cache
def _tensors_of(recipe: Recipe) -> dict[str, Tensor]:
    return build_on_meta(recipe).state_dict()


@cache
def _encoder_shapes(spec: EncoderOptions, num_classes: int, crop: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    with on_meta_device():
        encoder: Any = build_encoder(spec, num_classes, crop=crop)
    return {f"encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items()}


def _check_decoder(recipe: Recipe) -> None:
    if (kind := recipe.model.decoder.kind) not in RULES:
        raise ValueError(f"no published files are known for the decoder {kind!r}; there are for: {', '.join(RULES)}")


def _rule(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Rule:
    rule = RULES[recipe.model.decoder.kind]
    # Semantic FPN and mask classifiers have two layouts, distinguished by the names in the file
    if rule is semask_fpn and mmsegmentation.recognises(tensors):
        return mmsegmentation
    return transformers if rule is detectron2 and transformers.recognises(tensors) else rule


def _require_equal_copies(model: SegmentationModel, translation: Translation) -> None:
    """Refuse different values of a parameter with two names: FaPN shares norms."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if not translation.tensors[first].equal(translation.tensors[name]):
            raise ValueError(
                f"the file's {translation.names[first]} and {translation.names[name]} differ, but are one parameter of "
                f"the recipe {translation.recipe.name!r}: the file is of a model that shares no norms, or was changed. "
                "Make both tensors equal in it to load them."
            )


def _weights_file(path: Path) -> Path:
    """File of weights in a folder of transformers; a file as it is."""
    if not path.is_dir():
        return path
    if found := [path / name for name in _FILES if (path / name).is_file()]:
        return found[0]
    if shards := [name for name in (f"{name}.index.json" for name in _FILES) if (path / name).is_file()]:
        raise ValueError(
            f"{str(path)!r} holds its weights in shards ({shards[0]}), and one file is read. Join them: load the "
            "folder with transformers' from_pretrained, then call save_pretrained(folder, max_shard_size='100GB')."
        )
    raise ValueError(f"{str(path)!r} is a folder without {' or '.join(_FILES)}; give the file itself")


def _compare_config(file: Path, recipe: Recipe) -> tuple[str, list[str]]:
    """Compare the configurations beside a file of transformers; return the outcome and the class names in them."""
    # no tensor shows numbers of heads, activations or the epsilons of norms
    path, processor = file.with_name(hf.CONFIG), file.with_name(hf.PROCESSOR)
    if not path.is_file():
        return f"There is no {hf.CONFIG} beside it to compare the recipe with.", []
    config = hf.read_config(path)
    hf.check_config(config, recipe)
    also = ""
    if processor.is_file():
        hf.check_processor(hf.read_config(processor), recipe)
        also = f", the {hf.PROCESSOR} on normalisation"
    third = "strides" if recipe.model.decoder.kind == "segformer" else "norms"
    return f"The {hf.CONFIG} beside it agrees on heads, activations and {third}{also}.", hf.config_names(config)


def _classes(names: Sequence[str], colours: Sequence[Any] | None, recipe: Recipe) -> Classes | None:
    """The recipe's packaged table, with its label map, unless the file names other classes."""
    # a packaged table of another length is of another task
    packaged = Classes.load(recipe.data.classes) if recipe.data.classes is not None else None
    if packaged is not None and len(packaged) != recipe.model.num_classes:
        packaged = None
    if len(names) != recipe.model.num_classes:
        return packaged
    # mmsegmentation spells some names with blanks at the end
    names = [name.strip() for name in names]
    if packaged is not None and [n.casefold() for n in names] == [n.casefold() for n in packaged.names]:
        return packaged
    entries: list[dict[str, Any]] = [{"name": name} for name in names]
    if colours is not None and len(colours) == len(names):
        entries = [{**entry, "colour": list(colour)} for entry, colour in zip(entries, colours, strict=True)]
    return Classes.from_dict({"classes": entries})
