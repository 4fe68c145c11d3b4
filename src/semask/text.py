"""Numbers, tables and progress as text."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

T = TypeVar("T")
PIPE_WIDTH = 200
"""Columns of output that no terminal limits: a pipe has no width, and `grep` needs whole lines."""
SILENCE = 30.0
"""Longest time without a line of progress [s]."""
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%_#${}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "–": "--",
        "…": r"\dots{}",
    }
)
"""LaTeX of the signs that mean something else there."""
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of signs that steer a terminal, reverse text, have no width or no encoding."""
MARKDOWN = re.compile(r"[\\*\[\]<|]")
"""Signs that Markdown and HTML read."""


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share as a percentage; an undefined one is –."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def pluralize(number: int, noun: str) -> str:
    """Return a number and its noun, with an s unless the number is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fold(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Return names as a list in a line: the first `most`, and the number of the others."""
    rest = [f"… and {len(names) - most} more"] if len(names) > most else []
    return separator.join([*names[:most], *rest])


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text with control characters spelled out; `lines` keeps line breaks."""
    kept = "\n" if lines else ""
    return "".join(
        sign if sign in kept or unicodedata.category(sign) not in INVISIBLE else sign.encode("unicode_escape").decode()
        for sign in text
    )


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that prints names of files and classes unchanged: no markup, no colours, no line breaks."""
    from rich.console import Console

    class Plain(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(
                *(printable(each, lines=True) if isinstance(each, str) else each for each in objects), **options
            )

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPE_WIDTH
    return Plain(stderr=stderr, quiet=quiet, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)


class Progress:
    """How far a loop is, on stderr: a bar in a terminal; elsewhere a line every 30 s with the time that remains.

    >>> with Progress("reading", 3) as progress:
    ...     list(progress.track("abc"))
    ['a', 'b', 'c']
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        self.title, self.total, self.done = title, total, 0
        self.console = console(stderr=True, quiet=quiet)
        self.bars: Any = None

    def __enter__(self) -> Self:
        self.began = self.printed = time.monotonic()
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bars = Bars(*columns, console=self.console, transient=True)
            self.bars.add_task(self.title, total=self.total)
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count pieces as done; 0 with a `note` shows that a long one goes on."""
        self.done += count
        if self.bars is not None:
            self.bars.update(self.bars.task_ids[0], advance=count, description=f"{self.title} {note}".strip())
        elif (now := time.monotonic()) - self.printed >= SILENCE:
            self.printed = now
            left = f", {duration((now - self.began) * (self.total / self.done - 1))} left" if self.done else ""
            self.console.print(f"{self.title}: {self.done} of {self.total}{left}{note and f' ({note})'}")

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and count each when the next is asked for."""
        for item in items:
            yield item
            self.advance()


def duration(seconds: float) -> str:
    """Return a time in words, such as 40 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Column(NamedTuple, Generic[T]):
    """A column of a table: its title, the text of a row's item, and the alignment."""

    title: str
    value: Callable[[T], str]
    align: Literal["l", "r"] = "r"


@dataclass(frozen=True)
class Table:
    """A table of text; an empty row is a rule between groups.

    `align` has "l" or "r" for each column; "" aligns the first column left and the others right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    title: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        """Spell control characters out; names come from files."""
        object.__setattr__(self, "columns", [*map(printable, self.columns)])
        object.__setattr__(self, "rows", [[*map(printable, row)] for row in self.rows])

    @property
    def sides(self) -> str:
        """Alignment of every column."""
        return self.align or "l" + "r" * (len(self.columns) - 1)

    def without(self, *titles: str) -> Table:
        """Return the table without these columns."""
        kept = [index for index, title in enumerate(self.columns) if title not in titles]
        rows = [[row[index] for index in kept] if row else row for row in self.rows]
        columns, align = [self.columns[index] for index in kept], "".join(self.sides[index] for index in kept)
        return Table(columns, rows, align, self.title, self.caption)

    def rich(self) -> Grid:
        """Return the table for a terminal; long names go on in a second line, numbers are never cut."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title=Text(self.title) if self.title else None,
            caption=Text(self.caption) if self.caption else None,
            caption_justify="left",
        )
        for title, side in zip(self.columns, self.sides, strict=True):
            grid.add_column(
                Text(title), justify="left" if side == "l" else "right", no_wrap=side == "r", overflow="fold"
            )
        for row in self.rows:
            if row:
                grid.add_row(*map(Text, row))  # Text: brackets in names are no markup
            else:
                grid.add_section()
        return grid

    def markdown(self) -> str:
        """Return the table for a README."""
        rule = ["---" if side == "l" else "---:" for side in self.sides]
        head, *body = [
            [MARKDOWN.sub(r"\\\g<0>", cell).replace("\\<", "&lt;") for cell in row]
            for row in (self.columns, *filter(None, self.rows))
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))

    def csv(self) -> str:
        """Return the table for a spreadsheet; undefined cells are empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            # A quote keeps spreadsheets from taking a name for a formula.
            [
                "" if cell == "–" else f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
                for cell in row
            ]
            for row in (self.columns, *filter(None, self.rows))
        )
        return text.getvalue()

    def latex(self) -> str:
        """Return the table for a paper, in commands of the package booktabs."""
        head, *body = [
            " & ".join(cell.translate(LATEX) for cell in row) + r" \\" if row else r"\midrule"
            for row in (self.columns, *self.rows)
        ]
        begin = rf"\begin{{tabular}}{{{self.sides}}}"
        return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


FORMATS: dict[str, Callable[[Table], str]] = {".md": Table.markdown, ".csv": Table.csv, ".tex": Table.latex}
"""Writers of a table by the suffix of its file."""


def tabulate(items: Sequence[T], columns: Sequence[Column[T]]) -> Table:
    """Return a row for every item, without columns that are empty or undefined in every row."""
    cells = [[column.value(item) for column in columns] for item in items]
    kept = [index for index in range(len(columns)) if any(row[index] not in ("", "–") for row in cells)]
    align = "".join(columns[index].align for index in kept)
    return Table([columns[index].title for index in kept], [[row[index] for index in kept] for row in cells], align)
