"""Tables of measurements, and the remarks that belong beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from semask.benchmark.machine import SAME, crowding
from semask.benchmark.options import FEW_ROUNDS
from semask.benchmark.result import Result
from semask.evaluation.record import Record
from semask.recipes import get_recipe, list_recipes
from semask.text import Column, Table, pluralize, tabulate

CAPTIONED = 2
"""Remarks that a plot has room for."""
UNLIKE = 2.0
"""Ratio of parameters from which on two models are hardly comparable."""


class Accuracy(NamedTuple):
    """mIoU [%] of a recipe, measured here or printed in a paper."""

    miou: float
    measured: bool


def bench_table(results: Sequence[Result], accuracies: Mapping[str, Accuracy]) -> Table:
    """A row for every measurement, without columns that are empty in all rows."""

    def miou(result: Result) -> str:
        found = accuracies.get(result.title)
        return "" if found is None else f"{found.miou:.2f}{'' if found.measured else ' (published)'}"

    return tabulate(results, [*COLUMNS, Column("mIoU", miou), *ENVIRONMENT])


def accuracies_of(results: Sequence[Result], evaluations: Sequence[Record]) -> dict[str, Accuracy]:
    """The accuracy of our models by the title of their measurement: an evaluation's, else the published one."""
    here = {record.title: record.values["scores"]["miou"] for record in evaluations}
    found = {}
    for result in results:
        recipe = str(result.values["recipe"])
        # accuracies are of our models; other libraries' have random weights
        if result.values["library"] not in ("semask", "reference"):
            continue
        # a measured accuracy goes before the published one
        if here.get(recipe) is not None:
            found[result.title] = Accuracy(100 * here[recipe], measured=True)
        elif recipe in list_recipes() and (published := get_recipe(recipe).published.miou) is not None:
            found[result.title] = Accuracy(published, measured=False)
    return found


def notes(results: Sequence[Result]) -> list[str]:
    """Remarks on incomparable and on uncertain rows."""
    # a machine with too few cores
    values = [result.values for result in results]
    found = [*dict.fromkeys(filter(None, (crowding(each["environment"], each) for each in values)))]
    # other machines and versions, or other runs
    differing = [
        place.rpartition(".")[2] for place in SAME if len({str(_at(each["environment"], place)) for each in values}) > 1
    ]
    if differing:
        found.append(
            f"These rows differ in {', '.join(differing)}: their times come from different conditions and must not be "
            "compared. Measure all cases in one command."
        )
    elif len({result.path for result in results}) > 1:
        found.append(
            "These rows come from several runs, between which a machine's speed may change. Ratios hold within a run "
            "alone."
        )
    # other kinds of run, precisions and sizes
    for key, name in (("what", "kind of run"), ("dtype", "precision"), ("size", "size")):
        if len({str(each.get(key)) for each in values}) > 1:
            found.append(f"These rows are not all of one {name}.")
    # rivals of quite another size
    ours = {each["recipe"]: each["parameters"] for each in values if each["library"] == "semask"}
    for each in values:
        own, other = ours.get(each["recipe"]), each.get("parameters")
        if own and other and not 1 / UNLIKE <= other / own <= UNLIKE:
            found.append(f"{each['title']} has {other / own:.2g} times the parameters of {each['recipe']}.")
    if any(each.get("rounds", 0) < FEW_ROUNDS for each in values):
        found.append(f"With fewer than {FEW_ROUNDS} rounds, the 90th and 99th percentile are uncertain.")
    return found


def caption(results: Sequence[Result], remarks: Sequence[str]) -> str:
    """The conditions of the measurements in a line, and the first remarks; differing conditions by name."""
    # a condition that all share by its value, the others by their name
    several = ("kinds of run", "sizes", "batches", "precisions", "tests", "workers", "steps", "machines", "threads")
    parts = []
    for name, *values in zip((*several, "versions of torch"), *map(conditions_of, results), strict=True):
        parts.append(values[0] if len({*values}) == 1 else f"several {name}")
    return "\n".join([" · ".join(filter(None, parts)), *remarks[:CAPTIONED]])


def conditions_of(result: Result) -> tuple[str, ...]:
    """The chosen conditions of a measurement and its machine in words; "" for defaults."""
    values, around = result.values, result.values["environment"]
    return (
        str(values["what"]),
        _size(result),
        f"batch {values['batch']}",
        _precision(result),
        f"test {values['test']}" if values.get("test", "whole") not in (None, "whole") else "",
        pluralize(values["workers"], "worker") if values.get("workers") else "",
        "step" if "optimiser's step" in values.get("inside", ()) else "",
        # the GPU, or the CPU and its threads
        str(around.get("device" if around.get("cuda") else "cpu")),
        "" if around.get("cuda") else pluralize(around.get("threads", 0), "thread"),
        f"torch {_at(around, 'packages.torch')}",
    )


def _at(values: Any, place: str) -> Any:
    for key in place.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _size(result: Result) -> str:
    return "×".join(str(side) for side in result.values["size"])


def _precision(result: Result) -> str:
    flags = [name for name in ("compile", "channels_last", "reference") if result.values.get(name)]
    # the title already names the reference forms beside a fast case
    extras = [name.replace("_", " ") for name in flags if name != result.values["library"]]
    if stages := result.values.get("checkpoint_stages"):
        extras.append(f"checkpointed stages {' '.join(map(str, stages))}")
    return " + ".join([str(result.values["dtype"]), *extras])


def _number(place: str, factor: float, digits: int) -> Callable[[Result], str]:
    """A function that prints the number at a place of a result, such as seconds.median, times a factor."""

    def value(result: Result) -> str:
        found = _at(result.values, place)
        # costs of tiny models keep three digits
        return "" if found is None else f"{factor * found:.{3 if digits == 1 and factor * found < 1 else digits}f}"

    return value


COLUMNS: tuple[Column[Result], ...] = (
    Column("model", lambda result: result.title, "l"),
    Column("run", lambda result: str(result.values["what"]), "l"),
    Column("size", _size, "l"),
    Column("batch", lambda result: str(result.values["batch"])),
    Column("precision", _precision, "l"),
    Column("images/s", _number("images_per_second", 1, 2)),
    Column("median [ms]", _number("seconds.median", 1e3, 2)),
    Column("IQR", _number("seconds.iqr", 1e3, 2)),
    Column("p90", _number("seconds.p90", 1e3, 2)),
    Column("p99", _number("seconds.p99", 1e3, 2)),
    Column(
        "time ÷ first's",
        lambda result: "{median:.2f} ({min:.2f} … {max:.2f})".format(**result.values["time_to_first"]),
    ),
    Column("MiB", _number("memory.above", 2**-20, 0)),
    Column("in all", _number("memory.total", 2**-20, 0)),
    Column("parameters [M]", _number("parameters", 1e-6, 1)),
    Column("multiply-adds [G]", _number("multiply_adds", 1e-9, 1)),
    Column("of peak [%]", _number("share_of_peak", 100, 1)),
)
"""Columns before the accuracy."""
ENVIRONMENT: tuple[Column[Result], ...] = (
    Column("machine", lambda result: ", ".join(filter(None, conditions_of(result)[7:9])), "l"),
    Column("torch", lambda result: str(_at(result.values["environment"], "packages.torch")), "l"),
)
