"""Numbers and tables as text: one table, four ways to write it."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from semask.text import FORMATS, Column, Table, percent, pluralize, tabulate

TABLE = Table(("class", "IoU"), [("a|b [x]", "–"), (), ("=1", "50.00")], title="T")


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50.00"), (None, "–"), (float("nan"), "–"), (0.12345, "12.35"), (0.0, "0.00")]
)
def test_percentages(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_one_has_no_s() -> None:
    assert [pluralize(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_a_rule_between_groups_is_no_row() -> None:
    assert TABLE.markdown().splitlines() == ["| class | IoU |", "| --- | ---: |", r"| a\|b [x] | – |", "| =1 | 50.00 |"]
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [["class", "IoU"], ["a|b [x]", ""], ["'=1", "50.00"]]
    latex = TABLE.latex().splitlines()
    assert latex[0] == r"\begin{tabular}{lr}"
    assert latex[2:-2] == [r"class & IoU \\", r"\midrule", r"a|b [x] & -- \\", r"\midrule", r"=1 & 50.00 \\"]
    assert {*FORMATS} == {".md", ".csv", ".tex"}


def test_a_terminal_shows_names_as_they_are() -> None:
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(TABLE.rich())
    text = console.export_text()
    assert "a|b [x]" in text
    assert text.splitlines()[0].strip() == "T"


def test_columns_that_are_empty_in_every_row_are_left_out() -> None:
    columns = (
        Column[int]("number", str, "l"),
        Column[int]("nothing", lambda number: ""),
        Column[int]("undefined", lambda number: "–"),
        Column[int]("odd", lambda number: "yes" if number % 2 else ""),
    )
    found = tabulate([1, 2], columns)
    assert (found.columns, found.rows, found.sides) == (["number", "odd"], [["1", "yes"], ["2", ""]], "lr")
    assert found.without("odd").columns == ["number"]
    assert found.without("odd").sides == "l"
