"""Batches that other processes read; signals to the run do not disturb these processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader


class Loader(DataLoader[Any]):
    """A DataLoader whose processes leave Ctrl-C and SIGTERM, which may reach them too, to the run."""

    def __init__(self, samples: Any, **named: Any) -> None:
        super().__init__(samples, worker_init_fn=leave_signals_to_the_run, **named)

    def __iter__(self) -> Any:
        """Start the processes, or let them begin again."""
        with deferred_interrupt():
            return super().__iter__()


def leave_signals_to_the_run(worker: int) -> None:
    """Ignore Ctrl-C in a loading process, and SIGTERM but from the run: it needs its batches to end a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):

        def end_with_the_run() -> None:
            while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
                pass
            os._exit(0)

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=end_with_the_run, daemon=True).start()


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Handle Ctrl-C after the block: Python discards exceptions that handlers raise while it forks."""
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
