"""Print how large the house is and where it is crowded.

    python tools/house.py

A private function has a leading underscore; one that is used once is a candidate for inlining. A module with one
importer is a candidate for merging. Comments are lines that begin with #, code lines are neither blank, nor comments,
nor docstrings.
"""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from pathlib import Path

from rich.console import Console

PACKAGE = Path(__file__).parents[1] / "src" / "semask"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    """Return the dotted name of a module, semask.cli for semask/cli/__init__.py."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, tree: ast.Module, known: set[str]) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module}
    return (found & known) - {module_name(path)}


def docstring_lines(tree: ast.Module) -> int:
    """Return the lines of all strings that stand alone: docstrings of modules, classes, functions and fields."""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return sum(
        node.end_lineno - node.lineno + 1
        for node in strings
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno
    )


def main() -> None:
    """Measure the package and print the figures."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = {path: text.splitlines() for path, text in texts.items()}
    comments = sum(line.lstrip().startswith("#") for each in lines.values() for line in each)
    blank = sum(not line.strip() for each in lines.values() for line in each)
    total = sum(map(len, lines.values()))
    code = total - comments - blank - sum(map(docstring_lines, trees.values()))
    functions = [(path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, Function)]
    lengths = [node.end_lineno - node.lineno + 1 for _, node in functions if node.end_lineno]

    # A name that occurs once beside its definition: as a variable, an attribute, or an imported name.
    names = Counter(
        name
        for tree in trees.values()
        for node in ast.walk(tree)
        for name in (
            [node.id]
            if isinstance(node, ast.Name)
            else [node.attr]
            if isinstance(node, ast.Attribute)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    )
    private = [(path, node.name) for path, node in functions if node.name[0] == "_" and not node.name.startswith("__")]
    used_once = [(path, name) for path, name in private if names[name] == 1]
    known = {module_name(path) for path in texts}
    importers = Counter(name for path, tree in trees.items() for name in imports(path, tree, known))
    alone = sorted(name for name in known if importers[name] == 1)

    folders = Counter[str]()
    for path, each in lines.items():
        parts = path.relative_to(PACKAGE).parts
        folders[parts[0] if len(parts) > 1 else "."] += len(each)
    entries = sorted(each.name for each in PACKAGE.iterdir() if each.name != "__pycache__")
    show = Console(highlight=False, soft_wrap=True, markup=False).print
    show(f"package lines           {total}")
    for name, count in folders.most_common():
        show(f"  {name:<22}{count}")
    show(f"root entries            {len(entries)}: {', '.join(entries)}")
    show(f"comments per 100 lines  {100 * comments / code:.1f} of {code} code lines")
    show(f"functions               {len(lengths)}, median length {statistics.median(lengths):g} lines")
    show(f"private, used once      {len(used_once)} of {len(private)}")
    for path, name in used_once:
        show(f"  {path.relative_to(PACKAGE)}: {name}")
    show(f"one importer            {len(alone)} of {len(known)} modules")
    for name in alone:
        show(f"  {name}")


if __name__ == "__main__":
    main()
