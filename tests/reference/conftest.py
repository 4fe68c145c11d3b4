"""What fixtures of several files share."""

from __future__ import annotations

import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def backbone() -> dict[str, Tensor]:
    """Swin-L's tensors, which take longer to make than everything that is tested with them."""
    return {}
