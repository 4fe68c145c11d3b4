"""A prediction run on the machines of a Ray cluster: the same engine in actors, one manifest here."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from semask.inference.engine import Engine
from semask.inference.manifest import Line
from semask.inference.runner import Work
from semask.inference.sources import Item
from semask.ops.device import pick_device
from semask.text import Progress

BATCH = 8
"""Items that an actor takes at once, and reads ahead."""
PATIENCE = 10
"""How long a cluster may take to answer [s]."""


class ClusterWork(Work):
    """Work that Ray Data hands to copies of the engine; all machines see the same images and results.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, Progress("segmenting", 0, quiet=True))
        # nothing is reported to Ray's makers unless the user wants it
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ValueError("--engine ray needs Ray; pip install 'semask[ray]'") from error
        address = engine.options.address
        try:
            # the cluster of the caller stays
            if not ray.is_initialized():
                # Ray itself would wait for minutes
                host, _, port = (address or "").rpartition("://")[2].rpartition(":")
                if port.isdecimal():
                    socket.create_connection((host, int(port)), timeout=PATIENCE).close()
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"no Ray cluster at --address {address!r} ({error})") from error
        ray.data.DataContext.get_current().enable_progress_bars = False

    def lines(self, items: Iterable[Item]) -> Iterator[Line]:
        """Segment the items on the cluster and yield their lines as they are finished."""
        import ray
        import ray.data

        todo = [{"item": pickle.dumps(item)} for item in items]
        if not todo:
            return
        engine = self.engine
        parts = {name: getattr(engine, name) for name in ("options", "data", "test", "weights")}
        lines = ray.data.from_items(todo, override_num_blocks=-(-len(todo) // BATCH)).map_batches(
            Actor,
            fn_constructor_args=(ray.put(engine.model.cpu()), engine.classes, parts),
            batch_size=BATCH,
            concurrency=engine.options.actors,
            num_cpus=1,
            num_gpus=1 if engine.device.type == "cuda" else None,
        )
        try:
            for row in lines.iter_rows():
                yield pickle.loads(row["line"])
        except ray.exceptions.RayError as error:
            raise OSError(f"the Ray cluster gave up: {getattr(error, 'cause', None) or error}") from error


class Actor:
    """The engine in a process of the cluster: pickled items to pickled lines."""

    def __init__(self, model: Any, classes: Any, parts: dict[str, Any]) -> None:
        import ray

        # Ray counts cores; torch would take all of them
        torch.set_num_threads(1)
        device = pick_device(parts["options"].device)
        self.engine = Engine(ray.get(model).to(device).eval(), classes, **parts)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Segment a batch of items."""
        items = [pickle.loads(each) for each in batch["item"]]
        with Progress("segmenting", len(items), quiet=True) as progress:
            return {"line": [pickle.dumps(line) for line in Work(self.engine, progress).lines(items)]}
