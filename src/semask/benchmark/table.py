"""Tables of measurements, and the remarks that belong beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from semask.benchmark.machine import SAME, crowding
from semask.benchmark.options import FEW_ROUNDS
from semask.benchmark.result import Result
from semask.evaluation.record import Record
from semask.recipes import get_recipe, list_recipes
from semask.text import Column, Table, pluralize, tabulate

CAPTIONED = 2
"""Remarks that a plot has room for."""
UNLIKE = {"parameters": 2.0, "multiply_adds": 1.3}
"""Ratios from which on two models are hardly comparable."""
CONDITIONS = (
    *("kinds of run", "sizes", "batches", "precisions", "tests", "workers", "steps", "machines", "threads"),
    "versions of torch",
)
"""Names of what `conditions_of` returns."""


class Accuracy(NamedTuple):
    """mIoU [%] of a recipe, measured here or printed in a paper."""

    miou: float
    measured: bool


def bench_table(results: Sequence[Result], accuracies: Mapping[str, Accuracy]) -> Table:
    """A row for every measurement, without columns that are empty in all rows."""

    def number(title: str, place: str, factor: float, digits: int) -> Column[Result]:
        def text(result: Result) -> str:
            if (found := result.at(place)) is None:
                return ""
            # costs of tiny models keep three digits
            return f"{factor * found:.{3 if digits == 1 and factor * found < 1 else digits}f}"

        return Column(title, text)

    def miou(result: Result) -> str:
        found = accuracies.get(result.title)
        return "" if found is None else f"{found.miou:.2f}{'' if found.measured else ' (published)'}"

    columns = (
        Column[Result]("model", lambda result: result.title, "l"),
        Column[Result]("run", lambda result: conditions_of(result)[0], "l"),
        Column[Result]("size", lambda result: conditions_of(result)[1], "l"),
        Column[Result]("batch", lambda result: str(result.at("batch"))),
        Column[Result]("precision", lambda result: conditions_of(result)[3], "l"),
        number("images/s", "images_per_second", 1, 2),
        number("median [ms]", "seconds.median", 1e3, 2),
        number("IQR", "seconds.iqr", 1e3, 2),
        number("p90", "seconds.p90", 1e3, 2),
        number("p99", "seconds.p99", 1e3, 2),
        Column[Result](
            "time ÷ first's", lambda each: "{median:.2f} ({min:.2f} … {max:.2f})".format(**each.at("time_to_first"))
        ),
        number("MiB", "memory.above", 2**-20, 0),
        number("in all", "memory.total", 2**-20, 0),
        number("parameters [M]", "parameters", 1e-6, 1),
        number("multiply-adds [G]", "multiply_adds", 1e-9, 1),
        number("of peak [%]", "share_of_peak", 100, 1),
        Column[Result]("mIoU", miou),
        Column[Result]("machine", lambda result: ", ".join(filter(None, conditions_of(result)[7:9])), "l"),
        Column[Result]("torch", lambda result: str(result.at("environment.packages.torch")), "l"),
    )
    return tabulate(results, columns)


def accuracies_of(results: Sequence[Result], evaluations: Sequence[Record]) -> dict[str, Accuracy]:
    """The accuracy of our models by the title of their measurement: an evaluation's, else the published one."""
    here = {record.title: record.values["scores"]["miou"] for record in evaluations}
    found = {}
    for result in results:
        recipe = str(result.at("recipe"))
        # other libraries' models have random weights
        if result.at("library") not in ("semask", "reference"):
            continue
        if here.get(recipe) is not None:
            found[result.title] = Accuracy(100 * here[recipe], measured=True)
        elif recipe in list_recipes() and (published := get_recipe(recipe).published.miou) is not None:
            found[result.title] = Accuracy(published, measured=False)
    return found


def notes(results: Sequence[Result]) -> list[str]:
    """Remarks on incomparable and on uncertain rows."""
    # a machine with too few cores
    found = [*dict.fromkeys(filter(None, (crowding(each.at("environment"), each.values) for each in results)))]

    def differ(place: str) -> bool:
        return len({str(each.at(place)) for each in results}) > 1

    # other machines and versions, or other runs
    if differing := [place.rpartition(".")[2] for place in SAME if differ(f"environment.{place}")]:
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
    names = {"what": "kind of run", "dtype": "precision", "size": "size"}
    found += [f"These rows are not all of one {name}." for place, name in names.items() if differ(place)]
    # rivals of quite another size
    for place, most in UNLIKE.items():
        ours = {each.at("recipe"): each.at(place) for each in results if each.at("library") == "semask"}
        for each in results:
            own, other = ours.get(each.at("recipe")), each.at(place)
            if own and other and not 1 / most <= other / own <= most:
                what = place.replace("_", "-")
                found.append(f"{each.title} has {other / own:.2g} times the {what} of {each.at('recipe')}.")
    if any(each.at("rounds") < FEW_ROUNDS for each in results):
        found.append(f"With fewer than {FEW_ROUNDS} rounds, the 90th and 99th percentile are uncertain.")
    return found


def caption(results: Sequence[Result], remarks: Sequence[str]) -> str:
    """The conditions of the measurements in a line, and the first remarks; differing conditions by name."""
    columns = zip(CONDITIONS, *map(conditions_of, results), strict=True)
    parts = [values[0] if len({*values}) == 1 else f"several {name}" for name, *values in columns]
    return "\n".join([" · ".join(filter(None, parts)), *remarks[:CAPTIONED]])


def conditions_of(result: Result) -> tuple[str, ...]:
    """The chosen conditions of a measurement and its machine in words; "" for defaults."""
    around, test, stages = result.at("environment"), result.at("test"), result.at("checkpoint_stages")
    # the title already names the reference forms beside a fast case
    flags = [
        name for name in ("compile", "channels_last", "reference") if result.at(name) and name != result.at("library")
    ]
    precision = [str(result.at("dtype")), *(name.replace("_", " ") for name in flags)]
    if stages:
        precision.append(f"checkpointed stages {' '.join(map(str, stages))}")
    return (
        str(result.at("what")),
        "×".join(map(str, result.at("size"))),
        f"batch {result.at('batch')}",
        " + ".join(precision),
        f"test {test}" if test not in (None, "whole") else "",
        pluralize(result.at("workers"), "worker") if result.at("workers") else "",
        "step" if "optimiser's step" in (result.at("inside") or ()) else "",
        # the GPU, or the CPU and its threads
        str(around.get("device" if around.get("cuda") else "cpu")),
        "" if around.get("cuda") else pluralize(around.get("threads", 0), "thread"),
        f"torch {result.at('environment.packages.torch')}",
    )
