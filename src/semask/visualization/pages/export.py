"""The page of an export: what the file is, and the proof that it is the model."""

from __future__ import annotations

from pathlib import Path

from semask.visualization.pages.page import write_page
from semask.visualization.pages.record import Record, rows, section

MIB = 2**20


def write_export_page(path: Path, receipt: Record) -> None:
    """Write the page of a receipt as `semask export` makes it.

    Raises:
        ValueError: The receipt lacks a section, or a value is no number.
    """
    form, speed = section(receipt, "form"), section(receipt, "speed")
    miou = section(receipt, "miou", optional=True)
    # from the class that paid most
    classes = rows(miou, "classes") if miou else []
    classes = [row for row in classes if row["difference"][0] is not None]
    classes.sort(key=lambda row: row["difference"][0])
    size, batch = form["size"], form["batch"]
    takes = {
        "file": receipt["file"],
        "images": "bytes b H W c" if form["input"] == "bytes" else "floats b c H W in [0, 1]",
        "size": "any" if size is None else f"{size[0]}×{size[1]} px",
        "batch": "any" if batch is None else str(batch),
        "gives": form["output"],
        "precision": form["precision"],
        "weights (SHA-256)": form["weights"],
        "machine": receipt["machine"],
        "threads": str(speed["threads"]),
        **section(receipt, "versions"),
    }
    write_page(
        path,
        "export.html",
        receipt=receipt,
        takes=takes,
        cases=rows(receipt, "cases"),
        speed=speed,
        miou=miou,
        classes=classes,
        mebibytes=receipt["bytes"] / MIB,
        share=receipt["bytes"] / max(1, receipt["parameters_bytes"]),
    )
