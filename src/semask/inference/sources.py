"""Sources of prediction: files, folders, patterns, lists, archives, videos and streams, as items with unique names."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from semask.data.readers.archives import open_zip, tar_members
from semask.data.readers.source import Source, is_hidden
from semask.data.readers.tree import paths_below
from semask.inference.sinks import FILES, FOLDERS

VIDEOS = frozenset((".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv"))
"""Suffixes of video files."""
STREAM = re.compile(r"(rtsp|rtsps|rtmp|udp|tcp|http|https)://.+|\d{1,2}$")
"""Addresses of streams, and numbers of cameras."""
CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")
"""User and password in an address."""
TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz)$", re.IGNORECASE)
"""Ends of the names of tar files, compressed ones too."""
SEQUENCE = re.compile(r"%0?\d*d")
"""The place of the number in the name of an image sequence, such as frame_%04d.png."""
ZARR = (".zattrs", ".zgroup", ".zarray", "zarr.json")
"""Files that make a folder a zarr store."""


class Item(NamedTuple):
    """One image, raster or video: the name of its results, without suffix, and where its bytes are.

    A source that is text is an address for PyAV: a video file, a sequence, a camera or a stream.
    """

    name: str
    source: Source | str

    @property
    def is_video(self) -> bool:
        return isinstance(self.source, str)

    @property
    def path(self) -> Path | None:
        """The file, if it is one of its own."""
        return self.source if isinstance(self.source, Path) else None

    @property
    def place(self) -> Path | None:
        """The file on disk that holds it: its own, or its archive's; None for cameras, streams and cells of tables."""
        if isinstance(self.source, str):
            return Path(self.source) if not STREAM.fullmatch(self.source) else None
        return self.source if isinstance(self.source, Path) else getattr(self.source, "archive", None)

    @property
    def changed(self) -> int | None:
        """When the file was last written to [ns], of an image sequence the last of its files; None if unknown."""
        place = self.place
        files = [] if place is None else [place] if place.exists() else sequence_files(place)
        return max((each.stat().st_mtime_ns for each in files), default=None)

    @property
    def size(self) -> int | None:
        """Bytes of the file; None where that is unknown."""
        if isinstance(self.source, str):
            files = [Path(self.source)] if os.path.isfile(self.source) else sequence_files(Path(self.source))
            return sum(each.stat().st_size for each in files) if files else None
        if isinstance(self.source, Path):
            return self.source.stat().st_size if self.source.is_file() else None
        return int(getattr(self.source, "size", 0)) or None

    def __str__(self) -> str:
        # without the password of a camera
        return CREDENTIALS.sub("", str(self.source))


def find_items(
    given: Sequence[str | Path], *, leave_out: Sequence[Path] = (), layout: tuple[str, str] = ("images", "labels")
) -> tuple[list[Item], list[str]]:
    """Items of several sources in order, and notes on what was understood.

    A source is a file, a folder with its subfolders, a pattern (`*`, `?`, `[…]`, `**`), a text file with a path per
    line, a zip or tar file, a video, an image sequence (`frame_%04d.png`), the number of a camera or the address of a
    stream. Of a data set with the folders of `layout` only the images are taken. Folders and files in `leave_out`,
    results of an earlier run, are not searched.

    Raises:
        ValueError: A source does not exist or holds no file.
    """
    items: list[tuple[str, Source | str]] = []
    notes: list[str] = []
    alone = [str(each) for each in given if os.path.isfile(each)]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(each)) for each in alone]) if alone else ""
    for each in map(str, given):
        path = Path(each)
        if path.is_file() and path.suffix.lower() != ".txt":
            found = _in_file(path, os.path.relpath(os.path.abspath(path), common))
        elif path.is_file():
            found = _listed(path)
        elif path.is_dir():
            found = _in_folder(path, leave_out, notes, layout)
        elif STREAM.fullmatch(each):
            address = CREDENTIALS.sub("", each).partition("://")[2]
            name = f"camera{each}" if each.isdecimal() else re.sub(r"[^\w-]+", "_", address).strip("_") or "stream"
            found = [(name, f"/dev/video{each}" if each.isdecimal() else each)]
        elif SEQUENCE.search(path.name):
            found = _sequence(path)
        elif glob.has_magic(each):
            matches = [Path(match) for match in sorted(glob.glob(each, recursive=True))]
            paths = _without(leave_out, [match for match in matches if match.is_file() or _is_zarr(match)])
            root = os.path.join("", *itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
            if ".." in path.relative_to(root).parts and paths:
                root = os.path.commonpath([os.path.abspath(match.parent) for match in paths])
            found = [entry for match in paths for entry in _in_file(match, os.path.relpath(match, root or "."))]
        else:
            raise ValueError(f"there is no image or folder {each!r}")
        if not found:
            raise ValueError(f"{each!r} holds no files")
        items += found
    names = unique_names([name for name, _ in items])
    return [Item(name, source) for name, (_, source) in zip(names, items, strict=True)], notes


def unique_names(paths: Sequence[str]) -> list[str]:
    """Names of results, without suffix, different for all of `paths`; upper and lower case are alike.

    Files that differ in suffix only, such as a.jpg and a.png, keep their suffixes, and equal paths get a number.
    """
    stems = [str(Path(path).with_suffix("")) if Path(path).suffix else path for path in paths]
    taken = Counter(stem.casefold() for stem in stems)
    # frames of a video have a folder of its name, where there may be images
    folders = {str(parent).casefold() for path in paths for parent in PurePosixPath(path).parents}
    taken.update(s.casefold() for p, s in zip(paths, stems, strict=True) if _is_video(p) and s.casefold() in folders)
    names = [path if taken[stem.casefold()] > 1 else stem for path, stem in zip(paths, stems, strict=True)]
    # a stem may be another file's whole name: a.png.jpg beside a.png
    if len({name.casefold() for name in names}) < len(names):
        names = [*paths]
    given, seen = {name.casefold() for name in names}, set[str]()
    numbers: Counter[str] = Counter()
    for place, name in enumerate(names):
        unique = name
        while unique.casefold() in seen or (unique != name and unique.casefold() in given):
            numbers[name.casefold()] += 1
            unique = f"{name}-{numbers[name.casefold()] + 1}"
        seen.add(unique.casefold())
        names[place] = unique
    return names


def _is_video(path: str | Path) -> bool:
    return Path(path).suffix.lower() in VIDEOS


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ZARR)


def _without(left_out: Sequence[Path], paths: Sequence[Path]) -> list[Path]:
    """The paths that lie neither in the files and folders `left_out` nor behind links to these."""
    # realpath, since resolve refuses links in a circle
    results = {Path(os.path.realpath(each)) for each in left_out}
    real = ((path, Path(os.path.realpath(path))) for path in paths)
    return [path for path, place in real if results.isdisjoint({place, *place.parents})]


def _in_file(path: Path, name: str) -> list[tuple[str, Source | str]]:
    """The image, video or members of a file."""
    suffix = path.suffix.lower()
    if _is_video(path):
        return [(name, str(path))]
    # of compressed tar files the reader says what helps
    if suffix != ".zip" and not TAR.search(path.name):
        return [(name, path)]
    members: Mapping[str, Source] = open_zip(path).members if suffix == ".zip" else tar_members(path)
    suffixes = Image.registered_extensions()
    # archives hold labels and texts beside images: only names of images count
    names = [name for name in sorted(members) if PurePosixPath(name).suffix.lower() in suffixes and not is_hidden(name)]
    # WebDataset's 000.seg.png beside 000.jpg is the label of a sample
    keys = {name[: -len(PurePosixPath(name).suffix)] for name in names}
    return [(name, members[name]) for name in names if not _is_label(PurePosixPath(name), keys)]


def _is_label(name: PurePosixPath, keys: Collection[str]) -> bool:
    """Whether a member has further parts in its name than an image of the same key."""
    key = name.with_name(name.name.partition(".")[0])
    return len(name.suffixes) > 1 and str(key) in keys


def _listed(path: Path) -> list[tuple[str, Source | str]]:
    """The files in a text file, a path per line, relative to its folder."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8 ({error}); save it as a list of paths") from error
    paths = [path.parent / line for line in lines if line and not line.startswith("#")]
    # a broken link fails later; reading a pipe would never end
    missing = [str(p) for p in paths if not (p.is_file() or p.is_dir() or (p.is_symlink() and not p.exists()))]
    if missing or not paths:
        raise ValueError(
            f"{str(path)!r} lists {len(missing)} of {len(paths)} files that do not exist or are none, first "
            f"{missing[0] if missing else None!r}; give a path per line, relative to the list"
        )
    root = os.path.commonpath([os.path.abspath(each.parent) for each in paths])
    return [entry for each in paths for entry in _in_file(each, os.path.relpath(os.path.abspath(each), root))]


def _in_folder(
    folder: Path, leave_out: Sequence[Path], notes: list[str], layout: tuple[str, str]
) -> list[tuple[str, Source | str]]:
    """Files below a folder; a zarr store is one raster, and a data set's labels are left out."""
    if _is_zarr(folder):
        return [(os.path.basename(os.path.abspath(folder)) or "zarr", folder)]
    images, labels = layout
    if (folder / images).is_dir() and ((folder / labels).is_dir() or (folder / "classes.json").is_file()):
        notes.append(f"{folder} is a data set; its {images}/ are segmented, its {labels}/ are not")
        folder = folder / images
    paths = paths_below(folder, broken=True)
    # results of other runs
    runs = {path.parent for path in paths if path.name == "manifest.jsonl"}
    others = [run / name for run in runs for name in FOLDERS] + [
        each for run in runs for name in FILES for each in run.glob(name)
    ]
    paths = _without([*leave_out, *others], paths)
    found: list[tuple[str, Source | str]] = []
    stores: set[Path] = set()
    for path in paths:
        # the files of a zarr store are its chunks
        store = next((each for each in path.parents if each.suffix == ".zarr" and each.is_relative_to(folder)), None)
        if store is None:
            name = path.relative_to(folder)
            found += [(str(name), str(path))] if _is_video(path) else [(str(name), path)]
        elif store not in stores:
            stores.add(store)
            found.append((str(store.relative_to(folder)), store))
    return found


def sequence_files(path: Path) -> list[Path]:
    """The images of a sequence such as frame_%04d.png by their numbers; gaps are allowed."""
    place = SEQUENCE.search(path.name)
    if place is None:
        return []
    before, after = path.name[: place.start()], path.name[place.end() :]
    numbered = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = [(int(match[1]), each) for each in path.parent.glob("*") if (match := numbered.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def _sequence(path: Path) -> list[tuple[str, Source | str]]:
    """An image sequence as one video."""
    name = SEQUENCE.sub("", path.name).removesuffix(path.suffix).strip("_-. ") or "sequence"
    return [(name, str(path))] if sequence_files(path) else []
