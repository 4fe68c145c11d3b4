"""A fingerprint of a split: scores of two models can be compared when it is the same."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from semask.data.dataset import classes_of
from semask.data.pairs import Pair, find_pairs
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe


def digest_split(data: DataRecipe, split: str) -> str:
    """Return the SHA-256 of all bytes of a split's pictures and labels, its stems, and the class table.

    Where files lie, and in what kind of storage, does not matter; a picture that was compressed anew is another one.
    """
    total = hashlib.sha256(json.dumps(classes_of(data).to_dict(), sort_keys=True).encode())
    if data.kind == "scenes":
        total.update(f"scenes {data.scene_count} {data.scene_size}".encode())
        return total.hexdigest()
    with ThreadPoolExecutor(8) as pool:
        for line in pool.map(_line, find_pairs(data, split)):
            total.update(line)
    return total.hexdigest()


def _line(pair: Pair) -> bytes:
    # File names may hold bytes that are no text.
    return f"{pair.stem}\0{_digest(pair.image)}\0{_digest(pair.label)}\n".encode("utf-8", "surrogatepass")


def _digest(source: Source) -> str:
    with source.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
