"""`semask ablate TABLE`: train all rows of an ablation table alike and compare them, seed by seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from semask.cli.flags import parse as parse_flags
from semask.cli.train import Settings as TrainSettings
from semask.cli.train import sections
from semask.recipes import Recipe, get
from semask.recipes.ablations import STUDIES, Table, check_seeds, make_table, study
from semask.training.options import RunOptions

if TYPE_CHECKING:
    from semask.evaluation.paired_test import Difference, Spread

NAME = "semask ablate TABLE"
FOLDER_DATA = "folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings):
    """The flags: those of `semask train`, applied to the recipe that all rows start from, and the table's own."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Every row is trained once with each; differences are taken between runs of one seed."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the rows and what they cost, and train nothing."""


class Result(NamedTuple):
    """One row of a finished table; scores in [0, 1] in the order of the seeds, difference to the reference row."""

    label: str
    parameters: int
    published: float | None
    scores: tuple[float, ...]
    spread: Spread
    difference: Difference | None


def main(arguments: Sequence[str]) -> None:
    """Parse `TABLE [--data DATA] [flags]` and train; a ValueError names tables and data."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(usage())
        return
    name, settings, base = parse(arguments)
    table = make_table(name, base)
    if settings.dry_run:
        show_rows(table, settings)
        return
    ablate(name, table, settings.seeds, settings.run)


def ablate(name: str, table: Table, seeds: Sequence[int], options: RunOptions) -> list[Result]:
    """Train the rows, write table.md and table.json beside the runs, and return the rows' results."""
    from rich.console import Console

    from semask.evaluation.paired_test import paired_difference, spread
    from semask.files import check_writable, whole_file
    from semask.training.ablation import check_rows, run_table

    out = options.out or Path("runs") / f"ablate-{name}-{table.rows[0].recipe.name.replace('/', '-')}"
    check_writable(out)
    console = Console(soft_wrap=True, highlight=False)
    counts = check_rows(table)
    scores = run_table(table, seeds, options, out=out, tell=lambda text: console.print(text, style="bold"))
    results = [
        Result(
            row.label,
            count,
            row.published,
            tuple(found),
            spread(found),
            None if number == table.reference else paired_difference(found, scores[table.reference]),
        )
        for number, (row, count, found) in enumerate(zip(table.rows, counts, scores, strict=True))
    ]
    text = markdown(table, results, seeds)
    with whole_file(out / "table.md") as part:
        part.write_text(text, encoding="utf-8")
    with whole_file(out / "table.json") as part:
        part.write_text(json.dumps(_record(name, table, results, seeds), indent=2, ensure_ascii=False) + "\n", "utf-8")
    console.print(text, markup=False)
    console.print(f"table in {out / 'table.md'} and {out / 'table.json'}")
    return results


def markdown(table: Table, results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Return the results as a Markdown table with a line on what they stand for."""
    recipe = table.rows[table.reference].recipe
    lines = [
        f"### {table.title}",
        "",
        "| | parameters, M | mIoU, % | difference to row "
        f"{table.reference + 1}, points | 95 % interval | paper (ADE20K), % | by seed, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(results, start=1):
        mean = f"{100 * row.spread.mean:.2f}" + (f" ± {100 * row.spread.deviation:.2f}" if len(seeds) > 1 else "")
        gap, interval = ("", "") if row.difference is None else _differs(row.difference)
        published = "" if row.published is None else f"{row.published:.2f}"
        each = " · ".join(f"{100 * score:.2f}" for score in row.scores)
        cells = (f"{number}. {row.label}", f"{row.parameters / 1e6:.2f}", mean, gap, interval, published, each)
        lines.append(f"| {' | '.join(cells)} |")
    told = ", ".join(str(seed) for seed in seeds)
    lines += [
        "",
        f"{recipe.name}: {recipe.train.steps} steps of {recipe.train.batch_size} pictures, crops of "
        f"{recipe.data.crop[0]}×{recipe.data.crop[1]}, seeds {told}, the last weights of every run. Mean ± standard "
        "deviation over seeds; differences are paired by seed, with Student's interval over the pairs. An interval "
        "that holds 0 decides nothing.",
        "",
    ]
    return "\n".join(lines)


def show_rows(table: Table, settings: Settings) -> None:
    """Print what would be trained."""
    from rich.console import Console
    from rich.table import Table as Grid

    from semask.build import build_weightless
    from semask.models.flops import multiply_adds, parameters

    grid = Grid("row", "params, M", "mult-adds, G", "paper, %", title=table.title)
    for number, row in enumerate(table.rows, start=1):
        model = build_weightless(row.recipe)
        cost = multiply_adds(model, *row.recipe.data.crop)
        published = "" if row.published is None else f"{row.published:.2f}"
        grid.add_row(f"{number}. {row.label}", f"{parameters(model) / 1e6:.2f}", f"{cost / 1e9:.2f}", published)
    console = Console(soft_wrap=True, highlight=False)
    console.print(grid)
    train = table.rows[0].recipe.train
    runs = len(table.rows) * len(settings.seeds)
    console.print(f"{runs} runs of {train.steps} steps of {train.batch_size} pictures from {table.rows[0].recipe.name}")


def parse(arguments: Sequence[str]) -> tuple[str, Settings, Recipe]:
    """Return the table's name, the settings, and the recipe that all rows start from."""
    name, *flags = arguments
    if name.startswith("-"):
        raise ValueError(f"the table comes first: {NAME} [flags]; got {name!r}. There are: {', '.join(STUDIES)}.")
    data, flags = take_data(flags)
    recipe = find_base(name, data)
    settings = parse_flags(
        Settings,
        flags,
        prog=f"semask ablate {name}",
        description=f"Train all rows of {name} alike, from {recipe.name}: every field of that recipe is a flag.",
        default=Settings(run=RunOptions(), **sections(recipe)),
    )
    check_seeds(settings.seeds)
    if settings.train.seed != recipe.train.seed:
        raise ValueError("a table trains every row with several seeds; say --seeds 0 1 2, not --train.seed")
    if settings.run.resume is not None:
        raise ValueError("tables go on by themselves where they were cut short; leave --resume out")
    if settings.train.eval_every != recipe.train.eval_every:
        raise ValueError("the runs of a table are evaluated once, at their end; leave --train.eval-every out")
    if settings.run.from_scratch:  # said in the recipe, so that runs with and without weights are never mixed
        scratch = dataclasses.replace(settings.model.encoder, weights=None)
        settings = dataclasses.replace(
            settings,
            model=dataclasses.replace(settings.model, encoder=scratch),
            run=dataclasses.replace(settings.run, from_scratch=False),
        )
    return name, settings, dataclasses.replace(recipe, **sections(settings))


def take_data(flags: Sequence[str]) -> tuple[str, list[str]]:
    """Return what follows --data, "scenes" without it, and the other flags."""
    data, rest, waiting = "scenes", [], False
    for flag in flags:
        if waiting:
            data, waiting = flag, False
        elif flag == "--data":
            waiting = True
        elif flag.startswith("--data="):
            data = flag.removeprefix("--data=")
        else:
            rest.append(flag)
    if waiting:
        raise ValueError("--data needs a value: a dataset such as scenes or ade20k, a recipe, or a folder of your own")
    return data, rest


def find_base(name: str, data: str) -> Recipe:
    """Return the recipe that a table starts from: a recipe by name, a dataset's own, or that for a user's folder."""
    bases = study(name).bases
    if data in bases:
        return get(bases[data])
    if Path(data).is_dir() and FOLDER_DATA in bases:
        recipe = get(bases[FOLDER_DATA])
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=data))
    if "/" in data:
        return get(data)
    raise ValueError(
        f"no data called {data!r} for {name}; there are: {', '.join(bases)}; or give a recipe's "
        "name, or the path of a folder of your own, which must exist"
    )


def usage() -> str:
    """Return the overview of all tables."""
    lines = [f"  {name:<16}{(chosen.make.__doc__ or '').splitlines()[0]}" for name, chosen in STUDIES.items()]
    return "\n".join(
        [
            f"usage: {NAME} [--data DATA] [--seeds 0 1 2] [flags of `semask train`]",
            "",
            "Train all rows of an ablation table with the same seeds and budget and compare them, seed by seed.",
            "DATA is a dataset (scenes without it), a folder of your own, or a recipe to start from.",
            "",
            *lines,
            "",
            f"`{NAME} --dry-run` lists the rows and their cost; `{NAME} --help` all flags.",
        ]
    )


def _differs(difference: Difference) -> tuple[str, str]:
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.2f}", f"{low:+.2f} … {high:+.2f}" if low == low else "one seed"  # noqa: PLR0124 — NaN


def _record(name: str, table: Table, results: Sequence[Result], seeds: Sequence[int]) -> dict[str, object]:
    recipe = table.rows[table.reference].recipe
    return {
        "table": name,
        "title": table.title,
        "recipe": recipe.name,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "seeds": list(seeds),
        "reference": results[table.reference].label,
        "rows": [
            {
                "label": row.label,
                "parameters": row.parameters,
                "miou": list(row.scores),
                "mean": row.spread.mean,
                "deviation": None if len(seeds) == 1 else row.spread.deviation,
                "difference": None if row.difference is None else row.difference.mean,
                "interval": None if row.difference is None or len(seeds) == 1 else list(row.difference[1:]),
                "published_ade20k": row.published,
            }
            for row in results
        ],
    }
