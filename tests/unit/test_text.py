"""Numbers and tables as text: one table, four ways to write it."""

from __future__ import annotations

import csv
import io
import re
from html import unescape

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from semask.text import FORMATS, Column, Progress, Table, console, duration, percent, pluralize, printable, tabulate

TABLE = Table(("class", "IoU"), [("a|b [x]", "–"), (), ("=1", "50.00")], title="T")


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50.00"), (None, "–"), (float("nan"), "–"), (0.12345, "12.35"), (0.0, "0.00")]
)
def test_percentages(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_one_has_no_s() -> None:
    assert [pluralize(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_a_rule_between_groups_is_no_row() -> None:
    assert TABLE.markdown().splitlines() == [
        "| class | IoU |",
        "| --- | ---: |",
        r"| a\|b \[x\] | – |",
        "| =1 | 50.00 |",
    ]
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [["class", "IoU"], ["a|b [x]", ""], ["'=1", "50.00"]]
    latex = TABLE.latex().splitlines()
    assert latex[0] == r"\begin{tabular}{lr}"
    assert latex[2:-2] == [r"class & IoU \\", r"\midrule", r"a|b [x] & -- \\", r"\midrule", r"=1 & 50.00 \\"]
    assert {*FORMATS} == {".md", ".csv", ".tex"}


def test_a_terminal_shows_names_as_they_are() -> None:
    screen = Console(width=40, record=True, file=io.StringIO())
    screen.print(TABLE.rich())
    text = screen.export_text()
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


@pytest.mark.parametrize(
    "sign",
    [*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u202e", "\ud800", "\u200b", "\ufeff", "\u061c"],
)
def test_names_do_not_steer_what_shows_them(sign: str) -> None:
    """A name with a control character, in every form of a table and in a line."""
    name = f"a{sign}b"
    table = Table(("class",), [(name,)])
    screen = Console(width=40, record=True, file=io.StringIO())
    screen.print(table.rich())
    for text in (screen.export_text(), *(write(table) for write in FORMATS.values())):
        assert sign == "\n" or sign not in text
        assert len(text.splitlines()) == len(text.split("\n")) - text.endswith("\n")
        text.encode()
    assert len(table.markdown().splitlines()) == 3
    assert sign == "\n" or sign not in printable(name, lines=True)


def test_markdown_shows_names_as_they_are() -> None:
    name = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) *d* a|b"
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(Table(("class",), [(name,)]).markdown())
    assert "<img" not in html
    assert "<a " not in html
    assert html.count("<td") == 1
    assert unescape(re.sub("<[^>]+>", "", html)).strip().splitlines()[-1] == name


def test_brackets_in_a_line_stay(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("[/red] [b]x \x1b[31m")
    assert capsys.readouterr().out == "[/red] [b]x \\x1b[31m\n"


def test_progress_elsewhere_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr("semask.text.time.monotonic", lambda: float(next(now)))
    with Progress("reading", 12) as progress:
        assert list(progress.track(range(12))) == [*range(12)]
        progress.advance(0, "passes 7")
    lines = capsys.readouterr().err.splitlines()
    # twelve pieces and a note of ten seconds each
    assert [line.split(": ")[1].split(" of")[0] for line in lines] == ["3", "6", "9", "12"]
    assert "90 s" not in lines[0]
    assert "2 min left" in lines[0]


def test_times_in_words() -> None:
    assert [duration(each) for each in (0, 40.4, 600, 7200)] == ["0 s", "40 s", "10 min", "2.0 h"]
