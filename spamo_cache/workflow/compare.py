"""Are my features theirs? Features of others against a store, and why they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamo_cache.store.compare import ClipComparison, Comparison, Rows
    from spamo_cache.store.foreign import Item
    from spamo_cache.store.reader import FeatureStore


def compare(
    features: str | Path,
    store: str | Path,
    *,
    watcher: Watcher = QUIET,
) -> Comparison:
    """Compare features of others with a store, clip by clip, and look for why they differ.

    Args:
        features: whatever ``store import`` reads: a folder, an archive, HDF5, a pickle, tensors;
            or a store by name, path or address.
        store: by name, path or address.
        watcher: is told of progress.

    Returns:
        Clips that are equal, near or different, with figures; what explains the differences, and
        everything that was tried.

    Raises:
        UsageError: no such features or store, or no clip is in both.
        StoreError: the store, or a file of many clips, cannot be read.
    """
    from spamo_cache.store import compare as numbers
    from spamo_cache.store.reader import FeatureStore

    ours = FeatureStore.open(resolve.located(str(store)))
    with _opened(features) as items:
        found = numbers.align(items, ours.select(state="ok"), ours.stream)
        if not found.pairs:
            theirs = ", ".join(item.id for item in items[:3]) or "nothing"
            raise UsageError(
                f"no clip is in both: {theirs} ... and {', '.join(list(ours.ids)[:3])} ...",
                where=features,
                remedy="check the stream and the corpus; clips are found by their ids",
            )
        clips = []
        with watcher.task("compare", ours.path.stem, "clips") as advance:
            for item, clip in found.pairs:
                clips.append(numbers.compare_clip(item, clip, ours))
                advance(len(clips), len(found.pairs))
        known = numbers.Comparison(
            features=str(features),
            store=str(ours.path),
            aligned=dict(found.rules),
            clips=clips,
            unknown=[item.id for item in found.unknown],
            missing=len(ours) - len(found.pairs),
            notes=[f"{found.spare:,} further arrays of the same clips were left out"]
            if found.spare
            else [],
        )
        return _explained(known, {clip: item for item, clip in found.pairs}, ours)


@contextmanager
def _opened(features: str | Path) -> Iterator[Sequence[Item]]:
    """Features of others, from files or a store."""
    from spamo_cache.store import foreign
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.roots import stores_in

    path = Path(features)
    is_file = "://" not in str(features) and path.suffix != ".zarr" and path.exists()
    if is_file and not (path.is_dir() and (stores_in(path) or stores_in(path.parent, path.name))):
        with foreign.opened(path) as items:
            yield items
        return
    store = FeatureStore.open(resolve.located(str(features)))
    yield [
        foreign.Item(clip, "", clip, partial(_read, store, clip))
        for clip in store.select(state="ok")
    ]


def _read(store: FeatureStore, clip: str) -> NDArray[Any]:
    return store.read([clip])[0]


def _explained(known: Comparison, items: dict[str, Item], store: FeatureStore) -> Comparison:
    """The comparison with the causes of its differences."""
    from spamo_cache.store import compare as numbers

    chosen = numbers.sample(known.clips)
    if not chosen:
        return known
    pairs = _pairs(chosen, items, store)
    tried = numbers.causes(numbers.Sample.of(pairs, store))
    even = [(a, b) for a, b in pairs if a.shape == b.shape]
    apart = numbers.judge(even)[0] if len(even) == len(pairs) else None
    return replace(known, tried=tried, cause=numbers.explanation(tried, apart))


def _pairs(
    chosen: Sequence[ClipComparison], items: dict[str, Item], store: FeatureStore
) -> list[tuple[Rows, Rows]]:
    from spamo_cache.store.compare import rows_of

    return [(rows_of(items[one.clip].load()), rows_of(store.read([one.clip])[0])) for one in chosen]
