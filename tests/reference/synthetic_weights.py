"""Stand-in weights for a published layout: values that depend on nothing but the tensor's name and shape.

The fixtures beside this file hold what the authors' code computes with them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"


def synthetic_tensor(key: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    if not dtype.startswith("float"):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        values = 1.0 + 0.1 * np.abs(noise)
    elif leaf == "running_mean":
        values = 0.1 * noise
    elif len(shape) <= 1:
        values = 0.05 * noise if leaf.endswith("bias") else 1.0 + 0.1 * noise
    elif shape[0] == 1 and len(shape) == 3:
        values = 0.3 * noise
    else:
        values = noise / sqrt(prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(shape)


def synthetic_image(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    """A normalised image batch."""
    noise = np.random.RandomState(seed).standard_normal((batch, 3, height, width))
    return torch.from_numpy(noise.astype(np.float32))


def layout(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((FIXTURES / f"{name}.layout.json.gz").read_bytes()))


def checkpoint(name: str, made: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a fixture's layout; groups that are shared hold one value, and some fixtures are rescaled.

    `made` keeps the tensors of the backbone, which several large fixtures share, from one call to the next.
    """
    spec = layout(name)
    source = {key: group[-1] for group in spec.get("shared_tensors", ()) for key in group}
    tensors = dict(made or {})
    for key, v in tensors_named(name).items():
        if key not in tensors:
            tensors[key] = synthetic_tensor(source.get(key, key), tuple(v["shape"]), v["dtype"])
    if made is not None:
        made |= {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    for word, *form, factor in spec.get("post_scale") or ():
        scaled = [key for key, value in tensors.items() if word in key and _is_scaled(key, value, *form)]
        tensors |= {key: tensors[key] * factor for key in scaled}
    return tensors


def _is_scaled(key: str, value: Tensor, ending: str | None = None, ndim: int | None = None) -> bool:
    """Rules without a form are for predictors of masks alone."""
    if ending is None:
        return key.startswith("sem_seg_head.predictor.")
    return key.endswith(ending) and value.ndim == ndim


def hollow_checkpoint(name: str) -> dict[str, Tensor]:
    """Names and shapes alone, on the meta device: for files that will be refused."""
    return {
        key: torch.empty(v["shape"], dtype=getattr(torch, v["dtype"]), device="meta")
        for key, v in tensors_named(name).items()
    }


def tensors_named(name: str) -> dict[str, dict[str, Any]]:
    spec = layout(name)
    return spec.get("layout", spec)


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz") as stored:
        return {key.replace("__", "/"): stored[key] for key in stored.files}


def assert_close(stored: dict[str, np.ndarray], name: str, tensor: Tensor, tolerance: float) -> None:
    """Compare a tensor with everything that a fixture keeps of it: shape, statistics, samples, grid, pixels."""
    value = tensor.detach().numpy()
    kept = {key.removeprefix(f"{name}/"): array for key, array in stored.items() if key.startswith(f"{name}/")}
    if name in stored:
        kept["full"] = stored[name]
    assert kept, f"the fixture keeps nothing of {name}"
    if "shape" in kept:
        assert value.shape == tuple(kept["shape"])
        statistics = [value.mean(dtype=np.float64), value.std(dtype=np.float64), np.abs(value).max()]
        np.testing.assert_allclose(statistics, kept["stats"], rtol=0, atol=tolerance, err_msg=f"{name}: statistics")
    pairs = []
    if "full" in kept:
        pairs.append(("all", value, kept["full"]))
    if "idx" in kept:
        pairs.append(("samples", value.ravel()[kept["idx"]], kept["val"]))
    if "grid" in kept:
        step = int(kept.get("grid_step", 1))
        pairs.append(("grid", value[..., ::step, ::step], kept["grid"]))
    if "pix" in kept:
        pairs.append(("pixels", value[0, :, kept["pix_y"], kept["pix_x"]], kept["pix"]))
    assert pairs, f"the fixture keeps no values of {name}"
    for what, ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=f"{name}: {what}")
