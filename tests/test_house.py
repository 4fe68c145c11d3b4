"""What reviewers would otherwise look for by hand in every file of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


def loads(tree: ast.AST) -> list[ast.Call]:
    """Return the calls of torch.load, also where it goes by another name."""
    names = {"torch.load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {f"{alias.asname}.load" for alias in node.names if alias.name == "torch" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "load"}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def is_safe(call: ast.Call) -> bool:
    return any(
        keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


def test_files_are_short() -> None:
    assert FILES
    lengths = {path.relative_to(SOURCE): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_names_say_what_is_inside() -> None:
    parts = {part for path in FILES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert parts & VAGUE == set()


def test_files_of_others_are_never_unpickled() -> None:
    found = [(path, call) for path in FILES for call in loads(ast.parse(path.read_text(encoding="utf-8")))]
    assert found, "the package reads .pth files somewhere"
    assert [f"{path.relative_to(SOURCE)}:{call.lineno}" for path, call in found if not is_safe(call)] == []


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("import torch\ntorch.load(p, weights_only=True)", [True]),
        ("import torch\ntorch.load(p)", [False]),
        ("import torch as t\nt.load(p, weights_only=False)", [False]),
        ("from torch import load as read\nread(p, weights_only=flag)", [False]),
        ("import json\njson.load(p)", []),
    ],
)
def test_the_search_finds_what_it_should(code: str, safe: list[bool]) -> None:
    assert [is_safe(call) for call in loads(ast.parse(code))] == safe
