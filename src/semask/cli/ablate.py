"""`semask ablate TABLE`: train all rows of an ablation table alike and compare them, seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff

from semask.cli.flags import HELP, parse_over, split_name, take
from semask.cli.train import FIRST, choose_kinds
from semask.cli.train import Settings as TrainSettings
from semask.files import check_writable, write_json, write_text
from semask.recipes import Recipe, get_recipe
from semask.recipes.ablations import STUDIES, check_seeds, make_table, study
from semask.recipes.ablations import Table as Rows
from semask.text import Table, console
from semask.training.options import RunOptions

USAGE = "semask ablate TABLE"
FOLDER_DATA = "folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings):
    """The flags: those of `semask train`, applied to the recipe that all rows start from, and the table's own."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds: every row is trained once with each, and differences are taken between runs of one seed."""
    dry_run: Annotated[bool, FlagCreatePairsOff] = False
    """List the rows and their cost, and train nothing."""


def main(arguments: Sequence[str]) -> None:
    """Parse `TABLE [--data DATA] [flags]` and train the rows of the table."""
    if not arguments or arguments[0] in HELP:
        print(usage())
        return
    name, settings, base = parse(arguments)
    rows = make_table(name, base)
    if settings.dry_run:
        show_rows(rows, settings)
    else:
        ablate(name, rows, settings.seeds, settings.run)


def ablate(name: str, rows: Rows, seeds: Sequence[int], options: RunOptions) -> dict[str, Any]:
    """Train the rows, write table.md and table.json beside the runs, and return the table's JSON values.

    Scores are in [0, 1], in the order of the seeds; differences are to the reference row.
    """
    from semask.evaluation.comparison import paired_difference, spread
    from semask.training.ablation import check_rows, run_table

    recipe, several = rows.rows[rows.reference].recipe, len(seeds) > 1
    out = options.out or Path("runs") / f"ablate-{name}-{rows.rows[0].recipe.name.replace('/', '-')}"
    check_writable(out)
    screen = console()
    # every row builds before the first one trains
    counts = check_rows(rows)
    # seed by seed, so that an interrupted table compares whole rows of fewer seeds
    scores = run_table(rows, seeds, options, out=out, progress=lambda text: screen.print(text, style="bold"))
    # mean and deviation of each row, and its difference to the reference row, paired by seed
    results = []
    for number, (row, count, found) in enumerate(zip(rows.rows, counts, scores, strict=True)):
        mean, deviation = spread(found)
        paired = None if number == rows.reference else paired_difference(found, scores[rows.reference])
        results.append(
            {
                "label": row.label,
                "parameters": count,
                "miou": list(found),
                "mean": mean,
                "deviation": deviation if several else None,
                "difference": None if paired is None else paired.mean,
                "interval": [paired.low, paired.high] if paired is not None and several else None,
                "published_ade20k": row.published,
            }
        )
    record = {
        "table": name,
        "title": rows.title,
        "recipe": recipe.name,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "crop": list(recipe.data.crop),
        "seeds": list(seeds),
        "reference": rows.rows[rows.reference].label,
        "rows": results,
    }
    text = markdown(record)
    # written anew by every call, with the seeds trained so far
    write_text(out / "table.md", text)
    write_json(out / "table.json", record)
    screen.print(text)
    screen.print(f"table in {out / 'table.md'} and {out / 'table.json'}")
    return record


def markdown(record: dict[str, Any]) -> str:
    """A record as a Markdown table with a note on its measurement."""
    lines, labels = [], [row["label"] for row in record["rows"]]
    for number, row in enumerate(record["rows"], start=1):
        # mean ± sample standard deviation over the seeds
        mean = f"{100 * row['mean']:.2f}" + (f" ± {100 * row['deviation']:.2f}" if row["deviation"] is not None else "")
        # the reference row has no difference, a single seed no interval
        gap = interval = ""
        if row["difference"] is not None:
            gap, interval = f"{100 * row['difference']:+.2f}", "one seed"
        if row["interval"] is not None:
            interval = " … ".join(f"{100 * end:+.2f}" for end in row["interval"])
        published = "" if row["published_ade20k"] is None else f"{row['published_ade20k']:.2f}"
        each = " · ".join(f"{100 * score:.2f}" for score in row["miou"])
        cells = (f"{row['parameters'] / 1e6:.2f}", mean, gap, interval, published, each)
        lines.append((f"{number}. {row['label']}", *cells))
    to = f"difference to row {labels.index(record['reference']) + 1}, points"
    columns = ("", "parameters, M", "mIoU, %", to, "95 % interval", "paper (ADE20K), %", "by seed, %")
    height, width = record["crop"]
    note = (
        f"{record['recipe']}: {record['steps']} steps of {record['batch_size']} images, crops of {height}×{width}, "
        f"seeds {', '.join(map(str, record['seeds']))}, the last weights of every run. Mean ± standard deviation over "
        "seeds; differences are paired by seed, with Student's interval over the pairs. An interval that holds 0 "
        "decides nothing."
    )
    return f"### {record['title']}\n\n{Table(columns, lines).markdown()}\n{note}\n"


def show_rows(rows: Rows, settings: Settings) -> None:
    """Print the rows of a table and their cost."""
    from semask.models.build import build_on_meta
    from semask.models.flops import multiply_adds, parameters

    lines = []
    # models without values: shapes are enough for the cost
    for number, row in enumerate(rows.rows, start=1):
        model = build_on_meta(row.recipe)
        cost = multiply_adds(model, *row.recipe.data.crop)
        published = "" if row.published is None else f"{row.published:.2f}"
        lines.append((f"{number}. {row.label}", f"{parameters(model) / 1e6:.2f}", f"{cost / 1e9:.2f}", published))
    screen, recipe = console(), rows.rows[0].recipe
    screen.print(Table(("row", "params, M", "mult-adds, G", "paper, %"), lines, title=rows.title).rich())
    runs = len(rows.rows) * len(settings.seeds)
    screen.print(f"{runs} runs of {recipe.train.steps} steps of {recipe.train.batch_size} images from {recipe.name}")


def parse(arguments: Sequence[str]) -> tuple[str, Settings, Recipe]:
    """The table's name, the settings, and the recipe that all rows start from.

    Raises:
        ValueError: the table or its data is unknown, or a flag is one that the table sets.
    """
    name, flags = split_name(arguments, usage=USAGE, hint=f"There are: {', '.join(STUDIES)}.")
    assert name is not None  # `main` answers a plain --help
    # data and kinds first: they choose the recipe at which the other flags start
    data, flags = take("--data", flags, hint=": a dataset such as scenes or ade20k, a recipe, or a folder of your own")
    base, flags = choose_kinds(find_base(name, "scenes" if data is None else data), flags)
    description = f"Train all rows of {name} alike, from {base.name}: every field of that recipe is a flag."
    settings, recipe = parse_over(
        Settings, base, flags, prog=f"semask ablate {name}", description=description, first=FIRST
    )
    check_seeds(settings.seeds)
    # flags that the table sets
    if settings.train.seed != base.train.seed:
        raise ValueError("a table trains every row with several seeds; use --seeds 0 1 2, not --train.seed")
    if settings.run.resume is not None:
        raise ValueError("a table continues by itself after an interruption; leave out --resume")
    if settings.train.eval_every != base.train.eval_every:
        raise ValueError("the runs of a table are evaluated once, at their end; leave out --train.eval-every")
    # as a field of the recipe, so that runs with and without weights never mix
    if settings.run.from_scratch:
        recipe = recipe.override({"model.encoder.weights": None})
        settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, from_scratch=False))
    return name, settings, recipe


def find_base(name: str, data: str) -> Recipe:
    """The recipe that a table starts from: a recipe by name, a dataset's own, or that for a user's folder."""
    bases = study(name).bases
    # a dataset of the table, a folder of the user, or any recipe
    if data in bases:
        return get_recipe(bases[data])
    if Path(data).is_dir() and FOLDER_DATA in bases:
        return get_recipe(bases[FOLDER_DATA]).override({"data.root": data})
    if "/" in data:
        return get_recipe(data)
    raise ValueError(
        f"no data called {data!r} for {name}; there are: {', '.join(bases)}; or give a recipe's "
        "name, or the path of a folder of your own, which must exist"
    )


def usage() -> str:
    """The overview of all tables."""
    tables = "\n".join(f"  {name:<16}{(each.make.__doc__ or '').splitlines()[0]}" for name, each in STUDIES.items())
    return f"""usage: {USAGE} [--data DATA] [--seeds 0 1 2] [flags of `semask train`]

Train all rows of an ablation table with the same seeds and budget and compare them, seed by seed.
DATA is a dataset (scenes without it), a folder of your own, or a recipe to start from.

{tables}

`{USAGE} --dry-run` lists the rows and their cost; `{USAGE} --help` all flags."""
