"""Reading straight out of zip files.

The list of members is read once; after that a member is a stretch of the file, which any process or thread reads for
itself, as cheaply as a file of its own.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from semask.data.readers.source import Member, Unreadable

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, then the lengths of name and extra field, which the data follow."""
ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A file in a zip file: where its header begins, its size as stored and unpacked [bytes], and its checksum."""

    offset: int
    stored: int
    size: int
    checksum: int
    deflated: bool

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the unpacked content; `Unreadable` tells a size that is too large or not what was declared."""
        self.refuse_large(self.size, stored=self.stored)
        with self.archive.open(mode) as file:
            file.seek(self.offset)
            header = file.read(LOCAL_HEADER.size)
            if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
                raise Unreadable(f"{self}: the archive is damaged, or was changed while in use; restore it")
            _, name_length, extra_length = LOCAL_HEADER.unpack(header)
            file.seek(name_length + extra_length, 1)
            content = file.read(self.stored)
        return BytesIO(self._unpack(content))

    def _unpack(self, content: bytes) -> bytes:
        """Unpack to the declared size and one byte more at most, so that no content grows beyond what it declares."""
        if self.deflated:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
            except zlib.error as error:
                raise Unreadable(f"{self}: damaged in the archive ({error}); restore the archive") from error
        if len(content) != self.size or zlib.crc32(content) != self.checksum:
            raise Unreadable(f"{self}: its content is not of the size and checksum it declares; restore the archive")
        return content


class ZipTree(NamedTuple):
    """The files and folders in a zip file by their paths; `top` is the one folder that all is in, or empty."""

    members: dict[str, ZipMember]
    folders: frozenset[str]
    top: str

    def place(self, path: str) -> str:
        """Return a path as it is in the archive, where all may lie below one folder."""
        inside = f"{self.top}/{path}" if path and self.top else path
        return inside if path not in self.folders and path not in self.members else path

    def below(self, folder: str) -> Iterator[tuple[str, ZipMember]]:
        """Yield the files below a folder as the archive has it, with their paths from there."""
        start = f"{folder}/" if folder else ""
        for path, member in self.members.items():
            if path.startswith(start):
                yield path.removeprefix(start), member


def open_zip(path: Path) -> ZipTree:
    """Read the list of a zip file's members; a ValueError tells what is no zip file or cannot be read."""
    state = path.stat()
    return _tree(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _tree(path: Path, _changed: int, _size: int) -> ZipTree:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path}: no readable zip file ({error}); fetch it again") from error
    members = {info.filename: _member(path, info) for info in sorted(infos, key=lambda info: info.filename)}
    parents = (parent for name in members for parent in PurePosixPath(name).parents)
    folders = frozenset("" if str(parent) == "." else str(parent) for parent in parents)
    tops = {name.partition("/")[0] for name in members if not name.startswith(("__MACOSX/", "."))}
    top = tops.pop() if len(tops) == 1 else ""
    return ZipTree(members, folders, top if top in folders else "")


def _member(path: Path, info: zipfile.ZipInfo) -> ZipMember:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{path}/{info.filename} is a link; archives of plain files are read")
    if info.header_offset < 0:
        raise ValueError(f"{path}/{info.filename} lies before the archive's beginning; fetch the archive again")
    if info.flag_bits & ENCRYPTED:
        raise ValueError(f"{path}/{info.filename} is encrypted; unpack the archive")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{path}/{info.filename} is packed by a method that is not read here (number {info.compress_type}); "
            "unpack the archive, or make it with `zip`"
        )
    return ZipMember(
        archive=path,
        member=info.filename,
        offset=info.header_offset,
        stored=info.compress_size,
        size=info.file_size,
        checksum=info.CRC,
        deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    )
