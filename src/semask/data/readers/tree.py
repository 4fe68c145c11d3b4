"""Files by their paths below a root: a folder, a zip file, or a folder that holds zip files."""

from __future__ import annotations

import logging
import os
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from semask.data.readers.archives import ZipTree, open_zip
from semask.data.readers.source import Source, is_hidden

logger = logging.getLogger(__name__)
nfc = partial(normalize, "NFC")
SHOWN = 3


def paths_below(folder: Path, *, broken: bool = False) -> list[Path]:
    """Return the files below a folder in order, also those behind links to folders, without hidden ones.

    Every folder is searched once, however many links lead to it, and links back to a folder that they lie in are not
    followed. Links that lead nowhere and folders that cannot be opened are returned too if `broken`, and otherwise left
    out with a warning.
    """
    found: list[Path] = []
    lost: list[Path] = []
    repeated: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folders: list[Path] = [folder]
    links: list[Path] = []
    while folders or links:
        # the folders themselves come first, so that files have their own paths and not those through a link
        here = folders.pop() if folders else links.pop(0)
        try:
            state = here.stat()
            # a folder that is searched twice may be searched exponentially often
            if (state.st_dev, state.st_ino) in seen:
                repeated.append(here)
                continue
            seen.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            lost.append(here)
            continue
        real = Path(os.path.realpath(here))
        for entry in entries:
            path = here / entry.name
            if is_hidden(entry.name):
                continue
            if os.path.isfile(path):
                found.append(path)
            elif not os.path.isdir(path):
                # neither: a link that leads nowhere or to itself; devices and pipes are no data
                lost += [path] if entry.is_symlink() and not os.path.exists(path) else []
            elif not entry.is_symlink():
                folders.append(path)
            elif not real.is_relative_to(os.path.realpath(path)):
                links.append(path)
    for paths, what in ((repeated, "lead to folders searched already"), (() if broken else lost, "cannot be opened")):
        if paths:
            names = ", ".join(map(str, sorted(paths)[:SHOWN]))
            warn_once(f"{len(paths)} links or folders below {folder} {what} and are left out, such as {names}")
    return sorted(found + lost if broken else found)


@cache
def warn_once(message: str) -> None:
    """Warn of a data set once: a training searches its folders several times."""
    logger.warning("%s", message)


def unicode_forms(path: str) -> list[str]:
    """The path as given, and composed and decomposed: macOS writes decomposed names."""
    return list(dict.fromkeys((path, nfc(path), normalize("NFD", path))))


class Tree(NamedTuple):
    """A root; paths below it may lead into a zip file, as `gtFine_trainvaltest.zip/gtFine/train`.

    Where everything in a zip file lies below one folder, as in ADE20K's, its name may be left out.
    """

    root: Path

    def has_folder(self, path: str) -> bool:
        """Whether there is such a folder, in any form of Unicode; the root's path is empty."""
        return any(map(self._has_folder, unicode_forms(path)))

    def _has_folder(self, path: str) -> bool:
        within = self._within_zip(path)
        return (self.root / path).is_dir() if within is None else within[1] in within[0].folders

    def entries(self, folder: str) -> list[str]:
        """Return the names of the files and folders in a folder, without hidden ones; none of one that is missing."""
        within = self._within_zip(folder)
        if within is not None:
            names = {path.partition("/")[0] for path, _ in within[0].below(within[1])}
        else:
            names = {*os.listdir(self.root / folder)} if self.has_folder(folder) else set()
        return sorted(name for name in names if not is_hidden(name))

    def files(self, folder: str) -> dict[str, Source]:
        """Return the files below a folder by their paths from there, in order, without hidden ones."""
        folder = next(filter(self._has_folder, unicode_forms(folder)), folder)
        within = self._within_zip(folder)
        if within is not None:
            archive, inside = within
            return {path: member for path, member in archive.below(inside) if not is_hidden(path)}
        place = self.root / folder
        return {path.relative_to(place).as_posix(): path for path in paths_below(place)}

    def read_text(self, path: str) -> str | None:
        """Return the content of a text file in UTF-8, with or without a byte order mark; None where there is none."""
        within = self._within_zip(path)
        source: Source | None = self.root / path if within is None else within[0].members.get(within[1])
        if source is None or (isinstance(source, Path) and not source.is_file()):
            return None
        with source.open("rb") as file:
            try:
                return file.read().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{source}: no text in UTF-8 ({error}); save it as such") from error

    def _within_zip(self, path: str) -> tuple[ZipTree, str] | None:
        """Return the zip file that a path leads into and the path there; None if it leads into none."""
        whole = self.root / path
        # the nearest ancestor that is a zip file
        for place in (whole, *whole.parents):
            if place.suffix.lower() == ".zip" and place.is_file():
                archive = open_zip(place)
                inside = whole.relative_to(place).as_posix()
                return archive, archive.locate("" if inside == "." else inside)
        return None
