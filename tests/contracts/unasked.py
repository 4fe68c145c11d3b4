"""A mode that fails where a device is asked for a value: what would make a GPU wait at every picture."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "unique_dim", "_unique2"}
"""Operations whose result, or its shape, the processor must know before it can go on."""
COPIED = "lift_fresh"
"""What `torch.tensor` ends in: numbers of Python, which are copied to a device when all before is done."""


class Unasked(TorchDispatchMode):
    """Fail where a device would be asked."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{func} waits for the device"
        assert name != COPIED, "torch.tensor waits for the device; fill a new tensor there instead"
        by_truth = name in {"index", "index_put_", "index_put"} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        assert not by_truth, f"{func} by truth values waits for the device"
        return func(*args, **(kwargs or {}))
