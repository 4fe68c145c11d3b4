"""WebDataset shards: tar files in which files of one name but for the suffix make up a sample.

`000017.jpg` and `000017.seg.png` are one image with its label. The shards are read in place, by an index of their
members that is made once, so that a draw number means the same image as with files, and resuming and scoring stay
exact. Training shards may differ from machine to machine, each of which draws from its own ones: no shared disk is
needed. Validation shards must be the same everywhere.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from semask.data.readers.archives import TarMember, tar_members
from semask.data.readers.image import SUFFIXES
from semask.data.readers.source import Source, is_hidden
from semask.recipes.recipe import DataRecipe

LABELS = (".seg.png", ".label.png", ".mask.png", ".png")
"""Endings of labels after the key; .png alone is one only beside an image of another kind."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SHOWN = 5


def shard_samples(data: DataRecipe, root: Path, split: str) -> dict[str, tuple[Source, Source]]:
    """Return the image and label of every sample in a split's shards by its key.

    Raises:
        ValueError: shards are missing or cannot be read, samples are incomplete, or two samples or files share a name.
    """
    found: dict[str, tuple[Source, Source]] = {}
    for shard in find_shards(root, data.images, split):
        samples: dict[str, dict[str, TarMember]] = {}
        for path, member in tar_members(shard).items():
            # WebDataset's keys end at the first dot of the name
            stem, dot, suffix = PurePosixPath(path).name.partition(".")
            if dot and not is_hidden(path):
                key = normalize("NFC", (PurePosixPath(path).parent / stem).as_posix())
                first = samples.setdefault(key, {}).setdefault(f".{suffix.lower()}", member)
                if first is not member:
                    raise ValueError(f"two files of the key {key!r} have one suffix: {first} and {member}; remove one")
        for key, members in samples.items():
            if key in found:
                raise ValueError(f"two samples have the key {key!r}: {found[key][0]} and one in {shard}; rename one")
            found[key] = _image_and_label(shard, key, members)
    if not found:
        raise ValueError(f"the {split!r} split is empty: no sample in its shards{expected_shards(root)}")
    return found


def find_shards(root: Path, pattern: str, split: str) -> list[Path]:
    """Return the shards of a pattern, `{split}-{000000..000146}.tar` or `{split}-*.tar`, in order."""
    if "{split}" not in pattern or not pattern.endswith(".tar"):
        raise ValueError(f"data.images {pattern!r} names no shards of a split{expected_shards(root)}")
    # a number in curly brackets is not a format: only {split} is replaced
    names = _expand_ranges(pattern.replace("{split}", split))
    shards = [path for name in names for path in sorted(root.glob(name) if glob.has_magic(name) else [root / name])]
    shards = [path for path in shards if not is_hidden(path.relative_to(root).as_posix())]
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        what = f"{len(missing)} shards are missing: {', '.join(missing[:SHOWN])}" if missing else "no shard"
        raise ValueError(f"{what} of the {split!r} split by data.images {pattern!r}{expected_shards(root)}")
    return shards


def expected_shards(root: Path | str) -> str:
    """Return the layout of shards, for messages."""
    return (
        f"\nexpected below {root}, by --data.images '{{split}}-{{000000..000003}}.tar' or '{{split}}-*.tar':\n"
        "  train-000000.tar … with KEY.jpg and KEY.seg.png (or .label.png, .mask.png) for every sample\n"
        "  val-000000.tar …"
    )


def _expand_ranges(pattern: str) -> list[str]:
    """Write out the first range of numbers in a pattern, and then the next."""
    span = RANGE.search(pattern)
    if span is None:
        return [pattern]
    first, last = span.groups()
    if int(last) - int(first) not in range(100_000):
        raise ValueError(f"data.images: {span[0]} is no range of shards; write the smaller number first, up to 100000")
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    before, after = pattern[: span.start()], pattern[span.end() :]
    return [name for number in numbers for name in _expand_ranges(before + number + after)]


def _image_and_label(shard: Path, key: str, members: dict[str, TarMember]) -> tuple[Source, Source]:
    images = [suffix for suffix in members if suffix in SUFFIXES]
    # a .png beside another image is the label, unless there is a label of its own ending
    if len(images) > 1 and ".png" in images and not any(suffix in members for suffix in LABELS[:-1]):
        images.remove(".png")
    labels = [suffix for suffix in LABELS if suffix in members and suffix not in images]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{shard}: sample {key!r} has {', '.join(members)}; expected are one image ({', '.join(SUFFIXES)}) and one "
            f"label ({', '.join(LABELS[:-1])}, or .png beside an image of another kind)"
        )
    return members[images[0]], members[labels[0]]
