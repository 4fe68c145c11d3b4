"""Tables of several evaluations, for a paper, a README or a spreadsheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semask.evaluation.metrics.sizes import AREAS
from semask.evaluation.record import Record
from semask.recipes import get_recipe, list_recipes
from semask.recipes.protocols import name_of
from semask.recipes.record import flatten
from semask.text import Column, Table, percent, tabulate

UNIMPORTANT = ("name", "data.root", "model.encoder.weights", "published.")
MOST_SETTINGS = 4
"""Settings in the column that names differences."""


def _score(name: str) -> Callable[[Record], str]:
    return lambda record: percent(record.values["scores"].get(name))


def _limit(number: int) -> Callable[[Record], str]:
    """Return the column of a limit of the mIoU's interval."""
    return lambda record: percent(ends[number]) if (ends := record.values.get("intervals", {}).get("miou")) else ""


def _size(number: int) -> Callable[[Record], str]:
    """Return the column of a range of sizes; empty for limits other than COCO's."""

    def value(record: Record) -> str:
        sizes = record.values.get("sizes", {})
        return percent(sizes["bins"][number]["miou"]) if sizes.get("thresholds") == list(AREAS) else ""

    return value


def _published(record: Record) -> str:
    """Return the paper's mIoU of the recipe, one scale or several, if the record follows the paper's protocol."""
    if record.title not in list_recipes():
        return ""
    # papers name one protocol for one scale and several
    recipe, protocol = get_recipe(record.title), record.values["protocol"]["name"]
    paper = str(name_of(recipe)).removesuffix("-ss")
    miou = {f"{paper}-ss": recipe.published.miou, f"{paper}-ms": recipe.published.miou_ms}.get(protocol)
    return "" if miou is None or record.values["data"]["split"] != recipe.data.val_split else f"{miou:.2f}"


COLUMNS: tuple[Column[Record], ...] = (
    Column("run", lambda record: record.run, "l"),
    Column("recipe", lambda record: record.title, "l"),
    Column("checkpoint", lambda record: str(record.values["checkpoint"]["sha256"])[:8], "l"),
    Column("protocol", lambda record: str(record.values["protocol"]["name"] or "its own"), "l"),
    Column("data", lambda record: f"{record.values['data']['split']} {str(record.values['data']['sha256'])[:8]}", "l"),
    Column("images", lambda record: str(record.values["images"])),
    Column("mIoU", _score("miou")),
    Column("95 % from", _limit(0)),
    Column("to", _limit(1)),
    Column("published", _published),
    Column("mAcc", _score("macc")),
    Column("aAcc", _score("aacc")),
    Column("boundary IoU", _score("boundary_iou")),
    Column("boundary F", _score("boundary_f")),
    Column("ECE", lambda record: percent(record.values.get("calibration", {}).get("ece"))),
    Column("small", _size(0)),
    Column("medium", _size(1)),
    Column("large", _size(2)),
)
"""All columns; `evaluation_table` leaves out those that no record fills."""


def evaluation_table(records: Sequence[Record]) -> Table:
    """Return a row for every evaluation; its last column has the settings in which the recipes differ."""
    settings = [flatten(record.values.get("settings") or {}) for record in records]
    keys = [key for each in settings for key in each if len({str(other.get(key)) for other in settings}) > 1]
    shown = [key for key in dict.fromkeys(keys) if not key.startswith(UNIMPORTANT)][:MOST_SETTINGS]
    differing = {
        record.path: ", ".join(f"{key} {each.get(key)}" for key in shown)
        for record, each in zip(records, settings, strict=True)
    }
    return tabulate(records, [*COLUMNS, Column("differs in", lambda record: differing[record.path], "l")])


def class_table(records: Sequence[Record]) -> Table:
    """Return the IoU of every class, a column for every evaluation.

    Raises:
        ValueError: the evaluations have different classes.
    """
    classes = [[row["name"] for row in record.values["scores"]["classes"]] for record in records]
    for record, other in zip(records, classes, strict=True):
        if other != classes[0]:
            raise ValueError(
                f"{record.path} and {records[0].path} have different classes; --classes takes records of one data set"
            )
    # class by class over all records
    lines = zip(classes[0], *(record.values["scores"]["classes"] for record in records), strict=True)
    rows = [[name, *(percent(row["iou"]) for row in rows)] for name, *rows in lines]
    return Table(["class", *(record.title for record in records)], rows)
