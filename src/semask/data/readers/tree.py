"""Files by their paths below a root: a folder, a zip file, or a folder that holds zip files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from semask.data.readers.archives import ZipTree, open_zip
from semask.data.readers.source import Source


def paths_below(folder: Path) -> list[Path]:
    """Return the files below a folder in order, with those behind links to folders, which `Path.rglob` leaves out.

    Links back to a folder that they lie in are not followed.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        # os.walk goes on into the folders that stay in the list
        folders[:] = [
            name
            for name in folders
            if not ((here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()))
        ]
        found += [here / name for name in names]
    return sorted(path for path in found if path.is_file())


class Tree(NamedTuple):
    """A root; paths below it may lead into a zip file, as `gtFine_trainvaltest.zip/gtFine/train`.

    Where everything in a zip file lies below one folder, as in ADE20K's, its name may be left out.
    """

    root: Path

    def has_folder(self, path: str) -> bool:
        """Whether there is such a folder; the root's path is empty."""
        within = self._within_zip(path)
        return (self.root / path).is_dir() if within is None else within[1] in within[0].folders

    def files(self, folder: str) -> dict[str, Source]:
        """Return the files below a folder by their paths from there, in order, without hidden ones (".DS_Store")."""
        within = self._within_zip(folder)
        if within is not None:
            archive, inside = within
            return {path: member for path, member in archive.below(inside) if not member.name.startswith(".")}
        place = self.root / folder
        paths = [path for path in paths_below(place) if not path.name.startswith(".")]
        return {path.relative_to(place).as_posix(): path for path in paths}

    def read_text(self, path: str) -> str | None:
        """Return the content of a text file in UTF-8; None where there is none."""
        within = self._within_zip(path)
        source: Source | None = self.root / path if within is None else within[0].members.get(within[1])
        if source is None or (isinstance(source, Path) and not source.is_file()):
            return None
        with source.open("rb") as file:
            try:
                return file.read().decode()
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
