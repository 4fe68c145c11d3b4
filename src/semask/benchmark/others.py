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
OWN_AND_ENDED = (11, 12, 13, 14)
"""Of the numbers of a process, from its state on: its time as user and system, and that of those it has waited for."""
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


def crowding(environment: Mapping[str, Any], entry: Mapping[str, Any]) -> str | None:
    """Say that other processes and what was measured, an entry of a record, did not have room beside each other.

    None where they had, and where it is not known.
    """
    others, threads, cores = (environment.get(name) for name in ("others", "threads", "cores"))
    if others is None or not threads or not cores or environment.get("cuda"):
        return None
    workers = entry.get("workers") or 0
    wanted = max(1, workers) if entry.get("what") == "load" else threads + workers
    if others + wanted <= cores + SPARE:
        return None
    fewer = ", or with --threads 1" if threads > 1 and entry.get("what") != "load" else ""
    return (
        f"Other processes had {others:.1f} of {cores} cores while {wanted} were wanted. Threads that wait for each "
        f"other lose most by that, so that not even ratios need hold: measure again when the machine is quiet{fewer}."
    )


def _busy() -> float | None:
    """Return the time that all processors have worked [s]."""
    try:
        numbers = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        return sum(int(numbers[place]) for place in BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _ours() -> float:
    """Return the time that this process, those that it began, and theirs have had [s]."""
    times = os.times()
    done = times.user + times.system + times.children_user + times.children_system
    return done + _time_of_living(os.getpid())


def _time_of_living(process: int) -> float:
    """Return the time [s] of the processes that a process began, and of those that these did, that have not ended."""
    began: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in STAT.parent.glob("[0-9]*/stat"):
        try:
            # Behind the name, which may hold anything, a parenthesis too.
            numbers = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            number, parent = int(path.parent.name), int(numbers[1])
            ticks[number] = sum(int(numbers[place]) for place in OWN_AND_ENDED)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        began.setdefault(parent, []).append(number)
    living = list(began.get(process, ()))
    for number in living:  # which grows
        living += began.get(number, ())
    return sum(ticks[number] for number in living) / os.sysconf("SC_CLK_TCK")
