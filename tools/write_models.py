"""Count what every recipe's model costs; write the catalogue of the package and the page of the documentation.

`make models` runs this after recipes or models have changed; with --new it counts only what is not in the catalogue.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from semask.cli.main.models import page, rows_of

from semask import recipes
from semask.build import build_weightless
from semask.checkpoints.licence import licence_of
from semask.models.flops import measure
from semask.recipes.catalogue import FILE, catalogue

ROOT = Path(__file__).parents[1]


def entry(name: str) -> dict[str, object]:
    """Return the catalogue's entry of a recipe."""
    recipe = recipes.get(name)
    cost = measure(build_weightless(recipe), *recipe.data.crop)
    return {**cost._asdict(), "licence": licence_of(recipe.model.encoder.name, recipe.model.encoder.weights)}


def main() -> None:
    """Write both files."""
    names = track(recipes.names(), description="Counting", console=Console(stderr=True), transient=True)
    known = catalogue() if "--new" in sys.argv[1:] else {}
    entries = {name: known[name]._asdict() if name in known else entry(name) for name in names}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (ROOT / "src/semask/recipes" / FILE).write_text(text, encoding="utf-8")
    catalogue.cache_clear()
    (ROOT / "docs/models.md").write_text(page(rows_of(recipes.names())), encoding="utf-8")


if __name__ == "__main__":
    main()
