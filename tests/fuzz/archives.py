"""Zip and tar files, broken and hostile, through every function that reads them; run as a program.

    python -m tests.fuzz.archives COUNT SEED FOLDER

Prints as `tests.fuzz.mutate` does. The archives lie in FOLDER, where nothing but scratch/ may appear beside them.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semask.data.checks.check import inspect_pairs
from semask.data.dataset import classes_of
from semask.data.pairs import find_pairs
from semask.data.published.download import open_download
from semask.recipes.recipe import DataRecipe
from tests.fuzz.mutate import mutated
from tests.unit.stored import FILES

NAMES = (
    "/etc/x.png", "../x.png", "../../labels/train/x.png", "images/train/../../../x.png", "images\\train\\x.png",
    "C:\\x.png", "images/train/p0.png", "./images/train/p0.png", "images/train", "images/train/p0.png/x.png", "a" * 300,
    "images/train/\x00.png", "images/train/\udcff.png", "con.png", "", "/", "images/train/p9.zip", "__MACOSX/x.png",
)  # fmt: skip


def zipped(draw: random.Random) -> bytes:
    """A zip file of the data set, and most often a member that does not belong there."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as file:
        for name, content in FILES.items():
            with file.open(zipfile.ZipInfo(name), "w", force_zip64=draw.random() < 0.2) as member:
                member.write(content)
        if draw.random() < 0.7:
            info = zipfile.ZipInfo(draw.choice(NAMES).encode("utf-8", "replace").decode())
            # a file, a link, a device, and flags of encryption
            info.external_attr = draw.choice((0, 0, 0o120777, 0o020666, 0o100644)) << 16
            file.writestr(info, draw.choice((b"", b"/etc/passwd", bytes(10**6), buffer.getvalue())))
    return buffer.getvalue()


def tarred(draw: random.Random) -> bytes:
    """A tar file of the data set as shards hold it, and most often a member that does not belong there."""
    buffer = io.BytesIO()
    kinds = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    with tarfile.open(fileobj=buffer, mode="w", format=draw.choice((0, 1, 2))) as file:
        members = []
        for number in range(3):
            members.append((tarfile.TarInfo(f"{number}.jpg"), FILES["images/train/p0.png"]))
            members.append((tarfile.TarInfo(f"{number}.seg.png"), FILES["labels/train/p0.png"]))
        if draw.random() < 0.7:
            odd = tarfile.TarInfo(draw.choice(NAMES).replace("\x00", "")[:90] or "x")
            odd.type, odd.linkname, odd.uid = draw.choice(kinds), draw.choice(("/etc/passwd", "../../x", odd.name)), 1
            members.append((odd, b"x" * 40))
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read_all(data: DataRecipe) -> None:
    """Find, check and read all pairs of a data set."""
    classes, pairs = classes_of(data), find_pairs(data, "train")
    inspect_pairs(pairs, data, classes, workers=1)


def main(count: int, seed: int, folder: Path) -> None:
    """Read `count` archives."""
    warnings.simplefilter("ignore")
    draw = random.Random(seed)
    classes = folder / "classes.json"
    classes.write_bytes(FILES["classes.json"])
    for number in range(count):
        kind = draw.choice(("zip", "tar", "tar.gz"))
        content = zipped(draw) if kind == "zip" else tarred(draw)
        content = mutated(content, draw) if draw.random() < 0.6 else content
        if kind == "tar.gz":
            content = gzip.compress(content)
            content = mutated(content, draw) if draw.random() < 0.5 else content
        path = folder / f"train-{number}.{kind[:3]}"
        path.write_bytes(content)
        print(number, flush=True)
        shards = DataRecipe(root=str(folder), kind="shards", images=f"{{split}}-{number}.tar", classes=str(classes))
        data = DataRecipe(root=str(path)) if kind == "zip" else shards
        readers: dict[str, Callable[[], Any]] = {
            "data set": lambda data=data: read_all(data),
            "download": lambda path=path: [
                member.open("rb").close() for member in open_download(path, scratch=folder / "scratch").values()
            ],
        }
        for name, read in readers.items():
            try:
                read()
            except ValueError:
                continue
            except Exception as error:
                print(json.dumps([number, name, type(error).__name__, str(error)]), flush=True)
        path.unlink()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
