"""Shares of counts, undefined where there is nothing to share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Num


def ratio(part: Num[np.ndarray, " ..."], whole: Num[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """Return part / whole, nan where whole is 0."""
    share: np.ndarray = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) != 0)
    return share
