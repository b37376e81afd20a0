"""What is there, what is left to do, and what of that need not be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from spamo_cache.extract import reuse
from spamo_cache.extract.job import Item, Task
from spamo_cache.extract.reuse import Reusable
from spamo_cache.extract.survey import Survey
from spamo_cache.store.find import find
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.records import load_attributes
from spamo_cache.store.remote import Location
from spamo_cache.store.roots import finished


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the store of a stream holds, of the splits asked for; told by its receipts."""

    states: dict[str, str | None] = field(default_factory=dict)
    """Clip -> why it failed, None where it has features; clips not done yet are left out."""
    finished: set[int] = field(default_factory=set)
    """Partitions."""
    failed: set[int] = field(default_factory=set)
    """Of those the ones with failed clips."""
    by: str = ""
    """Who made the store."""


def held(found: Survey) -> dict[str, Holdings]:
    """Stream -> what its store holds now."""
    wanted = set(found.wanted())
    return {
        name: _holdings(stream.store, wanted) if _is_there(stream.store) else Holdings()
        for name, stream in found.streams.items()
    }


def _is_there(store: Location) -> bool:
    return (store / "zarr.json").exists()


def _holdings(store: Location, wanted: set[int]) -> Holdings:
    attributes = load_attributes(store)
    index = ClipIndex.open(store, attributes)
    holdings = Holdings(by=attributes.created_by)
    for receipt in finished(store, attributes, index, among=wanted):
        holdings.finished.add(receipt.partition)
        holdings.states.update(dict.fromkeys(receipt.clips))
        holdings.states.update(receipt.failures)
        if receipt.failures:
            holdings.failed.add(receipt.partition)
    return holdings


@dataclass(frozen=True, slots=True)
class Work:
    """The partitions that a run has to see to."""

    found: Survey
    missing: Mapping[str, set[int]]
    """Stream -> its partitions that are not finished, or to be tried again."""
    reusable: Mapping[str, Reusable]
    retry: bool

    def partitions(self) -> dict[int, list[str]]:
        """Partition -> the streams that miss it, in order of work."""
        wanted = sorted(set().union(*self.missing.values()))
        return {
            number: [name for name, numbers in self.missing.items() if number in numbers]
            for number in wanted
        }

    def task(self, number: int, streams: Iterable[str]) -> Task:
        positions = self.found.plan.partitions[number]
        items = tuple(self.item(position) for position in positions.tolist())
        ids = [item.id for item in items]
        copies = {name: self.reusable[name].copies(ids, positions) for name in streams}
        return Task(number, items, copies, self.retry)

    def item(self, position: int) -> Item:
        """A clip as a worker needs it."""
        clip, probe = self.found.clips[position], self.found.probes[position]
        reason = self.found.plan.too_long.get(position)
        if reason is not None:
            probe = replace(probe, frames=0, reason=reason)
        return Item(clip.id, clip.source, clip.start, clip.end, clip.crop, probe)

    def touched(self, name: str) -> NDArray[np.bool_]:
        """(clips,) whether the clip stands in a partition that the stream misses."""
        return self._mask(self.missing.get(name, ()))

    def computed(self, name: str) -> NDArray[np.bool_]:
        """(clips,) whether the stream's features have to be computed."""
        if name not in self.missing:
            return self._mask(())
        return self.touched(name) & (self.reusable[name].donor < 0)

    def size(self) -> tuple[int, int]:
        """Clips and frames of the partitions to be seen to."""
        mask = self._mask(set().union(*self.missing.values()))
        return int(mask.sum()), int(self.found.frames[mask].sum())

    def _mask(self, numbers: Iterable[int]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.found.clips), bool)
        for number in numbers:
            mask[self.found.plan.partitions[number]] = True
        return mask


def left(
    found: Survey, before: Mapping[str, Holdings], *, roots: Sequence[str | Location], retry: bool
) -> Work:
    """What a run has to do.

    Args:
        before: see :func:`held`.
        roots: where to look for stores that hold some of the clips already.
        retry: see to partitions with failed clips again.
    """
    missing, reusable = {}, {}
    for name, stream in found.streams.items():
        if stream.foreign:
            continue
        holdings = before[name]
        missing[name] = set(found.wanted()) - holdings.finished
        missing[name] |= holdings.failed if retry else set()
        reusable[name] = reuse.nothing(len(found.clips))
        if missing[name]:
            others = find(roots, found.corpus, name, spec=stream.identity.spec)
            stores = [stream.store, *(path for path in others if path != stream.store)]
            reusable[name] = reuse.search(
                [path for path in stores if _is_there(path)],
                stream.identity,
                found.keys,
                found.plan.places[name].rows,
                np.stack([found.plan.begins, found.frames]),
            )
    return Work(found, missing, reusable, retry)
