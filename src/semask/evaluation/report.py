"""Tables of several evaluations, for a paper, a README or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from semask.evaluation.metrics.sizes import AREAS
from semask.evaluation.record import Record
from semask.recipes import get, names
from semask.recipes.protocols import name_of
from semask.text import percent

Rows = list[list[str]]
T = TypeVar("T")

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
"""What a table writes for signs that mean something to LaTeX."""


class Column(NamedTuple, Generic[T]):
    """A title, what it takes from a record, and whether that is a number."""

    title: str
    value: Callable[[T], str]
    number: bool = True


def _score(name: str) -> Callable[[Record], str]:
    return lambda record: percent(record.values["scores"].get(name))


def _limit(number: int) -> Callable[[Record], str]:
    def value(record: Record) -> str:
        ends = record.values.get("intervals", {}).get("miou")
        return "" if ends is None else percent(ends[number])

    return value


def _data(record: Record) -> str:
    data = record.values["data"]
    return f"{data['split']} {str(data['sha256'])[:8]}"


def _calibration(record: Record) -> str:
    return percent(record.values.get("calibration", {}).get("ece"))


def _size(number: int) -> Callable[[Record], str]:
    def value(record: Record) -> str:
        sizes = record.values.get("sizes", {})
        return percent(sizes["bins"][number]["miou"]) if sizes.get("thresholds") == list(AREAS) else ""

    return value


def _published(record: Record) -> str:
    """Return what the paper printed for the recipe, one scale or several, if the record is of the paper's protocol.

    How many images the record is of stands beside it.
    """
    if record.title not in names():
        return ""
    recipe, protocol = get(record.title), record.values["protocol"]["name"]
    paper = str(name_of(recipe)).removesuffix("-ss")
    miou = {f"{paper}-ss": recipe.published.miou, f"{paper}-ms": recipe.published.miou_ms}.get(protocol)
    return "" if miou is None or record.values["data"]["split"] != recipe.data.val_split else f"{miou:.2f}"


COLUMNS: tuple[Column[Record], ...] = (
    Column("recipe", lambda record: record.title, number=False),
    Column("checkpoint", lambda record: str(record.values["checkpoint"]["sha256"])[:8], number=False),
    Column("protocol", lambda record: str(record.values["protocol"]["name"] or "its own"), number=False),
    Column("data", _data, number=False),
    Column("images", lambda record: str(record.values["images"])),
    Column("mIoU", _score("miou")),
    Column("95 % from", _limit(0)),
    Column("to", _limit(1)),
    Column("published", _published),
    Column("mAcc", _score("macc")),
    Column("aAcc", _score("aacc")),
    Column("boundary IoU", _score("boundary_iou")),
    Column("boundary F", _score("boundary_f")),
    Column("ECE", _calibration),
    Column("small", _size(0)),
    Column("medium", _size(1)),
    Column("large", _size(2)),
)
"""Everything a table can hold; columns in which every record is silent are left out."""


def tabulate(records: Sequence[T], columns: Sequence[Column[T]]) -> tuple[list[Column[T]], Rows]:
    """Return the columns in which some record has something to say, and the cells of every record."""
    cells = [[column.value(record) for column in columns] for record in records]
    kept = [index for index in range(len(columns)) if any(row[index] not in ("", "–") for row in cells)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in cells]


def class_table(records: Sequence[Record]) -> tuple[list[Column[Record]], Rows]:
    """Return the IoU of every class of records that have the same classes, one column each.

    Raises:
        ValueError: their classes differ.
    """
    classes = [[row["name"] for row in record.values["scores"]["classes"]] for record in records]
    for record, other in zip(records, classes, strict=True):
        if other != classes[0]:
            raise ValueError(
                f"{record.path} has other classes than {records[0].path}; a table of classes needs records of one data "
                "set"
            )
    columns: list[Column[Record]] = [Column("class", lambda record: "", number=False)]
    columns += [Column(record.title, lambda record: "") for record in records]
    lines = zip(classes[0], *(record.values["scores"]["classes"] for record in records), strict=True)
    return columns, [[name, *(percent(row["iou"]) for row in rows)] for name, *rows in lines]


def to_markdown(columns: Sequence[Column[Any]], rows: Rows) -> str:
    """Return a table for a README."""
    titles, rule = [column.title for column in columns], ["---:" if column.number else "---" for column in columns]
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in (titles, *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def to_csv(columns: Sequence[Column[Any]], rows: Rows) -> str:
    """Return a table for a spreadsheet; undefined cells are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_inert(column.title) for column in columns])
    writer.writerows([["" if cell == "–" else _inert(cell) for cell in row] for row in rows])
    return text.getvalue()


def to_latex(columns: Sequence[Column[Any]], rows: Rows) -> str:
    """Return a table for a paper, of the package booktabs."""
    kinds = "".join("r" if column.number else "l" for column in columns)
    lines = [" & ".join(map(_latex, line)) + r" \\" for line in [[column.title for column in columns], *rows]]
    body = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}", ""])


Writer = Callable[[Sequence[Column[Any]], Rows], str]
FORMATS: dict[str, Writer] = {".md": to_markdown, ".csv": to_csv, ".tex": to_latex}
"""How a table is written, by the suffix of its file."""


def _inert(cell: str) -> str:
    """Keep spreadsheets from taking a name for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _latex(cell: str) -> str:
    return cell.translate(LATEX)
