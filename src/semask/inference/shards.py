"""Results as tar files for WebDataset, which object stores and training pipelines read in sequence."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from semask.files import atomic_write
from semask.inference.manifest import Manifest
from semask.inference.sinks import FOLDERS, SUBMISSION, UNFINISHED, item_files
from semask.recipes.prediction import Shard

PACKED = tuple(name for name in FOLDERS if name not in (SUBMISSION, "shards", UNFINISHED))
TIMES = ("seconds", "changed", "finished")
"""What a line has of time."""


def write_shards(out: Path, shard: Shard, manifest: Manifest, names: Sequence[str], count: int) -> None:
    """Pack the results of every `count` finished items into OUT/shards/NNNNNN.tar, in the order of their names.

    An item's files begin with its key, its name with %2E for dots, which end keys: KEY.predictions.png,
    KEY.overlays.jpg, …, and KEY.json, its line without times. Stores and the frames of videos are left out. The same
    results give the same bytes; files of an earlier, other packing are removed.
    """
    done = sorted(name for name in names if name in manifest.lines and manifest.lines[name].error is None)
    start = "" if shard.total == 1 else f"{shard.number}-of-{shard.total}-"
    for path in (out / "shards").glob(f"{start}[0-9]*.tar"):
        number = path.stem.removeprefix(start)
        if number.isdecimal() and int(number) * count >= len(done):
            path.unlink()
    for first in range(0, len(done), count):
        with (
            atomic_write(out / "shards" / f"{start}{first // count:06d}.tar") as part,
            tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for line in manifest.read(done[first : first + count]):
                key = line.item.replace("%", "%25").replace(".", "%2E")
                for path in item_files(out, line.item, PACKED):
                    if path.is_file():
                        _add(archive, f"{key}.{path.relative_to(out).parts[0]}{path.suffix}", path.read_bytes())
                values = {name: value for name, value in line._asdict().items() if name not in TIMES}
                text = json.dumps(values, ensure_ascii=False, sort_keys=True)
                _add(archive, f"{key}.json", text.encode("utf-8", "backslashreplace"))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # neither times nor owners
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
