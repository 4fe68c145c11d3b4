"""The curves of a run: where loggers write them, and reading them back."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

FOLDER = "logs"


def open_loggers(out: Path, kind: str) -> list[Logger]:
    """Return the loggers that `kind` names, csv or tensorboard or both with +.

    A resumed run writes into a folder of its own, so that nothing is lost: logs/session_0, session_1 …
    """
    session = f"session_{len(list((out / FOLDER).glob('session_*')))}"
    makers = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
    return [makers[name](out, name=FOLDER, version=session) for name in kind.split("+")]


def read_history(out: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Return every logged quantity of a run as (step, value) pairs in order of steps.

    Steps that were done again after a resume count as done last.
    """
    found: dict[str, dict[int, float]] = {}
    # a session that logged nothing has no file
    files = (Path(out) / FOLDER).glob("session_*/metrics.csv")
    for file_name in sorted(files, key=lambda path: int(path.parent.name.rpartition("_")[2])):
        with file_name.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in {"step", "epoch"}:
                        found.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}
