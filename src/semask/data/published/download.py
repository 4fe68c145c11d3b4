"""Downloads: zip or tar files, or folders they were unpacked to, opened without trust in their names and sizes.

Nothing is unpacked to the paths in an archive: members are read, and the files made of them get names of our own.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from semask.data.readers.archives import TarMember, ZipMember, compression, open_zip, tar_members
from semask.data.readers.source import Source, is_hidden
from semask.data.readers.tree import paths_below
from semask.files import atomic_write

MAX_TOTAL = 2**40
"""The largest sum of sizes [bytes] that an archive may declare."""
MAX_RATIO = 200
"""Factor by which an archive may grow when unpacked; label images shrink by less than a hundred."""
CHUNK = 2**20
DECOMPRESSORS = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}


def open_download(path: Path, *, scratch: Path) -> dict[str, Source]:
    """Return the files in an archive, or below a folder, by their paths, which begin with the folder's own name.

    A JSON file, as labels are published too, is its own content. A compressed tar file is decompressed to the folder
    `scratch` first, unless that was done before.

    Raises:
        ValueError: there is nothing, it is no archive or damaged, a name leads out of it, it holds links or devices, or
            it would grow too large.
    """
    if path.is_dir():
        # for leftImg8bit_trainvaltest.zip, someone may give the folder leftImg8bit
        name = path.resolve().name
        return {f"{name}/{file.relative_to(path).as_posix()}": file for file in paths_below(path)}
    if not path.is_file():
        raise ValueError(f"there is no download {str(path)!r}; give archives, or folders they were unpacked to")
    if path.suffix.lower() == ".json":
        return {path.name: path}
    members: Mapping[str, ZipMember] | Mapping[str, TarMember] = (
        open_zip(path).members if zipfile.is_zipfile(path) else tar_members(_decompress(path, scratch))
    )
    total, size = sum(member.size for member in members.values()), path.stat().st_size
    if total > min(MAX_TOTAL, MAX_RATIO * max(size, CHUNK)):
        raise ValueError(
            f"{path} of {size} bytes declares {total} bytes of content; an archive may grow {MAX_RATIO} times, to "
            f"{MAX_TOTAL} bytes at most. Fetch it again from its publisher, or unpack it yourself"
        )
    for name in (member.stored for member in members.values()):
        # names that lead out of the archive, on any system
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
            raise ValueError(
                f"{path} holds {name!r}, which leads out of the archive; fetch it again from its publisher"
            )
    return {name: member for name, member in members.items() if not is_hidden(name)}


def _decompress(path: Path, scratch: Path) -> Path:
    """Return a tar file as it is, or decompressed into the folder."""
    packed = compression(path)
    if packed is None:
        return path
    if packed not in DECOMPRESSORS:
        raise ValueError(f"{path}: compressed with {packed}, which is not supported; unpack it and give the folder")
    # not by the name alone: a file that was fetched again, or lies elsewhere, is another archive
    state = path.stat()
    version = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "surrogatepass")
    target = scratch / f"{path.name}.{hashlib.sha256(version).hexdigest()[:16]}.tar"
    if target.is_file():
        return target
    limit = MAX_RATIO * max(state.st_size, CHUNK)
    try:
        with DECOMPRESSORS[packed](path) as file, atomic_write(target) as part, part.open("wb") as out:
            while chunk := file.read(CHUNK):
                if out.tell() + len(chunk) > limit:
                    raise ValueError(
                        f"{path}: grows more than {MAX_RATIO} times; fetch it again from its publisher, or unpack it "
                        "yourself and give the folder"
                    )
                out.write(chunk)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, for example
        raise ValueError(f"{path}: cut short or damaged ({error}); fetch it again") from error
    return target
