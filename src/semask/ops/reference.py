"""The one switch between the fast paths of this folder and the reference form beside each of them.

A reference form is what one would write first, and what its fast path must equal. `SEMASK_REFERENCE=1` in the
environment selects the reference forms for a whole process, `reference_mode` for some lines of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_chosen = os.environ.get("SEMASK_REFERENCE", "0") == "1"


def is_reference() -> bool:
    """Return whether the reference forms are selected."""
    return _chosen


def runs_eagerly() -> bool:
    """Return whether fast paths run that were written for eager execution.

    A compiler optimises the reference form as well, and an exported graph should be free of tables for one size.
    """
    return not (_chosen or torch.compiler.is_compiling())


def runs_on_cpu(x: Tensor) -> bool:
    """Return whether fast paths for the CPU run on a tensor: eagerly, and on real numbers of which there are some."""
    return runs_eagerly() and x.device.type == "cpu" and type(x) is Tensor and x.numel() > 0


@contextmanager
def reference_mode(choice: bool = True) -> Iterator[None]:
    """Select the reference forms, or with False the fast paths, inside the block; for all threads."""
    global _chosen  # noqa: PLW0603 - one switch for all code, which torch.compile can guard on
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before
