"""Results as tar files for WebDataset, which object stores and training pipelines read in sequence."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from semask.files import atomic_write
from semask.inference.manifest import Line
from semask.inference.sinks import FOLDERS, SUBMISSION
from semask.recipes.prediction import Shard


def write_shards(out: Path, shard: Shard, lines: Sequence[Line], count: int) -> None:
    """Pack the results of every `count` finished items into OUT/shards/NNNNNN.tar, in the order of their names.

    An item's files begin with its key, its name with _ for dots: KEY.predictions.png, KEY.overlays.jpg, …, and
    KEY.json, its line without the time. The same results give the same bytes.
    """
    done = sorted((line for line in lines if line.error is None), key=lambda line: line.item)
    start = "" if shard.total == 1 else f"{shard.number}-of-{shard.total}-"
    for first in range(0, len(done), count):
        with (
            atomic_write(out / "shards" / f"{start}{first // count:06d}.tar") as part,
            tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for line in done[first : first + count]:
                key = line.item.replace(".", "_")
                for path in _files(out, line.item):
                    _add(archive, f"{key}.{path.relative_to(out).parts[0]}{path.suffix}", path.read_bytes())
                values = line._asdict() | {"seconds": 0}
                _add(archive, f"{key}.json", json.dumps(values, ensure_ascii=False, sort_keys=True).encode())


def _files(out: Path, item: str) -> list[Path]:
    """The files of an item in all folders of results."""
    folders = [out / name for name in FOLDERS if name not in (SUBMISSION, "shards", ".unfinished")]
    return [
        path
        for folder in folders
        if (place := (folder / item).parent).is_dir()
        for path in sorted(place.iterdir())
        if path.stem == Path(item).name and path.is_file()
    ]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # neither times nor owners
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
