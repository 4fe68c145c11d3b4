"""Tables of several measurements, and what must be said beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from semask.benchmark.environment import SAME
from semask.benchmark.options import FEW_ROUNDS
from semask.benchmark.others import crowding
from semask.benchmark.record import BenchRecord
from semask.evaluation.record import Record
from semask.evaluation.report import Column, Rows, tabulate
from semask.recipes import get, names
from semask.text import counted

CAPTIONED = 2
"""Remarks that a plot has room for."""


class Accuracy(NamedTuple):
    """mIoU [%] of a recipe, and whether it was measured here or is what a paper printed."""

    miou: float
    measured: bool


def bench_table(
    records: Sequence[BenchRecord], evaluations: Sequence[Record] = ()
) -> tuple[list[Column[BenchRecord]], Rows]:
    """Return a row for every measurement; mIoU is that of an evaluation of the same recipe, else the published one."""
    accuracies = accuracies_of(records, evaluations)

    def miou(record: BenchRecord) -> str:
        found = accuracies.get(record.title)
        return "" if found is None else f"{found.miou:.2f}{'' if found.measured else ' (published)'}"

    return tabulate(records, [*COLUMNS, Column("mIoU", miou), *ENVIRONMENT])


def accuracies_of(records: Sequence[BenchRecord], evaluations: Sequence[Record]) -> dict[str, Accuracy]:
    """Return what is known of the accuracy of each of our models, by the title of its measurement; peers have none."""
    here = {record.title: record.values["scores"]["miou"] for record in evaluations}
    found = {}
    for record in records:
        recipe = str(record.values["recipe"])
        if record.values["library"] not in ("semask", "plain"):
            continue
        if here.get(recipe) is not None:
            found[record.title] = Accuracy(100 * here[recipe], measured=True)
        elif recipe in names() and (published := get(recipe).published.miou) is not None:
            found[record.title] = Accuracy(published, measured=False)
    return found


def notes(records: Sequence[BenchRecord]) -> list[str]:
    """Return what a reader must know: rows that cannot be compared, and such of too few rounds."""
    found = list(
        dict.fromkeys(filter(None, (crowding(record.values["environment"], record.values) for record in records)))
    )
    differing = [
        place.rpartition(".")[2]
        for place in SAME
        if len({str(_at(record.values["environment"], place)) for record in records}) > 1
    ]
    if differing:
        found.append(
            f"These rows differ in {', '.join(differing)}: their times were not measured under the same conditions and "
            "must not be compared. Measure all sides in one command."
        )
    elif len({record.path for record in records}) > 1:
        found.append(
            "These rows come from several runs, between which a machine's speed may change. Ratios hold within a run "
            "alone."
        )
    for key, name in (("what", "kind of run"), ("dtype", "precision"), ("size", "size")):
        if len({str(record.values.get(key)) for record in records}) > 1:
            found.append(f"These rows are not all of one {name}.")
    if any(record.values.get("rounds", 0) < FEW_ROUNDS for record in records):
        found.append(f"Fewer than {FEW_ROUNDS} rounds tell little of the 90th and 99th percentile.")
    return found


def circumstances(records: Sequence[BenchRecord], remarks: Sequence[str]) -> str:
    """Return a line on what was measured where, for a plot; of what differs between the records, that it does."""
    parts: tuple[tuple[str, str, Callable[[BenchRecord], str]], ...] = (
        ("", "several kinds of run", lambda record: str(record.values["what"])),
        ("size ", "several sizes", _size),
        ("batch ", "several batches", lambda record: str(record.values["batch"])),
        ("", "several precisions", lambda record: str(record.values["dtype"])),
        ("on ", "several machines", lambda record: _machine(record.values["environment"])),
        ("", "several numbers of threads", lambda record: _threads(record.values["environment"])),
        (
            "torch ",
            "several versions of torch",
            lambda record: str(_at(record.values["environment"], "packages.torch")),
        ),
    )
    told = []
    for name, many, value in parts:
        found = {value(record) for record in records}
        told.append(name + found.pop() if len(found) == 1 else many)
    line = " · ".join(filter(None, told))
    return "\n".join([line, *remarks[:CAPTIONED]])


def conditions_of(record: BenchRecord) -> tuple[str, ...]:
    """Return in words what is chosen for a measurement beside the model, and where it was made; "" for nothing."""
    values, around = record.values, record.values["environment"]
    return (
        str(values["what"]),
        _size(record),
        f"batch {values.get('batch', '')}",
        _precision(record),
        f"test {values['test']}" if values.get("test", "whole") not in (None, "whole") else "",
        counted(values["workers"], "worker") if values.get("workers") else "",
        "step" if "optimiser's step" in values.get("inside", ()) else "",
        _machine(around),
        _threads(around),
        f"torch {_at(around, 'packages.torch')}",
    )


def _at(values: Any, place: str) -> Any:
    for key in place.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _size(record: BenchRecord) -> str:
    return "×".join(str(side) for side in record.values.get("size", ()))


def _precision(record: BenchRecord) -> str:
    extras = [name.replace("_", " ") for name in ("compile", "channels_last", "plain") if record.values.get(name)]
    if again := record.values.get("recompute_stages"):
        extras.append(f"stages {' '.join(map(str, again))} again")
    return " + ".join([str(record.values.get("dtype", "")), *extras])


def _milliseconds(name: str) -> Callable[[BenchRecord], str]:
    return lambda record: _scaled(record.values.get("seconds", {}).get(name), 1e3, 2)


def _ratio(record: BenchRecord) -> str:
    found = record.values.get("time_to_first")
    return "" if not found else f"{found['median']:.2f} ({found['least']:.2f} … {found['greatest']:.2f})"


def _memory(name: str) -> Callable[[BenchRecord], str]:
    return lambda record: _scaled(record.values.get("memory", {}).get(name), 2**-20, 0)


def _scaled(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def _machine(environment: Mapping[str, Any]) -> str:
    """Return the GPU's name, or the processor's."""
    return str(environment.get("device" if environment.get("cuda") else "processor"))


def _threads(environment: Mapping[str, Any]) -> str:
    """Return how many threads of a processor were used; of a GPU's nothing need be said."""
    return "" if environment.get("cuda") else counted(environment.get("threads", 0), "thread")


def _place(record: BenchRecord) -> str:
    around = record.values["environment"]
    return ", ".join(filter(None, (_machine(around), _threads(around))))


COLUMNS: tuple[Column[BenchRecord], ...] = (
    Column("model", lambda record: record.title, number=False),
    Column("run", lambda record: str(record.values["what"]), number=False),
    Column("size", _size, number=False),
    Column("batch", lambda record: str(record.values.get("batch", ""))),
    Column("precision", _precision, number=False),
    Column("images/s", lambda record: _scaled(record.values["images_per_second"], 1, 2)),
    Column("median [ms]", _milliseconds("median")),
    Column("p90", _milliseconds("p90")),
    Column("p99", _milliseconds("p99")),
    Column("time ÷ first's", _ratio),
    Column("memory [MiB]", _memory("above")),
    Column("in all", _memory("total")),
    Column("parameters [M]", lambda record: _scaled(record.values.get("parameters"), 1e-6, 1)),
    Column("multiply-adds [G]", lambda record: _scaled(record.values.get("multiply_adds"), 1e-9, 1)),
    Column("of peak [%]", lambda record: _scaled(record.values.get("share_of_peak"), 100, 1)),
)
"""What a table holds of each measurement, before its accuracy."""
ENVIRONMENT: tuple[Column[BenchRecord], ...] = (
    Column("machine", _place, number=False),
    Column("torch", lambda record: str(_at(record.values["environment"], "packages.torch")), number=False),
)
