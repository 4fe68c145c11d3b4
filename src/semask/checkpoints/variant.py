"""The variant.yml beside checkpoints of Segmenter's authors: its reader, and its comparison with a recipe."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from semask.models.layers.attention import HEAD_WIDTH
from semask.recipes import Recipe, get_recipe, list_recipes
from semask.recipes.decoders import SegmenterMaskOptions

VARIANT = "variant.yml"
MAX_BYTES = 65536
"""The authors' files have about 2 kB."""

_BACKBONES = {"vit_base_patch8_384": "vit_base_patch8_224"}
"""timm has no B/8 of the authors' name; the architecture is the same."""
_DECODERS = {"segmenter_linear": "linear", "segmenter_mask": "mask_transformer"}
_TAGS = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class VariantLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML of plain values and of Python's tuples, the form of image_size; every other tag is refused."""

    yaml_constructors = {_TAGS + kind: yaml.SafeLoader.yaml_constructors[_TAGS + kind] for kind in _PLAIN}  # noqa: RUF012

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys alone: nested ones grow without bounds."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping whose keys are scalars."""
        if isinstance(node, yaml.MappingNode):
            _require_scalars([key for key, _ in node.value], "keys of a mapping")
        content: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return content

    def construct_tuple(self, node: yaml.Node) -> tuple[Any, ...]:
        """Read a tuple of scalars."""
        if isinstance(node, yaml.SequenceNode):
            _require_scalars(node.value, "elements of a tuple")
        return tuple(self.construct_sequence(node))

    def construct_undefined(self, node: yaml.Node) -> None:
        """Refuse every other tag."""
        raise ValueError(
            f"the YAML tag {node.tag!r} is not allowed: others than that of Python's tuples can run code. Be wary of "
            "the checkpoint beside it too"
        )


def _require_scalars(nodes: list[yaml.Node], what: str) -> None:
    """Refuse nodes that hold others: tuples of tuples, a few hundred bytes with aliases, take hours to hash."""
    for node in nodes:
        if not isinstance(node, yaml.ScalarNode):
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: {what} must be plain values, not a {node.id}")


VariantLoader.add_constructor(f"{_TAGS}python/tuple", VariantLoader.construct_tuple)
VariantLoader.add_constructor(None, VariantLoader.construct_undefined)


def read_variant(path: Path) -> dict[str, Any]:
    """A variant.yml as plain values.

    Raises:
        ValueError: The file is too large, no YAML of plain values, or has no net_kwargs.
    """
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"{str(path)!r} is larger than {MAX_BYTES} bytes; the authors' files have about 2 kB")
    try:
        content = yaml.load(text, Loader=VariantLoader)
    except (yaml.YAMLError, ValueError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("net_kwargs"), dict):
        raise ValueError(
            f"{str(path)!r} has no net_kwargs, so it is no {VARIANT} of Segmenter; rename or remove it if it belongs "
            "to something else"
        )
    return content


def check_variant(path: Path, recipe: Recipe, *, any_classes: bool = False) -> None:
    """Check that a variant.yml describes the model of a recipe.

    Args:
        path: The variant.yml.
        recipe: Recipe of the model.
        any_classes: Leave the class count out.

    Raises:
        ValueError: A value differs; the message names both values and, if there is one, the recipe that fits.
    """
    variant = read_variant(path)
    theirs = describe_variant(variant)
    if any_classes:
        theirs.pop("net_kwargs.n_cls", None)
    ours = describe_recipe(recipe)
    differ = [
        f"{field} is {reprlib.repr(value)}, the recipe's {ours.get(field)!r}"
        for field, value in theirs.items()
        if ours.get(field) != value
    ]
    # our ViTs have heads of one width
    heads, width = (variant["net_kwargs"].get(field) for field in ("n_heads", "d_model"))
    if isinstance(heads, int) and isinstance(width, int) and heads * HEAD_WIDTH != width:
        differ.append(f"net_kwargs.n_heads is {heads} for a d_model of {width}, the recipe's {width // HEAD_WIDTH}")
    if differ:
        # the first recipe that agrees in all fields of the file
        described = {name: describe_recipe(get_recipe(name)) for name in list_recipes()}
        fitting = next((name for name, ours in described.items() if theirs.items() <= ours.items()), None)
        hint = f"use the recipe {fitting!r}" if fitting is not None else "no recipe fits"
        raise ValueError(f"{path.name} does not fit the recipe {recipe.name!r}: {'; '.join(differ)}. Here {hint}.")


def describe_variant(variant: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a variant.yml that describe the model, by their paths; missing ones are left out."""
    model = variant["net_kwargs"]
    decoder = model.get("decoder")
    decoder = decoder if isinstance(decoder, Mapping) else {}
    backbone, size, name = model.get("backbone"), model.get("image_size"), decoder.get("name")
    # timm's names of backbones, sizes as tuples, and layers where the decoder has some
    fields = {
        "backbone": _BACKBONES.get(backbone, backbone) if isinstance(backbone, str) else backbone,
        "n_cls": model.get("n_cls"),
        "image_size": tuple(size) if isinstance(size, list) else size,
        "normalization": model.get("normalization"),
        "decoder.name": name,
        "decoder.n_layers": None if name == "linear" else decoder.get("n_layers"),
    }
    return {f"net_kwargs.{field}": value for field, value in fields.items() if value is not None}


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The fields that a variant.yml of the recipe would have."""
    model = recipe.model
    described = {
        "net_kwargs.backbone": model.encoder.name.split(".", 1)[0],
        "net_kwargs.n_cls": model.num_classes,
        "net_kwargs.image_size": getattr(model.encoder, "image_size", None),
        "net_kwargs.normalization": "vit" if model.mean == (0.5, 0.5, 0.5) else "deit",
        "net_kwargs.decoder.name": _DECODERS.get(model.decoder.kind),
    }
    if isinstance(model.decoder, SegmenterMaskOptions):
        described["net_kwargs.decoder.n_layers"] = model.decoder.layers
    return described
