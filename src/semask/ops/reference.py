"""Whether the plain formulations run: what one would write down first, and what every fast path must equal.

`SEMASK_PLAIN=1` in the environment chooses them for a whole process, `plainly` for some lines of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_chosen = os.environ.get("SEMASK_PLAIN", "0") == "1"


def is_plain() -> bool:
    """Say whether the plain formulations are chosen."""
    return _chosen


@contextmanager
def plainly(choice: bool = True) -> Iterator[None]:
    """Choose the plain formulations, or with False the fast ones, inside the block; for all threads."""
    global _chosen  # noqa: PLW0603 - a switch for all code, which torch.compile can watch
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before
