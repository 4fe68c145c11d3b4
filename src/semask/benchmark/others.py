"""How busy a machine is with what is not measured: the time that other processes had meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)
"""Of the numbers of its first line: user, nice, system, irq, softirq, and what other machines on the same one took."""
SPARE = 0.3
"""Cores that may be missing before it is told: systems always do a little."""


class Others:
    """Other processes, from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), _busy(), _ours()

    def cores(self) -> float | None:
        """Return how many cores they kept busy since, on average; None where the system does not tell."""
        began, busy, ours = self._began
        now = _busy()
        if busy is None or now is None:
            return None
        return max(0.0, (now - busy) - (_ours() - ours)) / max(time.perf_counter() - began, 1e-9)


def crowding(environment: Mapping[str, Any]) -> str | None:
    """Say that other processes and the threads of a measurement did not have room beside each other; else None."""
    others, threads, cores = (environment.get(name) for name in ("others", "threads", "cores"))
    if others is None or not threads or not cores or environment.get("cuda") or others + threads <= cores + SPARE:
        return None
    return (
        f"Other processes had {others:.1f} of {cores} cores while {threads} threads were measured. Threads that wait "
        "for each other lose most by that, so that not even ratios need hold: measure again when the machine is quiet, "
        "or with --threads 1."
    )


def _busy() -> float | None:
    """Return the time that all processors have worked [s]."""
    try:
        numbers = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        return sum(int(numbers[place]) for place in BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _ours() -> float:
    """Return the time that this process and those it has waited for have had [s]."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
