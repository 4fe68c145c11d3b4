"""Reading straight out of tar files: the list of members is read once, then each is a stretch of the file."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from semask.data.readers.source import Member, Unreadable

PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""What compressed files begin with."""
CACHED = 4096
"""Archives whose lists of members are kept; a large dataset has hundreds of shards."""


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """A file in an uncompressed tar file: where its content begins and its size [bytes]."""

    offset: int
    size: int

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the content; `Unreadable` tells a size that is too large, or an archive that is cut short."""
        self.refuse_large(self.size)
        with self.archive.open(mode) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise Unreadable(f"{self}: the archive is cut short; fetch it again")
        return BytesIO(content)


def tar_members(path: Path) -> dict[str, TarMember]:
    """Return the files in a tar file by their paths, in its order.

    Raises:
        ValueError: the file is no tar file, is compressed or cut short, or holds links, devices or two files of a name.
    """
    state = path.stat()
    return _members(path, state.st_mtime_ns, state.st_size)


def packing(path: Path) -> str | None:
    """Return how a file is compressed, by its first bytes, such as "gzip"; None if it is not."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), None)


@lru_cache(maxsize=CACHED)
def _members(path: Path, _changed: int, size: int) -> dict[str, TarMember]:
    if packed := packing(path):
        raise ValueError(
            f"{path}: a tar file packed with {packed} cannot be read here and there; unpack it once with that program. "
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
                if info.name in members:
                    raise ValueError(f"{path} holds two files called {info.name!r}; make it again")
                if info.offset_data + info.size > size:
                    raise ValueError(f"{path}: cut short at {info.name!r}; fetch it again")
                members[info.name] = TarMember(path, info.name, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: no readable tar file ({error}); fetch it again") from error
    return members
