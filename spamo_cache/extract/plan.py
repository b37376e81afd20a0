"""Which clip belongs to which partition, and where its rows go: pure, and equal on every machine.

A partition is what one worker computes at a time and one shard of every stream. Its clips are
chosen by their **frames** alone, so that a stream's partitions never depend on another stream's
settings: a changed stride makes a new motion store and leaves the spatial one as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config import RowsSpec, StoreSpec
from spamo_cache.errors import ConfigError
from spamo_cache.store.layout import Slot
from spamo_cache.video import ClipLike

Ints = NDArray[np.int64]


class SplitClip(ClipLike, Protocol):
    """A clip that says which split it belongs to."""

    @property
    def split(self) -> str: ...


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What planning needs to know of a stream."""

    rows: Callable[[int], int]
    """Frames of a clip -> its rows."""
    chunk_rows: int
    shard_rows: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where the clips' rows of one stream go, by the clips' positions: (clips,) each."""

    first: Ints
    """First row in ``features``."""
    rows: Ints


@dataclass(frozen=True, slots=True)
class Plan:
    """Partitions and places of all clips, by their position in the sequence planned."""

    clips: Sequence[SplitClip]
    partitions: Sequence[Ints]
    """By number: positions of the partition's clips, in the order of work."""
    splits: Sequence[str]
    """By number: the partition's split."""
    places: Mapping[str, Places]
    begins: Ints
    """(clips,) number of each clip's first frame within its source."""
    frames: Ints
    """(clips,) frames of each."""
    too_long: Mapping[int, str] = field(default_factory=dict)
    """Position -> why this clip cannot be stored."""

    def slots(self, stream: str) -> list[Slot]:
        """A stream's places as the store takes them, partition by partition."""
        places = self.places[stream]
        columns = (places.first, places.rows, self.begins, self.frames)
        numbers = list(zip(*(column.tolist() for column in columns), strict=True))
        return [
            Slot(self.clips[k].id, split, number, *numbers[k])
            for number, (split, members) in enumerate(
                zip(self.splits, self.partitions, strict=True)
            )
            for k in members.tolist()
        ]


def plan(
    clips: Sequence[SplitClip],
    frames: Sequence[int] | Ints,
    streams: Mapping[str, StreamPlan],
    store: StoreSpec,
    begins: Sequence[int] | Ints | None = None,
) -> Plan:
    """Assign every clip to a partition and to rows of each stream.

    Args:
        clips: the whole corpus, in any order.
        frames: per clip its frames; 0 for one that cannot be read.
        streams: the streams to place rows for.
        store: sizes of chunks and shards.
        begins: per clip the number of its first frame within its source; None is 0 for all.

    Raises:
        ConfigError: a partition's windows do not fit into a shard of them.
    """
    given = np.array(frames, np.int64)
    counts = given.copy()
    chunk, shard = store.chunk_rows.frame, store.shard_rows.frame
    long = np.flatnonzero(_aligned(counts, chunk) > shard)
    too_long = {
        int(k): f"{counts[k]} frames are more than a shard's {shard}: raise store.shard_rows"
        for k in long
    }
    counts[long] = 0
    order = _order(clips)
    splits = [clips[k].split for k in order.tolist()]
    starts = _cut(_aligned(counts[order], chunk), splits, shard)
    places = {
        name: _place(counts, order=order, starts=starts, name=name, stream=stream)
        for name, stream in streams.items()
    }
    partitions = np.split(order, starts[1:]) if len(starts) else []
    return Plan(
        clips,
        partitions,
        [splits[k] for k in starts],
        places,
        np.zeros_like(given) if begins is None else np.array(begins, np.int64),
        given,
        too_long,
    )


def rows_of(spec: RowsSpec, per: str) -> int:
    """The entry for streams with a row per frame or per window."""
    return spec.frame if per == "frame" else spec.window


def _order(clips: Sequence[SplitClip]) -> Ints:
    """Split by split; within one, clips of a source together and in time, read in one sweep."""
    keys = [
        (clip.split, clip.source, -1.0 if clip.start is None else clip.start, clip.id)
        for clip in clips
    ]
    return np.array(sorted(range(len(clips)), key=keys.__getitem__), np.int64)


def _cut(needed: Ints, splits: Sequence[str], shard: int) -> Ints:
    """Where partitions begin among consecutive clips: as many as fit, never two splits."""
    ends = np.cumsum(needed)
    names = np.array(splits)
    borders = [*(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(needed)]
    starts: list[int] = []
    first = 0
    for border in borders:
        while first < border:
            starts.append(first)
            before = int(ends[first - 1]) if first else 0
            first = min(int(np.searchsorted(ends, before + shard, side="right")), border)
    return np.array(starts, np.int64)


def _place(counts: Ints, *, order: Ints, starts: Ints, name: str, stream: StreamPlan) -> Places:
    """The place of each clip's rows: one after the other within its partition, each aligned."""
    distinct, which = np.unique(counts[order], return_inverse=True)
    rows = np.array([stream.rows(int(n)) if n else 0 for n in distinct], np.int64)[which]
    needed = _aligned(rows, stream.chunk_rows)
    before = np.cumsum(needed) - needed
    sizes = np.diff(starts, append=len(order))
    offsets = before - np.repeat(before[starts], sizes)
    _check_fit(name, int((offsets + needed).max(initial=0)), stream.shard_rows)
    places = Places(np.empty_like(order), np.empty_like(order))
    places.first[order] = np.repeat(np.arange(len(starts)), sizes) * stream.shard_rows + offsets
    places.rows[order] = rows
    return places


def _check_fit(name: str, largest: int, shard_rows: int) -> None:
    if largest > shard_rows:
        raise ConfigError(
            f"stream {name}: a partition has {largest} rows, a shard {shard_rows}",
            where="store.shard_rows",
            remedy=f"raise store.shard_rows.window to {largest} or more, or lower "
            "store.shard_rows.frame",
        )


def _aligned(rows: Ints, chunk_rows: int) -> Ints:
    return -(-rows // chunk_rows) * chunk_rows
