"""Bring the rows of clips from the shards of a store into memory, every checksum verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from spamo_cache.errors import DamagedError
from spamo_cache.store.claims import Claims
from spamo_cache.store.receipts import load_receipt
from spamo_cache.store.records import Attributes, shard_path
from spamo_cache.store.remote import Location, RemotePath
from spamo_cache.store.shard import Bytes, Destination, Shard, scratch

_OPEN_SHARDS = 128
_REQUESTS = 16


class Wanted(NamedTuple):
    """One clip to be read."""

    partition: int
    chunk: int
    """The first one, counted within the shard."""
    checksum: int
    """What the index says of it, see :func:`shard.clip_checksum`."""
    out: Bytes
    """Where its rows go."""


class Shards(Protocol):
    """The shards of one store."""

    def fetch(self, clips: Sequence[Wanted]) -> None:
        """Fill each clip's ``out``.

        Raises:
            DamagedError: bytes that disagree with a checksum, a receipt or the index.
            StoreError: bytes that cannot be had.
        """


def shards_of(path: Location, attributes: Attributes) -> Shards:
    """The shards of the store at ``path``."""
    if isinstance(path, RemotePath):
        return RemoteShards(path, attributes)
    return LocalShards(path, attributes)


class LocalShards:
    """Shards on a disk; safe in threads and across fork."""

    def __init__(self, path: Path, attributes: Attributes) -> None:
        self._path = path
        self._attributes = attributes
        self._geometry = attributes.geometry
        self._claims = Claims.beside(path)
        self._sizes: dict[int, int] = {}
        self._open: dict[int, Shard] = {}

    def fetch(self, clips: Sequence[Wanted]) -> None:
        """See :class:`Shards`."""
        late: list[tuple[Shard, Wanted]] = []
        aside = scratch(self._geometry)
        for clip in clips:
            shard = self._open.get(clip.partition) or self._opened(clip.partition)
            found = shard.read_now(clip.chunk, clip.out, aside)
            if found is None:
                late.append((shard, clip))
            else:
                _check(clip, found, shard.path)
        # The disk has worked on all of these since they were asked for.
        for shard, clip in late:
            _check(clip, shard.read_into(clip.chunk, clip.out, aside), shard.path)

    def _opened(self, partition: int) -> Shard:
        """An open shard that its receipt vouches for."""
        shard = self._claims.settled(partition, partial(self._vouched, partition))
        self._open[partition] = shard
        for oldest in list(self._open)[:-_OPEN_SHARDS]:
            self._open.pop(oldest, None)
        return shard

    def _vouched(self, partition: int) -> Shard:
        size = self._sizes.pop(partition, None)
        if size is None:
            receipt = load_receipt(self._path, self._attributes, partition)
            if receipt.shard is None:
                raise DamagedError(f"partition {partition} has no features", where=self._path)
            size = receipt.shard.size
        shard = Shard(shard_path(self._path, partition), self._geometry, size)
        self._sizes[partition] = size
        return shard


class RemoteShards:
    """Shards in a remote root: one request per clip, fewer where clips are neighbours.

    Nothing else is asked for: the place of a chunk is arithmetic, and the clip index, vouched for
    by its pointer, holds the checksum of each clip.
    """

    def __init__(self, path: RemotePath, attributes: Attributes) -> None:
        self._path = path
        self._geometry = attributes.geometry

    def fetch(self, clips: Sequence[Wanted]) -> None:
        """See :class:`Shards`."""
        together: dict[int, list[Wanted]] = {}
        for clip in clips:
            together.setdefault(clip.partition, []).append(clip)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for _ in pool.map(self._fetch, together.values()):
                pass

    def _fetch(self, clips: Iterable[Wanted]) -> None:
        """Clips of one partition."""
        ordered = sorted(clips, key=lambda clip: clip.chunk)
        size, stored = self._geometry.chunk_bytes, self._geometry.stored_bytes
        starts = [clip.chunk * stored for clip in ordered]
        counts = [-(-len(clip.out) // size) for clip in ordered]
        ends = [start + count * stored for start, count in zip(starts, counts, strict=True)]
        path = shard_path(self._path, ordered[0].partition)
        aside = scratch(self._geometry)
        for clip, part in zip(ordered, path.ranges(starts, ends), strict=True):
            place = Destination(clip.out, aside, size)
            place.fill(part)
            _check(clip, place.checksum(path), path)


def _check(clip: Wanted, found: int, where: object) -> None:
    if found != clip.checksum:
        raise DamagedError(
            "holds other features than were published",
            where=f"{where}, chunk {clip.chunk}",
            remedy="run `spamo-cache store verify --deep --repair`, then extract again",
        )
