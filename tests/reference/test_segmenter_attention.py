"""Attention, its distances and the class embeddings' singular values against the authors' code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from semask.checkpoints.convert import load_published
from semask.models.model import SegmentationModel
from semask.visualization.explain import Query, attention_distances, attention_rows, class_embeddings, project_classes
from tests.reference.synthetic_weights import FIXTURES, arrays, checkpoint, synthetic_image

NAME = "segmenter/seg_t_mask_16_attn"
META = json.loads((FIXTURES / f"{NAME}.meta.json").read_text())
STORED = arrays(NAME)
GRID = tuple(META["grid"])
PATCHES = GRID[0] * GRID[1]
Case = tuple[SegmentationModel, torch.Tensor]


@pytest.fixture(scope="module")
def case() -> Case:
    model = load_published(checkpoint(NAME), "ade20k/seg-t-mask-16")
    normalised = synthetic_image(**{key: value for key, value in META["input"].items() if key != "fn"})
    return model, normalised * model.std + model.mean


def query_of(row: int, before: int) -> Query:
    """Name a row of the authors' matrix as we do."""
    patch = row - before
    if 0 <= patch < PATCHES:
        return (patch // GRID[1], patch % GRID[1])
    return row if row < before else patch - PATCHES


@pytest.mark.parametrize(
    ("part", "layer", "key"),
    [("encoder", 0, "enc0"), ("encoder", 5, "enc5"), ("encoder", 11, "enc11"), ("decoder", 0, "dec0"), ("decoder", 1, "dec1")],
)  # fmt: skip
def test_rows(case: Case, part, layer: int, key: str) -> None:
    model, image = case
    before = META["extra_tokens"] if part == "encoder" else 0
    queries = [query_of(int(row), before) for row in STORED[f"rows_{key[:3]}"]]
    found = attention_rows(model, image, queries, part=part, layer=layer)
    assert found.order.grid == GRID
    np.testing.assert_allclose(found.rows[0].numpy(), STORED[f"{key}_rows"], rtol=0, atol=1e-6)


def test_distances(case: Case) -> None:
    model, image = case
    found = attention_distances(model, [image])
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), STORED["attention_distance_px"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("centred", [False, True])
def test_singular_values(case: Case, centred: bool) -> None:
    stored = STORED[f"cls_emb_singular_values_{'centred' if centred else 'uncentred'}"]
    found = project_classes(class_embeddings(case[0]), centred=centred)
    np.testing.assert_allclose(found.singular_values[: len(stored)].numpy(), stored, rtol=1e-12)
