"""Opening what was downloaded: a zip or tar file, or a folder it was unpacked to, without trusting what it says.

Nothing is unpacked to where an archive wants it: members are read, and what becomes of them is named by us.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from semask.data.readers.source import Source
from semask.data.readers.tar_file import packing, tar_members
from semask.data.readers.tree import paths_below
from semask.data.readers.zip_file import open_zip
from semask.files import atomic_write

MAX_TOTAL = 2**40
"""The largest sum of sizes [bytes] that an archive may declare."""
MAX_RATIO = 200
"""Times an archive may grow when unpacked; label images shrink by less than a hundred."""
CHUNK = 2**20
PACKED = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
"""What reads each kind of compressed file."""


def open_download(path: Path, *, scratch: Path) -> dict[str, Source]:
    """Return the files in an archive, or below a folder, by their paths, which begin with the folder's own name.

    A JSON file, as labels are published too, stands for itself. A compressed tar file is decompressed to a folder,
    `scratch`, first, unless that was done before.

    Raises:
        ValueError: there is nothing, it is no archive or damaged, a name leads out of it, it holds links or devices, or
            it would grow too large.
    """
    if path.is_dir():
        # Of leftImg8bit_trainvaltest.zip, someone may give the folder leftImg8bit.
        name = path.resolve().name
        return {f"{name}/{file.relative_to(path).as_posix()}": file for file in paths_below(path)}
    if path.is_file() and path.suffix.lower() == ".json":
        return {path.name: path}
    if not path.is_file():
        raise ValueError(f"there is no download {str(path)!r}; give archives, or folders they were unpacked to")
    members: dict[str, Source] = {}
    if zipfile.is_zipfile(path):
        zipped = open_zip(path).members
        sizes = [member.size for member in zipped.values()]
        members.update(zipped)
    else:
        tar = tar_members(_decompressed(path, scratch))
        sizes = [member.size for member in tar.values()]
        members.update(tar)
    if sum(sizes) > min(MAX_TOTAL, MAX_RATIO * max(path.stat().st_size, CHUNK)):
        raise ValueError(
            f"{path} of {path.stat().st_size} bytes declares {sum(sizes)} bytes of content; an archive may grow "
            f"{MAX_RATIO} times, to {MAX_TOTAL} bytes at most. Fetch it again from its publisher, or unpack it yourself"
        )
    for name in members:
        _refuse_name(path, name)
    return members


def _refuse_name(path: Path, name: str) -> None:
    """Refuse a member whose name leads out of the archive, on any system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        raise ValueError(f"{path} holds {name!r}, which leads out of the archive; fetch it again from its publisher")


def _decompressed(path: Path, scratch: Path) -> Path:
    """Return a tar file as it is, or decompressed into the folder."""
    packed = packing(path)
    if packed is None:
        return path
    if packed not in PACKED:
        raise ValueError(f"{path}: packed with {packed}, which is not read here; unpack it and give the folder")
    # Not by its name alone: what was fetched again, or lies elsewhere, is another archive.
    state = path.stat()
    version = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "surrogatepass")
    target = scratch / f"{path.name}.{hashlib.sha256(version).hexdigest()[:16]}.tar"
    if not target.is_file():
        limit = MAX_RATIO * max(state.st_size, CHUNK)
        with atomic_write(target) as part, part.open("wb") as out:
            for chunk in _chunks(path, packed):
                if out.tell() + len(chunk) > limit:
                    raise ValueError(
                        f"{path}: grows more than {MAX_RATIO} times; fetch it again from its publisher, or unpack it "
                        "yourself and give the folder"
                    )
                out.write(chunk)
    return target


def _chunks(path: Path, packed: str) -> Iterator[bytes]:
    try:
        with PACKED[packed](path) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cut short or damaged ({error}); fetch it again") from error
