"""Reading all files of a data set once, in threads, with what is known from earlier runs left unread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from semask.data.checks.cache import FactsStore
from semask.data.checks.file_stats import ImageFacts, LabelFacts, PairFacts, Unread, image_facts, label_facts
from semask.data.pairs import Pair
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe

MAX_WORKERS = 8


def survey(
    pairs: Sequence[Pair], data: DataRecipe, *, thorough: bool, workers: int | None = None, progress: bool = False
) -> list[PairFacts]:
    """Return the facts of every pair, in order.

    Quick, pictures are probed, and a file of the path, size and time of change that an earlier run saw is taken for
    that one. `thorough` decodes pictures whole and knows files again by their content alone. `workers` None takes one
    thread per processor, at most eight.
    """
    with FactsStore() as store, ThreadPoolExecutor(workers or min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda pair: survey_pair(pair, data, store, thorough=thorough), pairs)
        try:
            return list(_shown(found, len(pairs)) if progress else found)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def survey_pair(pair: Pair, data: DataRecipe, store: FactsStore, *, thorough: bool) -> PairFacts:
    """Return the facts of one pair; what cannot be read is a fact as well."""
    probed, decoded = (f"{kind} of {data.channels} channels in {data.value_range}" for kind in ("image", "picture"))
    image_digest, image = _known(
        pair.image,
        store,
        [decoded] if thorough else [decoded, probed],
        lambda source: image_facts(source, data, thorough=thorough),
        trust_stamp=not thorough,
    )
    label_digest, label = _known(pair.label, store, ["label"], label_facts, trust_stamp=not thorough)
    assert not isinstance(image, LabelFacts)
    assert not isinstance(label, ImageFacts)
    return PairFacts(image, label, image_digest, label_digest)


def _known(
    source: Source,
    store: FactsStore,
    kinds: Sequence[str],
    measure: Callable[[Source], ImageFacts | LabelFacts],
    *,
    trust_stamp: bool,
) -> tuple[str, ImageFacts | LabelFacts | Unread]:
    """Return the digest and the facts of a file, from the store where it knows them under one of the kinds."""
    try:
        digest = store.digest(source, trust_stamp=trust_stamp)
    except FileNotFoundError:
        return "", Unread("no such file")
    except (OSError, ValueError) as error:
        return "", Unread(_bare(error, source))
    known = next((facts for kind in kinds if (facts := store.get(kind, digest)) is not None), None)
    if known is not None:
        return digest, known
    try:
        found = measure(source)
    except ValueError as error:
        return digest, Unread(_bare(error, source))
    store.put(kinds[-1], digest, found)
    return digest, found


def _bare(error: Exception, source: Source) -> str:
    return str(error).removeprefix(f"{source}: ")


def _shown(found: Iterable[PairFacts], total: int) -> Iterator[PairFacts]:
    """Pass facts on behind a progress bar that vanishes when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(found, total=total, description="checking files")
