"""Mask2Former and MaskFormer over Swin in the layout of the library `transformers`, in both directions.

Its files have one set of names, its models in memory have had others since version 5, and both are read. The library
computes MaskFormer, Mask2Former and the dense-prediction Swin as the papers do, so the recipe stays.

Source: Mask2FormerForUniversalSegmentation and MaskFormerForInstanceSegmentation of transformers 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from torch import Tensor

from semask.checkpoints.rules import detectron2
from semask.checkpoints.rules.translation import PROJECTIONS, Translation, join_projections, split_projections
from semask.models.encoders.swin import relative_positions
from semask.recipes import Recipe

LAYOUT = "transformers' mask classification"
CLASS_TENSORS = detectron2.CLASS_TENSORS

Names = tuple[tuple[str, str], ...]
"""Pairs (theirs, ours) without `.weight` and `.bias`; # is any number."""

_ENCODER = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
_LAYER = f"{_QUERIES}decoder.layers.#."
_OUR_PIXELS = "decoder.pixel_decoder."
_OUR_QUERIES = "decoder.predictor."
_OUR_LAYER = f"{_OUR_QUERIES}layers.#."
_BLOCK = f"{_ENCODER}encoder.layers.#.blocks.#."
_OUR_BLOCK = "encoder.chain.layers_#.blocks.#."

_SHARED: Names = (
    (f"{_ENCODER}embeddings.patch_embeddings.projection", "encoder.chain.patch_embed.proj"),
    (f"{_ENCODER}embeddings.norm", "encoder.chain.patch_embed.norm"),
    (f"{_BLOCK}layernorm_before", f"{_OUR_BLOCK}norm1"),
    *((f"{_BLOCK}attention.self.{part}", f"{_OUR_BLOCK}attn.{part}") for part in PROJECTIONS),
    (f"{_BLOCK}attention.output.dense", f"{_OUR_BLOCK}attn.proj"),
    (f"{_BLOCK}attention.self.relative_position_bias_table", f"{_OUR_BLOCK}attn.relative_position_bias_table"),
    (f"{_BLOCK}layernorm_after", f"{_OUR_BLOCK}norm2"),
    (f"{_BLOCK}intermediate.dense", f"{_OUR_BLOCK}mlp.fc1"),
    (f"{_BLOCK}output.dense", f"{_OUR_BLOCK}mlp.fc2"),
    *(
        # transformers merges patches at the end of a stage, timm at the start of the next
        (f"{_ENCODER}encoder.layers.{stage}.downsample.{part}", f"encoder.chain.layers_{stage + 1}.downsample.{part}")
        for stage in range(3)
        for part in ("norm", "reduction")
    ),
    (f"{_PIXELS}mask_projection", f"{_OUR_PIXELS}mask_features"),
    (f"{_QUERIES}queries_embedder.weight", f"{_OUR_QUERIES}query_positions"),
    *((f"{_LAYER}self_attn.{part[0]}_proj", f"{_OUR_LAYER}self_attention.{part}") for part in PROJECTIONS),
    (f"{_LAYER}self_attn.out_proj", f"{_OUR_LAYER}self_attention.project"),
    (f"{_LAYER}self_attn_layer_norm", f"{_OUR_LAYER}self_norm"),
    (f"{_LAYER}fc1", f"{_OUR_LAYER}mlp.fc1"),
    (f"{_LAYER}fc2", f"{_OUR_LAYER}mlp.fc2"),
    (f"{_LAYER}final_layer_norm", f"{_OUR_LAYER}mlp.norm"),
    (f"{_QUERIES}decoder.layernorm", f"{_OUR_QUERIES}norm"),
    ("class_predictor", f"{_OUR_QUERIES}head.classify"),
)
_DEFORMABLE = f"{_PIXELS}encoder.layers.#."
_OUR_DEFORMABLE = f"{_OUR_PIXELS}layers.#."
_MASK_PREDICTOR = f"{_QUERIES}decoder.mask_predictor."
_MASK2FORMER: Names = (
    *((f"{_ENCODER}hidden_states_norms.stage{stage + 1}", f"encoder.norms.{stage}") for stage in range(4)),
    (f"{_PIXELS}input_projections.#.#", f"{_OUR_PIXELS}projections.#.#"),
    (f"{_PIXELS}level_embed", f"{_OUR_PIXELS}level_embeddings"),
    (f"{_DEFORMABLE}self_attn.sampling_offsets", f"{_OUR_DEFORMABLE}attention.offsets"),
    (f"{_DEFORMABLE}self_attn.attention_weights", f"{_OUR_DEFORMABLE}attention.weights"),
    (f"{_DEFORMABLE}self_attn.value_proj", f"{_OUR_DEFORMABLE}attention.value"),
    (f"{_DEFORMABLE}self_attn.output_proj", f"{_OUR_DEFORMABLE}attention.project"),
    (f"{_DEFORMABLE}self_attn_layer_norm", f"{_OUR_DEFORMABLE}norm"),
    (f"{_DEFORMABLE}fc1", f"{_OUR_DEFORMABLE}mlp.fc1"),
    (f"{_DEFORMABLE}fc2", f"{_OUR_DEFORMABLE}mlp.fc2"),
    (f"{_DEFORMABLE}final_layer_norm", f"{_OUR_DEFORMABLE}mlp.norm"),
    (f"{_PIXELS}adapter_1.0", f"{_OUR_PIXELS}finest.lateral.conv"),
    (f"{_PIXELS}adapter_1.1", f"{_OUR_PIXELS}finest.lateral.norm"),
    (f"{_PIXELS}layer_1.0", f"{_OUR_PIXELS}finest.output.conv"),
    (f"{_PIXELS}layer_1.1", f"{_OUR_PIXELS}finest.output.norm"),
    (f"{_QUERIES}queries_features.weight", f"{_OUR_QUERIES}query_features"),
    (f"{_QUERIES}level_embed.weight", f"{_OUR_QUERIES}level_embeddings"),
    *((f"{_LAYER}cross_attn.{part}", f"{_OUR_LAYER}cross_attention.{part}") for part in PROJECTIONS),
    (f"{_LAYER}cross_attn.out_proj", f"{_OUR_LAYER}cross_attention.project"),
    (f"{_LAYER}cross_attn_layer_norm", f"{_OUR_LAYER}cross_norm"),
    *((f"{_MASK_PREDICTOR}mask_embedder.{i}.0", f"{_OUR_QUERIES}head.embed.{2 * i}") for i in range(3)),
)
_MASKFORMER: Names = (
    (f"{_ENCODER}hidden_states_norms.#", "encoder.norms.#"),
    (f"{_PIXELS}fpn.stem.0", f"{_OUR_PIXELS}top.conv"),
    (f"{_PIXELS}fpn.stem.1", f"{_OUR_PIXELS}top.norm"),
    *(
        # transformers counts levels from the coarsest, we from the finest
        (f"{_PIXELS}fpn.layers.{2 - level}.{theirs}", f"{_OUR_PIXELS}levels.{level}.{ours}")
        for level in range(3)
        for theirs, ours in (
            ("proj.0", "lateral.conv"),
            ("proj.1", "lateral.norm"),
            ("block.0", "output.conv"),
            ("block.1", "output.norm"),
        )
    ),
    (f"{_QUERIES}input_projection", f"{_OUR_QUERIES}project"),
    *((f"{_LAYER}encoder_attn.{part[0]}_proj", f"{_OUR_LAYER}cross_attention.{part}") for part in PROJECTIONS),
    (f"{_LAYER}encoder_attn.out_proj", f"{_OUR_LAYER}cross_attention.project"),
    (f"{_LAYER}encoder_attn_layer_norm", f"{_OUR_LAYER}cross_norm"),
    *((f"mask_embedder.{i}.0", f"{_OUR_QUERIES}head.embed.{2 * i}") for i in range(3)),
)
_OWN: dict[str, Names] = {"mask2former": _MASK2FORMER, "maskformer": _MASKFORMER}
"""Names that only one of the decoders has, by our name of the decoder."""

_NEWER: tuple[tuple[str, str], ...] = (
    (r"^(model\.pixel_level_module\.encoder\.)(swin|model)\.", r"\1"),
    *((rf"(\.blocks\.\d+\.attention\.){part[0]}_proj\.", rf"\1self.{part}.") for part in PROJECTIONS),
    (r"(\.blocks\.\d+\.attention\.)o_proj\.", r"\1output.dense."),
    (r"(\.blocks\.\d+\.attention\.)relative_position_bias\.", r"\1self."),
    (r"(\.blocks\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(\.blocks\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
    (r"(\.decoder\.layers\.\d+\.)mlp\.", r"\1"),
    (r"(\.decoder\.layers\.\d+\.(self|encoder)_attn\.)o_proj\.", r"\1out_proj."),
)
"""Replacements from names in memory to names in files, without the backbone's own prefix."""
_UNUSED = re.compile(r"criterion\..*|.*\.relative_position_index|model\.pixel_level_module\.encoder\.layernorm\..*")
"""Buffers that are computed from the sizes, and the norm of a classifier."""
_THEIR_JOINED = re.compile(r"(.*\.cross_attn\.)in_proj_(weight|bias)")
_THEIR_QUERIES = re.compile(r"(.*\.cross_attn\.)query\.(weight|bias)")
_OUR_JOINED = re.compile(r"(encoder\.chain\..*\.attn\.)qkv\.(weight|bias)")
_OUR_SPLIT = re.compile(r"(encoder\.chain\..*\.attn\.)query\.(weight|bias)")


def recognises(tensors: Iterable[str]) -> bool:
    """Whether the names are of this layout."""
    return any(key.startswith("model.pixel_level_module.") for key in tensors)


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names."""
    to_ours = _renaming((*_SHARED, *_MASK2FORMER, *_MASKFORMER))
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, value in tensors.items():
        name = key
        for newer, file in _NEWER:
            name = re.sub(newer, file, name)
        if _UNUSED.fullmatch(name):
            continue
        for theirs, part in split_projections(name, value, _THEIR_JOINED):
            # an unknown tensor keeps its name
            ours = rename(theirs, to_ours) or key
            found[ours], names[ours] = part, key
    # one tensor for the three projections of Swin
    whole = join_projections(found, _OUR_SPLIT, "{0}qkv.{1}")
    names |= {ours: names[ours.replace(".qkv.", ".query.")] for ours in whole if ours not in names}
    return Translation(whole, tensors, names, recipe, LAYOUT)


def untranslate(tensors: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Our tensors in this layout, with its buffers and its unused norm."""
    decoder = recipe.model.decoder.kind
    to_theirs = _renaming(tuple((ours, theirs) for theirs, ours in (*_SHARED, *_OWN[decoder])))
    parts = dict(part for key, value in tensors.items() for part in split_projections(key, value, _OUR_JOINED))
    # split and renamed, then the projections of the queries joined
    renamed: dict[str, Tensor] = {}
    for key, value in parts.items():
        theirs = rename(key, to_theirs)
        if theirs is None:
            raise ValueError(f"{LAYOUT} has no place for the tensor {key!r}; only plain Swin can be written")
        renamed[theirs] = value
    renamed = join_projections(renamed, _THEIR_QUERIES, "{0}in_proj_{1}") | _extras(renamed, recipe)
    if decoder == "mask2former":
        return renamed
    # MaskFormer's files have the backbone's own prefix
    own = re.compile(rf"^{re.escape(_ENCODER)}(?=embeddings\.|encoder\.|layernorm\.)")
    return {own.sub(f"{_ENCODER}model.", key): value for key, value in renamed.items()}


def _extras(renamed: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Tensors of this layout that ours does not need."""
    # class weights of the loss, the norm of a classifier, and positions within windows
    width = len(renamed[f"{_ENCODER}encoder.layers.3.blocks.0.layernorm_before.weight"])
    no_object_weight = torch.tensor([recipe.loss.masks.no_object_weight])
    extras = {"criterion.empty_weight": torch.cat((torch.ones(recipe.model.num_classes), no_object_weight))}
    norm = f"{_ENCODER}{'swin.' if recipe.model.decoder.kind == 'mask2former' else ''}layernorm."
    extras |= {f"{norm}weight": torch.ones(width), f"{norm}bias": torch.zeros(width)}
    if recipe.model.decoder.kind == "maskformer":
        table = ".relative_position_bias_table"
        for key, value in renamed.items():
            if key.endswith(table):
                window = (round(len(value) ** 0.5) + 1) // 2
                extras[f"{key.removesuffix(table)}.relative_position_index"] = relative_positions(window)
    return extras


def rename(key: str, renaming: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    """The name in the other layout, None for an unknown tensor."""
    for pattern, template in renaming:
        match = pattern.fullmatch(key)
        if match is not None:
            # the numbers fill the # in turn, the kind (.weight, .bias or none) the end
            *numbers, kind = match.groups(default="")
            between = template.split("#")
            return "".join(part for pair in zip(between, [*numbers, kind], strict=True) for part in pair)
    return None


@cache
def _renaming(names: Names) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The first names of the pairs as patterns of numbers and a kind, with the second ones."""
    return tuple(
        (re.compile(re.escape(one).replace(r"\#", r"(\d+)") + r"(\.weight|\.bias)?"), other) for one, other in names
    )
