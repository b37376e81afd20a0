"""What is there, what is left to do, and what of that need not be computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spamo_cache.extract import reuse
from spamo_cache.extract.job import Item, Task
from spamo_cache.extract.plan import Ints, Mask
from spamo_cache.extract.reuse import Reusable
from spamo_cache.extract.survey import StreamSurvey, Survey
from spamo_cache.store.attributes import load_attributes
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.inventory import find
from spamo_cache.store.receipts import Receipt, Receipts, finished
from spamo_cache.store.remote import Location


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
    return {
        name: _holdings(found, stream) if _is_there(stream.store) else Holdings()
        for name, stream in found.streams.items()
    }


def _is_there(store: Location) -> bool:
    return (store / "zarr.json").exists()


def _holdings(found: Survey, stream: StreamSurvey) -> Holdings:
    wanted = stream.places.holding(found.asked)
    by, receipts = _receipts(stream.store, wanted)
    holdings = Holdings(by=by)
    for receipt in receipts:
        holdings.finished.add(receipt.partition)
        members = stream.places.members[receipt.partition].tolist()
        reasons = {
            clip.id: receipt.failures.get(clip.id)
            for clip, asked in ((found.clips[k], found.asked[k]) for k in members)
            if asked and (clip.id in receipt.clips or clip.id in receipt.failures)
        }
        holdings.states.update(reasons)
        if any(reason is not None for reason in reasons.values()):
            holdings.failed.add(receipt.partition)
    return holdings


def _receipts(store: Location, wanted: set[int]) -> tuple[str, Iterator[Receipt]]:
    """Who made a store, and its receipts of the partitions wanted."""
    about = load_attributes(store)
    if isinstance(store, Path):
        # Without its index, which may be lost: `StoreWriter.open` makes it again.
        receipts = Receipts(store, about)
        valid = map(receipts.valid, sorted(wanted.intersection(receipts.partitions())))
        return about.created_by, (receipt for receipt in valid if receipt is not None)
    return about.created_by, finished(
        store, about, ClipIndex.open(store, about).finished_partitions(), among=wanted
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Streams that lack the same partition, whose clips are decoded once for all of them."""

    partition: int
    positions: Ints
    streams: tuple[str, ...]

    @property
    def name(self) -> str:
        """One of its own: groups of the same partition have other streams."""
        return "-".join((str(self.partition), *self.streams))


@dataclass(frozen=True, slots=True)
class Work:
    """The partitions that a run has to see to."""

    found: Survey
    missing: Mapping[str, set[int]]
    """Stream -> its partitions that are not finished, or to be tried again."""
    reusable: Mapping[str, Reusable]
    retry: bool

    def groups(self) -> list[Group]:
        """What there is to do, in order of work.

        Streams whose stores were begun with different plans may differ in a partition's clips.
        """
        streams: dict[tuple[int, bytes], list[str]] = {}
        for name, numbers in self.missing.items():
            members = self.found.streams[name].places.members
            for number in numbers:
                streams.setdefault((number, members[number].tobytes()), []).append(name)
        return [
            Group(number, np.frombuffer(members, np.int64), tuple(names))
            for (number, members), names in sorted(streams.items())
        ]

    def task(self, group: Group) -> Task:
        items = tuple(self.item(position) for position in group.positions.tolist())
        ids = [item.id for item in items]
        copies = {name: self.reusable[name].copies(ids, group.positions) for name in group.streams}
        return Task(group.name, group.partition, items, copies, self.retry)

    def item(self, position: int) -> Item:
        """A clip as a worker needs it."""
        clip, probe = self.found.clips[position], self.found.probes[position]
        reason = self.found.counted.too_long.get(position)
        if reason is not None:
            probe = replace(probe, frames=0, reason=reason)
        return Item(clip.id, clip.source, clip.start, clip.end, clip.crop, probe)

    def touched(self, name: str) -> Mask:
        """(clips,) whether the clip stands in a partition that the stream misses."""
        mask = np.zeros(len(self.found.clips), bool)
        for number in self.missing.get(name, ()):
            mask[self.found.streams[name].places.members[number]] = True
        return mask

    def computed(self, name: str) -> Mask:
        """(clips,) whether the stream's features have to be computed."""
        touched = self.touched(name)
        return touched & (self.reusable[name].donor < 0) if name in self.missing else touched

    def size(self) -> tuple[int, int]:
        """Clips and frames of the partitions to be seen to, each as often as it is gone through."""
        positions = [group.positions for group in self.groups()]
        frames = sum(int(self.found.counted.frames[members].sum()) for members in positions)
        return sum(map(len, positions)), frames


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
        missing[name] = stream.places.holding(found.asked) - holdings.finished
        missing[name] |= holdings.failed if retry else set()
        reusable[name] = reuse.nothing(len(found.clips))
        if missing[name]:
            others = find(roots, found.corpus, name, spec=stream.identity.spec)
            stores = [stream.store, *(path for path in others if path != stream.store)]
            reusable[name] = reuse.search(
                [path for path in stores if _is_there(path)],
                stream.identity,
                found.keys,
                stream.places.rows,
                np.stack([stream.places.first, stream.places.frames]),
            )
    return Work(found, missing, reusable, retry)
