"""A checkpoint of ours as a folder of the library `transformers`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from semask.checkpoints.record import WEIGHTS
from semask.checkpoints.transformers.config import CONFIG, PROCESSOR, model_config, processor_config
from semask.checkpoints.transformers.keys import untranslate
from semask.data.classes import Classes
from semask.files import atomic_write, write_json
from semask.models.model import SegmentationModel
from semask.recipes import Recipe


def write_transformers(
    directory: str | Path, model: SegmentationModel, recipe: Recipe, classes: Classes | None = None
) -> Path:
    """Write a folder that `from_pretrained` reads and return it; files appear whole or not at all.

    The model is a Mask2FormerForUniversalSegmentation or a MaskFormerForInstanceSegmentation.

    Raises:
        ValueError: `transformers` has no model that computes the same.
    """
    directory = Path(directory)
    config, processor = model_config(recipe, classes), processor_config(recipe, classes)
    ours = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    # cloned, since parts of one tensor share their memory, which the format does not allow
    tensors = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in untranslate(ours, recipe).items()
    }
    with atomic_write(directory / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_json(directory / PROCESSOR, processor)
    write_json(directory / CONFIG, config)
    return directory
