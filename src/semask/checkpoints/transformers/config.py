"""config.json and preprocessor_config.json of the library `transformers`: written from a recipe, compared with one."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from semask.data.classes import Classes
from semask.models.build import build_on_meta
from semask.models.encoders.chain import is_swin
from semask.models.encoders.mix_transformer import HEADS, STEPS
from semask.models.encoders.swin import ShiftedWindowAttention
from semask.models.model import SegmentationModel
from semask.recipes import Recipe
from semask.recipes.decoders import MaskFormerOptions, MSDeformOptions
from semask.structures import IGNORE

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
CLASSES = {"mask2former": "Mask2FormerForUniversalSegmentation", "maskformer": "MaskFormerForInstanceSegmentation"}
"""Names of the models in transformers, by our name of the decoder."""
PROCESSORS = {"mask2former": "Mask2FormerImageProcessor", "maskformer": "MaskFormerImageProcessor"}
PIXEL_DECODERS: dict[str, Literal["msdeform", "fpn"]] = {"mask2former": "msdeform", "maskformer": "fpn"}
"""The only pixel decoder of each model in transformers."""

_MOST_BYTES = 1_000_000
"""Configs have a few thousand bytes."""
_LARGEST = 1e6
"""Larger than any mean or standard deviation of channels."""
_STAGES = [f"stage{number}" for number in range(1, 5)]
_SEGFORMER: dict[str, Any] = {"num_attention_heads": list(HEADS), "strides": list(STEPS), "hidden_act": "gelu"}
"""Values of every SegFormer of ours."""
_BACKBONE_DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "mask2former": {
        "": {"num_attention_heads": 8, "activation_function": "relu", "pre_norm": False},
        "backbone_config": _BACKBONE_DEFAULTS,
    },
    "maskformer": {
        "decoder_config": {"decoder_attention_heads": 8, "activation_function": "relu"},
        "backbone_config": _BACKBONE_DEFAULTS,
    },
    "segformer": {"": _SEGFORMER},
}
"""Fields that no tensor's shape shows, by section, with their values where a config.json lacks them."""


def require_expressible(recipe: Recipe) -> MaskFormerOptions:
    """Options of the decoder of a recipe that `transformers` can compute.

    Raises:
        ValueError: `transformers` has no such model.
    """
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    name, problem = decoder.kind, None
    if not isinstance(decoder, MaskFormerOptions):
        problem = f"it has no decoder {name!r}"
    elif decoder.pixel_decoder.kind != PIXEL_DECODERS[name]:
        problem = f"its {name} has the pixel decoder {PIXEL_DECODERS[name]!r} alone, not {decoder.pixel_decoder.kind!r}"
    elif encoder.semantic is not None:
        problem = "it has no semantic layers"
    elif not is_swin(encoder.name):
        problem = f"the encoder {encoder.name!r} is not written in its layout"
    elif recipe.data.channels != 3:
        problem = f"its image processors read 3 channels, not {recipe.data.channels}"
    if problem is not None:
        raise ValueError(
            f"transformers cannot hold the model of {recipe.name!r}: {problem}. What can be written is plain Swin "
            "under mask2former with msdeform, or maskformer with fpn, such as ade20k/swin-t-mask2former."
        )
    assert isinstance(decoder, MaskFormerOptions)
    return decoder


def model_config(recipe: Recipe, classes: Classes | None = None) -> dict[str, Any]:
    """The config.json of a recipe; classes without names are numbered."""
    decoder, loss, model = require_expressible(recipe), recipe.loss.masks, build_on_meta(recipe)
    width, channels = int(model.decoder.pixel_decoder.mask_features.out_channels), model.encoder.channels[-1]
    names = classes.names if classes is not None else [f"class {number}" for number in range(recipe.model.num_classes)]
    config = {
        "architectures": [CLASSES[decoder.kind]],
        "model_type": decoder.kind,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "dtype": "float32",
        "backbone_config": swin_config(model, recipe),
    }
    if decoder.kind == "mask2former":
        pixels = decoder.pixel_decoder
        assert isinstance(pixels, MSDeformOptions)
        return {
            **config,
            "feature_size": width,
            "mask_feature_size": width,
            "hidden_dim": width,
            "encoder_layers": pixels.layers,
            "encoder_feedforward_dim": pixels.feedforward,
            "decoder_layers": decoder.layers + 1,  # predictions, one of them before the first layer
            "dim_feedforward": decoder.feedforward,
            "num_attention_heads": decoder.heads,
            "num_queries": decoder.queries,
            "dropout": decoder.dropout,
            "activation_function": "relu",
            "pre_norm": False,
            "no_object_weight": loss.no_object_weight,
            "class_weight": loss.class_weight,
            "mask_weight": loss.mask_weight,
            "dice_weight": loss.dice_weight,
            **({} if loss.points is None else {"train_num_points": loss.points}),
            "oversample_ratio": loss.oversample_ratio,
            "importance_sample_ratio": loss.importance_sample_ratio,
        }
    # MaskFormer, whose decoder is a DETR with its own section
    if width == channels:
        raise ValueError(
            f"transformers' MaskFormer has no projection where encoder and decoder are of one width, here {width}; "
            "ours has one, so this model cannot be written"
        )
    return {
        **config,
        "fpn_feature_size": width,
        "mask_feature_size": width,
        "decoder_config": {
            "model_type": "detr",
            "d_model": width,
            "decoder_layers": decoder.layers,
            "decoder_ffn_dim": decoder.feedforward,
            "decoder_attention_heads": decoder.heads,
            "encoder_attention_heads": decoder.heads,
            "num_queries": decoder.queries,
            "dropout": decoder.dropout,
            "activation_function": "relu",
        },
        "no_object_weight": loss.no_object_weight,
        "cross_entropy_weight": loss.class_weight,
        "mask_weight": loss.mask_weight,
        "dice_weight": loss.dice_weight,
    }


def processor_config(recipe: Recipe, classes: Classes | None = None) -> dict[str, Any]:
    """The preprocessor_config.json of a recipe: the test's size, and mean and standard deviation of the channels.

    The processor of `transformers` stretches images to sides of multiples of 32, where ours pads them.
    """
    # 0 for "ignore" and the classes from 1 on, in label files such as ADE20K's
    label_map = {} if classes is None else classes.label_map
    reduced = label_map.get(0) == IGNORE and all(
        target == value - 1 for value, target in label_map.items() if target != IGNORE
    )
    box = recipe.data.base_scale
    size = {} if box is None else {"size": {"shortest_edge": min(box), "longest_edge": max(box)}}
    return {
        "image_processor_type": PROCESSORS[recipe.model.decoder.kind],
        "do_resize": box is not None,
        **size,
        "size_divisor": 32,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.model.mean),
        "image_std": list(recipe.model.std),
        "ignore_index": IGNORE,
        "do_reduce_labels": reduced,
        "num_labels": recipe.model.num_classes,
    }


def read_config(path: Path) -> dict[str, Any]:
    """A config.json as plain values.

    Raises:
        ValueError: The file is too large, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it is larger than the {_MOST_BYTES} bytes that are read of such files")
        config = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} holds a {type(config).__name__}, not a config of transformers")
    return config


def check_config(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Check the fields of a config.json that no tensor's shape shows.

    Raises:
        ValueError: A value is not the recipe's.
    """
    ours = _SEGFORMER if recipe.model.decoder.kind == "segformer" else model_config(recipe)
    differ = []
    for section, defaults in _DEFAULTS[recipe.model.decoder.kind].items():
        theirs = config.get(section) if section else config
        theirs = theirs if isinstance(theirs, Mapping) else {}
        meant = ours[section] if section else ours
        for field, default in defaults.items():
            value = theirs.get(field, default)
            if value != meant[field]:
                where = f"{section}.{field}" if section else field
                differ.append(f"{where} is {value!r:.80}, the recipe's {meant[field]!r}")
    if differ:
        raise ValueError(f"{CONFIG} does not fit the recipe {recipe.name!r}: {'; '.join(differ)}.")


def check_processor(processor: Mapping[str, Any], recipe: Recipe) -> None:
    """Check that a preprocessor_config.json normalises images as the recipe does.

    Raises:
        ValueError: A mean or standard deviation is not the recipe's.
    """
    for field, ours in (("image_mean", recipe.model.mean), ("image_std", recipe.model.std)):
        theirs = processor.get(field, ours)
        # the bound first, since integers of JSON may be larger than any float
        if not (
            isinstance(theirs, Sequence)
            and len(theirs) == len(ours)
            and all(
                isinstance(one, (int, float)) and abs(one) < _LARGEST and math.isclose(one, other, abs_tol=1e-3)
                for one, other in zip(theirs, ours, strict=True)
            )
        ):
            raise ValueError(
                f"{PROCESSOR} does not fit the recipe {recipe.name!r}: {field} is {theirs!r:.80}, the "
                f"recipe's {ours!r}."
            )


def config_names(config: Mapping[str, Any]) -> list[str]:
    """The class names of a config.json by their numbers, none where one is a placeholder or missing."""
    table = config.get("id2label")
    table = table if isinstance(table, Mapping) else {}
    # names that transformers gives to classes without one
    placeholders = [f"LABEL_{number}" for number in range(len(table))]
    names = [str(table.get(str(number), placeholder)) for number, placeholder in enumerate(placeholders)]
    return [] if any(map(operator.eq, names, placeholders)) else names


def swin_config(model: SegmentationModel, recipe: Recipe) -> dict[str, Any]:
    """The config of a Swin backbone.

    Raises:
        ValueError: The windows have several sizes.
    """
    attentions = [module for module in model.encoder.modules() if isinstance(module, ShiftedWindowAttention)]
    stages = [model.encoder.chain[f"layers_{stage}"].blocks for stage in range(4)]
    windows = {attention.window_size for attention in attentions}
    if len(windows) > 1:
        raise ValueError(f"transformers' Swin has one window size, {recipe.model.encoder.name!r} has {sorted(windows)}")
    return {
        "model_type": "swin",
        "embed_dim": model.encoder.channels[0],
        "depths": [len(blocks) for blocks in stages],
        "num_heads": [blocks[0].attn.num_heads for blocks in stages],
        "window_size": windows.pop(),
        "drop_path_rate": getattr(recipe.model.encoder, "drop_path", 0.0),
        "out_features": _STAGES,
        **_BACKBONE_DEFAULTS,
    }
