"""Count what every recipe's model costs; write the catalogue of the package and the page of the documentation.

`make models` runs this after recipes or models have changed; with --new it counts only what is not in the catalogue.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.progress import track

from semask import recipes
from semask.checkpoints.pretrained import licence_of
from semask.cli.models import Row, dataset_of, rows_of
from semask.models.build import build_on_meta
from semask.models.flops import measure
from semask.recipes.catalogue import FILE, catalogue
from semask.text import Table

ROOT = Path(__file__).parents[1]
PAGE = """# Models

Every recipe: `semask train NAME` trains it, `semask models` lists them, `semask convert FILE NAME OUT` reads published
weights where there are some. Made by `make models`; tests keep it in step with the code.

Parameters are in millions, auxiliary heads included; multiply-adds are 10⁹ for one image of the crop's size, without
what only training needs. The papers count convolutions, linear layers, norms and ReLUs; *all* are all matrix products
and convolutions, attention's included, as PyTorch's `FlopCounterMode` counts them. In brackets: as published. mIoU in
percent, one scale / several scales and flips, as published by the source that is named. *Weights*: the licence of the
pretrained encoder that the recipe starts from. *Ours*: our own training by the recipe, unchanged, see
[the log](log.md). We have trained no row on ADE20K, Cityscapes, Pascal Context, COCO-Stuff or VOC: that takes GPUs.
"""
DATASETS = {
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "pascal-context": "Pascal Context",
    "pascal-context-59": "Pascal Context without background",
    "coco-stuff10k": "COCO-Stuff 10k",
    "coco-stuff164k": "COCO-Stuff 164k",
    "voc": "Pascal VOC 2012",
    "camvid": "CamVid",
    "scenes": "Drawn scenes",
    "folder": "Your own folder (the class count follows from your data; costs are those of two classes)",
}
"""Titles of the page's sections."""


def entry(name: str) -> dict[str, object]:
    """Return the catalogue's entry of a recipe."""
    recipe = recipes.get_recipe(name)
    cost = measure(build_on_meta(recipe), *recipe.data.crop)
    return {**cost._asdict(), "licence": licence_of(recipe.model.encoder.name, recipe.model.encoder.weights)}


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a short Markdown table, published figures in brackets, for README.md."""
    columns = ("recipe", "crop", "parameters, M", "multiply-adds, G", "mIoU", "multi-scale")
    cells = [(*_costs(row)[:-1], _score(row.published.miou), _score(row.published.miou_ms)) for row in rows]
    return Table(columns, cells).markdown()


def page(rows: Sequence[Row]) -> str:
    """Return docs/models.md: the rows with all figures, one section per data set."""
    columns = ("recipe", "crop", "parameters", "multiply-adds", "all", "mIoU", "source", "weights", "ours")
    parts = [PAGE]
    for dataset, group in groupby(rows, key=dataset_of):
        lines = []
        for row in group:
            known = row.published
            scores = " / ".join(_score(value) or "–" for value in (known.miou, known.miou_ms))
            miou = scores if known.miou or known.miou_ms else ""
            ours = "" if row.measured is None else f"{row.measured.miou:.2f} ({row.measured.how})"
            lines.append((*_costs(row), miou, known.source, row.cost.licence or "none", ours))
        parts.append(f"## {DATASETS[dataset]}\n\n{Table(columns, lines, 'lrrrrrlll').markdown()}")
    return "\n".join(parts)


def _costs(row: Row) -> tuple[str, ...]:
    return (
        f"`{row.name}`",
        f"{row.crop[0]}×{row.crop[1]}",
        f"{row.cost.parameters / 1e6:.1f}{_bracket(row.published.parameters)}",
        f"{row.cost.multiply_adds / 1e9:.1f}{_bracket(row.published.flops)}",
        f"{row.cost.all_multiply_adds / 1e9:.1f}{_bracket(row.published.all_flops)}",
    )


def _bracket(value: float | None) -> str:
    return "" if value is None else f" ({value:g})"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    """Write both files."""
    names = track(recipes.list_recipes(), description="Counting", console=Console(stderr=True), transient=True)
    known = catalogue() if "--new" in sys.argv[1:] else {}
    entries = {name: known[name]._asdict() if name in known else entry(name) for name in names}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (ROOT / "src/semask/recipes" / FILE).write_text(text, encoding="utf-8")
    catalogue.cache_clear()
    (ROOT / "docs/models.md").write_text(page(rows_of(recipes.list_recipes())), encoding="utf-8")


if __name__ == "__main__":
    main()
