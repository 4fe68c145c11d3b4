"""The scan of a data set: every file is read once, in threads, unless an earlier run measured it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from semask.data.checks.cache import StatsCache
from semask.data.checks.file_stats import (
    ImageStats,
    LabelStats,
    PairStats,
    ReadFailure,
    StoredRange,
    measure_image,
    measure_label,
)
from semask.data.pairs import Pair
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe
from semask.text import Progress

MAX_WORKERS = 8


def scan(
    pairs: Sequence[Pair], data: DataRecipe, *, thorough: bool, workers: int | None = None, progress: bool = False
) -> list[PairStats]:
    """Return the statistics of every pair, in order.

    A quick scan probes images, and trusts the statistics of a file whose path, size and time of change an earlier run
    saw. A `thorough` one decodes images whole and recognises files by their content alone. `workers` None takes one
    thread per CPU core, at most eight.
    """
    with StatsCache() as cache, ThreadPoolExecutor(workers or min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(scan_pair, data=data, cache=cache, thorough=thorough), pairs)
        try:
            with Progress("checking files", len(pairs), quiet=not progress) as bar:
                return list(bar.track(found))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def scan_pair(pair: Pair, data: DataRecipe, cache: StatsCache, *, thorough: bool) -> PairStats:
    """Return the statistics of one pair, or why a file could not be read."""
    probed, decoded = (f"{kind} of {data.channels} channels in {data.value_range}" for kind in ("probe", "pixels"))
    # statistics of decoded pixels serve a quick scan, too
    image_digest, image = measure_file(
        pair.image,
        cache,
        [decoded] if thorough else [decoded, probed],
        lambda source: measure_image(source, data, thorough=thorough),
        trust_stamp=not thorough,
    )
    label_digest, label = measure_file(pair.label, cache, ["label"], measure_label, trust_stamp=not thorough)
    assert isinstance(image, ImageStats | ReadFailure)
    assert isinstance(label, LabelStats | ReadFailure)
    return PairStats(image, label, image_digest, label_digest)


def measure_file(
    source: Source,
    cache: StatsCache,
    kinds: Sequence[str],
    measure: Callable[[Source], ImageStats | LabelStats | StoredRange],
    *,
    trust_stamp: bool,
) -> tuple[str, ImageStats | LabelStats | StoredRange | ReadFailure]:
    """Return the digest and statistics of a file, from the cache where it has them under one of the kinds."""
    digest = ""
    try:
        # known content is not measured again
        digest = cache.digest(source, trust_stamp=trust_stamp)
        known = next((stats for kind in kinds if (stats := cache.get(kind, digest)) is not None), None)
        if known is not None:
            return digest, known
        found = measure(source)
    except FileNotFoundError:
        return digest, ReadFailure("no such file")
    except (OSError, ValueError) as error:
        return digest, ReadFailure(str(error).removeprefix(f"{source}: "))
    cache.put(kinds[-1], digest, found)
    return digest, found
