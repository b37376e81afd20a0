"""Which partition a clip belongs to and where its rows go: pure, and equal on every machine.

A partition is what one worker computes at a time and one shard of every stream. Its clips are
chosen by their **frames** alone, so that a stream's partitions never depend on another stream's
settings: a changed stride makes a new motion store and leaves the spatial one as it is.

A placement is made once, when a store is created. Later extractions keep what the store has
recorded, whatever the disk or the manifest's splits say by then. Only clips that still have to be
computed and whose number of frames has changed move, to partitions after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config import RowsSpec, StoreSpec
from spamo_cache.errors import ConfigError
from spamo_cache.store.layout import Slot
from spamo_cache.video import ClipLike

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class SplitClip(ClipLike, Protocol):
    """A clip that says which split it belongs to."""

    @property
    def split(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the rows of one stream are laid out in its store."""

    rows: Callable[[int], int]
    """Frames of a clip -> its rows."""
    chunk_rows: int
    shard_rows: int


@dataclass(frozen=True, slots=True)
class CountedClips:
    """The clips of a corpus and their frames as they are on disk now: (clips,) each."""

    clips: Sequence[SplitClip]
    frames: Ints
    """0 for a clip that cannot be read."""
    first: Ints
    """Number of the clip's first frame within its source."""
    rank: Ints
    """Place in the order of work: clips of a source together and in time, read in one sweep."""
    store: StoreSpec
    too_long: Mapping[int, str]
    """Position -> why this clip cannot be stored."""

    @classmethod
    def of(
        cls,
        clips: Sequence[SplitClip],
        frames: Sequence[int] | Ints,
        store: StoreSpec,
        first: Sequence[int] | Ints | None = None,
    ) -> CountedClips:
        """Clips in any order; ``first`` is 0 for all where it is None."""
        counts = np.array(frames, np.int64)
        shard = store.shard_rows.frame
        long = np.flatnonzero(_aligned(counts, store.chunk_rows.frame) > shard).tolist()
        reason = "{} frames are more than a shard's {}: raise store.shard_rows"
        return cls(
            clips,
            counts,
            np.zeros_like(counts) if first is None else np.array(first, np.int64),
            _rank(clips),
            store,
            {k: reason.format(counts[k], shard) for k in long},
        )

    def storable(self) -> Ints:
        """(clips,) frames of the clips that can be stored, 0 for the others."""
        frames = self.frames.copy()
        frames[list(self.too_long)] = 0
        return frames


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the clips of one stream go, by position: (clips,) each."""

    partition: Ints
    row: Ints
    """First row in ``features``."""
    rows: Ints
    first: Ints
    """Number of the clip's first frame within its source."""
    frames: Ints
    splits: Sequence[str]
    """Of the clips when the store was begun: no partition holds two."""
    members: Mapping[int, Ints]
    """Partition -> positions of its clips, in the order of work."""

    def holding(self, chosen: Mask) -> set[int]:
        """Partitions that hold at least one of the chosen clips."""
        return set(self.partition[chosen].tolist())

    def slots(self, clips: Sequence[SplitClip]) -> list[Slot]:
        """One slot per clip, as the store takes them."""
        columns = (self.partition, self.row, self.rows, self.first, self.frames)
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        named = zip(clips, self.splits, numbers, strict=True)
        return [Slot(clip.id, split, *place) for clip, split, place in named]


def new_placement(counted: CountedClips, layout: RowLayout, name: str) -> Placement:
    """Assign every clip to a partition of a new store and to rows in it.

    Raises:
        ConfigError: a partition's windows do not fit into a shard of them.
    """
    splits = [clip.split for clip in counted.clips]
    columns = np.zeros((5, len(splits)), np.int64)
    every = np.ones(len(splits), bool)
    return _placed(counted, layout, name, splits=splits, columns=columns, chosen=every, number=0)


def continued_placement(
    recorded: Placement, counted: CountedClips, layout: RowLayout, name: str, *, unfinished: Mask
) -> Placement:
    """The placement of an existing store; clips whose number of frames has changed are moved.

    Args:
        recorded: what the store says.
        unfinished: (clips,) which clips are about to be computed; all others stay.

    Raises:
        ConfigError: see :func:`new_placement`.
    """
    rows = _rows(layout, counted.storable())
    same = (rows == recorded.rows) & (counted.first == recorded.first)
    same &= counted.frames == recorded.frames
    moved = unfinished & (rows > 0) & ~same
    if not moved.any():
        return recorded
    return _placed(
        counted,
        layout,
        name,
        splits=recorded.splits,
        columns=np.array(
            [recorded.partition, recorded.row, recorded.rows, recorded.first, recorded.frames]
        ),
        chosen=moved,
        number=int(recorded.partition.max()) + 1,
    )


def recorded_placement(
    counted: CountedClips, columns: Mapping[str, NDArray[np.integer]], splits: Sequence[str]
) -> Placement:
    """The placement that a store has recorded.

    Args:
        columns: by the names of the clip index, (clips,) each, by position.
        splits: the clips' splits.
    """
    partition, row, rows, first, frames = (
        columns[name].astype(np.int64) for name in ("partition", "row", "rows", "first", "frames")
    )
    members = _members(partition, counted.rank)
    return Placement(partition, row, rows, first, frames, splits, members)


def rows_of(spec: RowsSpec, per: str) -> int:
    """The entry for streams with a row per frame or per window."""
    return spec.frame if per == "frame" else spec.window


def _placed(
    counted: CountedClips,
    layout: RowLayout,
    name: str,
    *,
    splits: Sequence[str],
    columns: Ints,
    chosen: Mask,
    number: int,
) -> Placement:
    """Place the chosen clips in partitions from ``number`` on."""
    frames = counted.storable()
    codes = {split: code for code, split in enumerate(sorted(set(splits)))}
    code = np.array([codes[split] for split in splits], np.int64)
    order = np.lexsort((counted.rank, code))
    order = order[chosen[order]]
    starts = _cut(
        _aligned(frames[order], counted.store.chunk_rows.frame),
        code[order],
        counted.store.shard_rows.frame,
    )
    sizes = np.diff(starts, append=len(order))
    rows = _rows(layout, frames[order])
    needed = _aligned(rows, layout.chunk_rows)
    before = np.cumsum(needed) - needed
    offsets = before - np.repeat(before[starts], sizes)
    _check_fit(name, int((offsets + needed).max(initial=0)), layout.shard_rows)
    partition = np.repeat(number + np.arange(len(starts)), sizes)
    columns[:, order] = (
        partition,
        partition * layout.shard_rows + offsets,
        rows,
        counted.first[order],
        counted.frames[order],
    )
    places = columns[0], columns[1], columns[2], columns[3], columns[4]
    return Placement(*places, splits, _members(columns[0], counted.rank))


def _rank(clips: Iterable[SplitClip]) -> Ints:
    keys = [(clip.source, -1.0 if clip.start is None else clip.start, clip.id) for clip in clips]
    rank = np.empty(len(keys), np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank


def _members(partition: Ints, rank: Ints) -> Mapping[int, Ints]:
    order = np.lexsort((rank, partition))
    numbers, starts = np.unique(partition[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def _cut(needed: Ints, split: Ints, shard: int) -> Ints:
    """Where partitions begin among consecutive clips: as many as fit, never two splits."""
    ends = np.cumsum(needed)
    borders = [*(np.flatnonzero(np.diff(split)) + 1).tolist(), len(needed)]
    starts: list[int] = []
    first = 0
    for border in borders:
        while first < border:
            starts.append(first)
            before = int(ends[first - 1]) if first else 0
            first = min(int(np.searchsorted(ends, before + shard, side="right")), border)
    return np.array(starts, np.int64)


def _rows(layout: RowLayout, frames: Ints) -> Ints:
    """(clips,) rows of each, 0 where there are no frames."""
    distinct, which = np.unique(frames, return_inverse=True)
    return np.array([layout.rows(int(n)) if n else 0 for n in distinct], np.int64)[which]


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
