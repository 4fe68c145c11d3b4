"""Members of zip and tar files, read in place.

The list of members is read once per archive and version of it; any process or thread then reads a member as cheaply as
a file of its own.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from semask.data.readers.source import MAX_BYTES, Unreadable, is_hidden

ENCRYPTED = 0x1
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of compressed files."""
MAX_TARS = 4096
"""Archives whose lists of members are kept; a large dataset has hundreds of shards."""
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError),
    *(RuntimeError, NotImplementedError, OverflowError),
)
"""Exceptions of zipfile on broken bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its path there, its unpacked size [bytes], and its name as the archive stores it."""

    archive: Path
    member: str
    size: int
    stored: str

    @property
    def name(self) -> str:
        """The name of the file, without its folders."""
        return PurePosixPath(self.member).name

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    def _checked(self, content: bytes) -> BinaryIO:
        if len(content) != self.size:
            raise Unreadable(f"{self}: the archive is cut short, damaged or was changed; restore it")
        return BytesIO(content)

    def _refuse_large(self) -> None:
        if self.size > MAX_BYTES:
            raise Unreadable(
                f"{self}: {self.size} bytes, more than the {MAX_BYTES} that are read out of an archive; unpack the file"
            )


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A file in a zip file."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the unpacked content.

        Raises:
            Unreadable: it is too large, damaged, or of another size than declared.
        """
        self._refuse_large()
        state = self.archive.stat()
        try:
            with _zip_file(self.archive, state.st_mtime_ns, state.st_size, os.getpid()).open(self.stored) as file:
                # a bound, without which zipfile inflates everything before it compares sizes
                content = file.read(self.size + 1)
        except ZIP_ERRORS as error:
            raise Unreadable(f"{self}: damaged in the archive ({error}); restore the archive") from error
        return self._checked(content)


def member_path(stored: str) -> str:
    """Return the path that a name in an archive means: Windows writes backslashes, and `tar -c .` begins with "./"."""
    return "/".join(part for part in stored.replace("\\", "/").split("/") if part not in ("", "."))


def _refuse_twin(archive: Path, first: Member | None, stored: str) -> None:
    """Refuse a second file of one path: which of them is meant is unknown."""
    if first is not None:
        names = " and ".join(dict.fromkeys(map(repr, (first.stored, stored))))
        raise ValueError(f"{archive} holds two files of one path, {names}; make it again with one of them")


class ZipTree(NamedTuple):
    """Files and folders in a zip file by their paths; `top` is the one folder that holds everything, or empty."""

    members: dict[str, ZipMember]
    folders: frozenset[str]
    top: str

    def locate(self, path: str) -> str:
        """Return a path as it is in the archive, where everything may lie below one folder."""
        inside = f"{self.top}/{path}" if path and self.top else path
        return inside if path not in self.folders and path not in self.members else path

    def below(self, folder: str) -> Iterator[tuple[str, ZipMember]]:
        """Yield the files below a folder of the archive, with their paths from there."""
        start = f"{folder}/" if folder else ""
        for path, member in self.members.items():
            if path.startswith(start):
                yield path.removeprefix(start), member


def open_zip(path: Path) -> ZipTree:
    """Read the list of a zip file's members.

    Raises:
        ValueError: it is no zip file, or holds links, encrypted members, unknown compressions or two files of a name.
    """
    state = path.stat()
    return _zip_tree(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _zip_file(path: Path, _changed: int, _size: int, _process: int) -> zipfile.ZipFile:
    """Return an open zip file: one for each process, since forked ones would share its position."""
    return zipfile.ZipFile(path)


@lru_cache(maxsize=8)
def _zip_tree(path: Path, changed: int, size: int) -> ZipTree:
    try:
        archive = _zip_file(path, changed, size, os.getpid())
        # Windows writes folders as "images\\"
        infos = [info for info in archive.infolist() if not info.filename.endswith(("/", "\\"))]
    except ZIP_ERRORS as error:
        raise ValueError(f"{path}: no readable zip file ({error}); fetch it again") from error
    for info in infos:
        reason = ""
        if stat.S_ISLNK(info.external_attr >> 16):
            reason = "is a link; archives of plain files are read"
        elif info.header_offset < 0:
            reason = "lies before the archive's beginning; fetch the archive again"
        elif info.flag_bits & ENCRYPTED:
            reason = "is encrypted; unpack the archive"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = f"is compressed by method {info.compress_type}; unpack the archive, or make it with `zip`"
        if reason:
            raise ValueError(f"{path}/{info.filename} {reason}")
    members: dict[str, ZipMember] = {}
    for name, info in sorted(((member_path(i.filename), i) for i in infos), key=lambda entry: entry[0]):
        _refuse_twin(path, members.get(name), info.filename)
        members[name] = ZipMember(path, name, info.file_size, info.filename)
    # zip files may leave out the entries of folders
    parents = (parent for name in members for parent in PurePosixPath(name).parents)
    folders = frozenset("" if str(parent) == "." else str(parent) for parent in parents)
    # the one folder above everything, but for hidden files
    tops = {name.partition("/")[0] for name in members if not is_hidden(name)}
    top = tops.pop() if len(tops) == 1 else ""
    return ZipTree(members, folders, top if top in folders else "")


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """A file in an uncompressed tar file, with the position of its content."""

    offset: int

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the content.

        Raises:
            Unreadable: it is too large, or the archive is cut short.
        """
        self._refuse_large()
        with self.archive.open(mode) as file:
            file.seek(self.offset)
            return self._checked(file.read(self.size))


def tar_members(path: Path) -> dict[str, TarMember]:
    """Return the files in a tar file by their paths, in its order.

    Raises:
        ValueError: the file is no tar file, is compressed or cut short, or holds links, devices or two files of a name.
    """
    state = path.stat()
    return _tar_members(path, state.st_mtime_ns, state.st_size)


def compression(path: Path) -> str | None:
    """Return the compression of a file by its first bytes, such as "gzip"; None if there is none."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)


@lru_cache(maxsize=MAX_TARS)
def _tar_members(path: Path, _changed: int, size: int) -> dict[str, TarMember]:
    if packed := compression(path):
        raise ValueError(
            f"{path}: a tar file compressed with {packed} has no random access; decompress it once with that program. "
            "JPEG and PNG hardly shrink further"
        )
    members: dict[str, TarMember] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isreg() or info.sparse:
                    raise ValueError(
                        f"{path}/{info.name} is a link, a device or sparse; archives of plain files are read"
                    )
                name = member_path(info.name)
                _refuse_twin(path, members.get(name), info.name)
                # tarfile itself reports a cut only when it reads the content
                if info.offset_data + info.size > size:
                    raise ValueError(f"{path}: cut short at {info.name!r}; fetch it again")
                members[name] = TarMember(path, name, info.size, info.name, info.offset_data)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: no readable tar file ({error}); fetch it again") from error
    return members
