"""Read clips from a store by byte range, every checksum verified, nothing unvouched for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.attributes import Attributes, check_room, load_attributes, load_room
from spamo_cache.store.index import FAILED, OK, STATES, ClipIndex, State, StringColumn
from spamo_cache.store.layout import ChunkLayout, ClipKey, Slot
from spamo_cache.store.leases import Leases
from spamo_cache.store.receipts import Receipt, finished, fresh, load_receipt, shard_path
from spamo_cache.store.remote import Location, RemotePath
from spamo_cache.store.roots import locate
from spamo_cache.store.shard import Shard, as_bytes, place, scratch

_OPEN_SHARDS = 128
_REQUESTS = 16


class FeatureStore:
    """One stream of one corpus, as it was when opened; pickles to its path.

    Safe to use from threads, in forked and in spawned DataLoader workers; a store in a remote root
    in spawned ones only. Forked workers share the index, spawned ones read their own.

    Attributes:
        path: the store's folder, local or remote.
        ids: all planned clips, sorted, whether or not there are features of them.
        about: what the store says about itself.
        attributes: the same as plain values.
        width: values of a row.
        dtype: of the values.
        index: the clips, their places and states.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self.about = load_attributes(path)
        self.attributes: Mapping[str, Any] = self.about.model_dump(mode="json")
        self.layout: ChunkLayout = self.about.layout
        self.width = self.layout.width
        self.dtype: np.dtype[Any] = np.dtype(self.layout.dtype)
        room = load_room(path, self.about)
        self.index = ClipIndex.open(path, self.about)
        check_room(path, self.about, room, self.index.partitions)
        self._shards = shards_of(path, self.about)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FeatureStore.open, (self.path,))

    @classmethod
    def open(cls, store: str | Location, *, roots: Sequence[str] | None = None) -> FeatureStore:
        """Open a store for reading.

        Args:
            store: ``CORPUS/STREAM`` with or without ``-FINGERPRINT``, as ``spamo-cache store ls``
                shows it, or just ``CORPUS`` if it has one store; a ``.zarr`` folder; or an address
                in a remote root (``s3://``, ``hf://``, ``https://``).
            roots: where to look for a name; None is what ``SPAMO_CACHE`` lists, else the features
                below ``SPAMO_HOME``.

        Raises:
            UsageError: no store of this name, or several.
            StoreError: no store, another format, or impossible sizes.
            DamagedError: attributes or an index that are not what was written.
        """
        return cls(locate(store, roots))

    # --- what it is -----------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        return self.about.fingerprint

    @property
    def corpus(self) -> str:
        return self.about.corpus

    @property
    def stream(self) -> str:
        return self.about.stream

    @property
    def has_validity(self) -> bool:
        """Whether the store says of each row if it is valid; where not, all are."""
        return self.about.validity

    @property
    def splits(self) -> tuple[str, ...]:
        return self.index.splits

    @property
    def ids(self) -> StringColumn:
        return self.index.ids

    def __len__(self) -> int:
        return len(self.index.ids)

    def __contains__(self, clip: object) -> bool:
        return isinstance(clip, str) and int(self.ids.positions([clip])[0]) >= 0

    def counts(self) -> dict[State, int]:
        """Number of clips by state: ok, failed, absent."""
        return self.index.counts()

    def progress(self) -> tuple[NDArray[np.uint8], Mapping[int, str]]:
        """How far writers are now, beyond what was finished when the index was written.

        Returns:
            (clips,) the state of each clip in order of ids, a place in :data:`index.STATES`; and
            place of a failed clip -> its reason.
        """
        newer = fresh(self.path, self.about, self.index.finished_partitions())
        return self.index.with_newer(list(newer))

    def select(self, *, split: str | None = None, state: State | None = None) -> list[str]:
        """Ids of the clips of a split, in a state, or both; sorted."""
        kept = np.ones(len(self), bool)
        if split is not None:
            code = self.splits.index(split) if split in self.splits else -1
            kept &= self.index.split == code
        if state is not None:
            kept &= self.index.state == STATES.index(state)
        return [self.ids[position] for position in np.flatnonzero(kept).tolist()]

    def slots(self) -> list[Slot]:
        """The place of each clip, in order of ids."""
        return self.index.slots()

    def slot(self, clip: str) -> Slot:
        """The place of one clip."""
        return self.index.places(self._positions([clip]))[0]

    def clip_keys(self) -> list[ClipKey]:
        """What identified each clip's source, in order of ids."""
        return ClipIndex.open(self.path, self.about, everything=True).clip_keys()

    def clip_key(self, clip: str) -> ClipKey:
        """What identified one clip's source."""
        chosen = self._positions([clip])
        return ClipIndex.open(self.path, self.about, everything=True).clip_keys(chosen)[0]

    def receipt(self, partition: int) -> Receipt:
        """The receipt of a finished partition."""
        return load_receipt(self.path, self.about, partition)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each clip's features, as receipts have them; nothing is read."""
        receipts = finished(self.path, self.about, self.index.finished_partitions())
        return {clip: entry.sha256 for done in receipts for clip, entry in done.clips.items()}

    def table(self) -> dict[str, list[Any] | NDArray[Any]]:
        """One row per clip, in order of ids, as columns: ``pandas.DataFrame(store.table())``.

        Returns:
            Columns of equal length.

            - ``id``, ``split``: texts.
            - ``state``: ``ok``, ``failed`` or ``absent``; ``reason``: why it failed, else None.
            - ``rows``: rows of features, planned or there; ``frames``: video frames, 0 if unknown.
            - ``source``: path relative to the corpus root; ``size``: its bytes.
            - ``start``, ``end``: of the clip in its source, in seconds; NaN where it has none.

        Raises:
            DamagedError: the index is not what was written.
        """
        index = ClipIndex.open(self.path, self.about, everything=True)
        columns = index.columns
        return {
            "id": list(index.ids),
            "split": [index.splits[code] for code in index.split.tolist()],
            "state": [STATES[code] for code in index.state.tolist()],
            "reason": [index.reasons.get(position) for position in range(len(index.ids))],
            "rows": index.rows.astype(np.int64),
            "frames": index.frames.astype(np.int64),
            "source": list(StringColumn(columns["source"])),
            **{name: np.array(columns[name]) for name in ("size", "start", "end")},
        }

    # --- one clip -------------------------------------------------------------------------------

    def state(self, clip: str) -> State:
        """Whether there are features, whether computing them failed, or was not done yet.

        Raises:
            StoreError: an unknown clip (as for the other methods that take one).
        """
        return STATES[int(self.index.state[self._position(clip)])]

    def reason(self, clip: str) -> str | None:
        """Why a failed clip has no features."""
        return self.index.reasons.get(self._position(clip))

    def rows(self, clip: str) -> int:
        """Rows of a clip, planned or there."""
        return int(self.index.rows[self._position(clip)])

    def lengths(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """(clips,) rows of clips that have features.

        Raises:
            StoreError: a clip that is unknown, failed or absent.
        """
        return self.index.rows[self._available(ids)].astype(np.int64)

    def _position(self, clip: str) -> int:
        return int(self._positions([clip])[0])

    # --- features -------------------------------------------------------------------------------

    def read(self, ids: Sequence[str]) -> list[NDArray[Any]]:
        """The features of clips, each a fresh (rows, width) array, in the order asked for.

        Raises:
            StoreError: a clip that is unknown, failed or absent.
            DamagedError: bytes that disagree with a checksum or receipt.
        """
        positions = self._available(ids)
        shapes = [(int(rows), self.width) for rows in self.index.rows[positions]]
        features: list[NDArray[Any]] = [np.empty(shape, self.dtype) for shape in shapes]
        self._fetch(positions, [as_bytes(rows) for rows in features])
        return features

    def valid(self, ids: Sequence[str]) -> list[NDArray[np.bool_]]:
        """Which rows of clips are valid: (rows,) of each; the index knows, nothing is read.

        Rows that are not valid hold numbers like all others, of a region that was not seen:
        training leaves them out. Of a store without validity all rows are valid.

        Raises:
            StoreError: a clip that is unknown, failed or absent.
        """
        return [self.index.valid(position) for position in self._available(ids).tolist()]

    def valid_shares(self) -> dict[str, float]:
        """Split -> share of its rows that are valid, 0..1, of the clips that have features.

        Nothing of a store without validity, and of splits without features.
        """
        shares: dict[str, float] = {}
        for code, split in enumerate(self.splits if self.has_validity else ()):
            inside = np.flatnonzero((self.index.split == code) & (self.index.state == OK))
            if rows := int(self.index.rows[inside].sum()):
                shares[split] = sum(self.index.valid_rows(inside).tolist()) / rows
        return shares

    def read_valid(self, clip: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The features of a clip, and which of them are valid.

        Returns:
            (rows, width) as :meth:`read` gives them, and (rows,) as :meth:`valid` does.

        Raises:
            StoreError: a clip that is unknown, failed or absent.
            DamagedError: bytes that disagree with a checksum or receipt.
        """
        return self.read([clip])[0], self.valid([clip])[0]

    def read_into(self, ids: Sequence[str], buffer: NDArray[Any]) -> NDArray[np.int64]:
        """Fill a caller's buffer with the rows of clips, one after the other; no other copy.

        Args:
            ids: clips, in the order wanted.
            buffer: (at least the sum of rows, width), C-contiguous, of the store's dtype.

        Returns:
            Offsets of shape (clips + 1,): clip i is ``buffer[offsets[i]:offsets[i + 1]]``.

        Raises:
            StoreError: a clip that is unknown, failed or absent; a buffer that does not fit.
            DamagedError: bytes that disagree with a checksum or receipt.
        """
        positions = self._available(ids)
        offsets = np.zeros(len(positions) + 1, np.int64)
        np.cumsum(self.index.rows[positions], out=offsets[1:])
        fits = buffer.ndim == 2 and buffer.shape[1] == self.width and len(buffer) >= offsets[-1]
        if not (fits and buffer.dtype == self.dtype and buffer.flags.c_contiguous):
            raise StoreError(
                f"{offsets[-1]} rows of {self.width} {self.dtype} do not fit into a buffer of"
                f" {buffer.shape} {buffer.dtype}",
                where=self.path,
            )
        data, edges = as_bytes(buffer), (offsets * self.layout.row_bytes).tolist()
        self._fetch(positions, [data[start:end] for start, end in pairwise(edges)])
        return offsets

    def to_dask(self, ids: Sequence[str] | None = None) -> Any:
        """The features of clips as one lazy (sum of rows, width) dask array; block i is clip i.

        Blocks are read, every checksum verified, when they are computed; dask has to be installed.
        Not the store's ``features`` array: that holds zeros where nothing was extracted yet.

        Args:
            ids: clips, in the order wanted; where None, all that have features.

        Raises:
            StoreError: a clip that is unknown, failed or absent.
        """
        from dask import array  # noqa: PLC0415 (an extra, needed here only)

        clips = self.select(state="ok") if ids is None else list(ids)
        names = array.from_array(np.array(clips, object)[:, None], chunks=1)
        sizes = (tuple(self.lengths(clips).tolist()), (self.width,))
        empty = np.empty((0, 0), self.dtype)
        return array.map_blocks(_block, names, store=self, chunks=sizes, meta=empty)

    def _fetch(self, positions: NDArray[np.int64], outs: list[memoryview]) -> None:
        partition, row = np.divmod(self.index.row[positions], self.layout.shard_rows)
        numbers = (partition, row // self.layout.chunk_rows, self.index.checksum[positions])
        columns = [column.tolist() for column in numbers]
        self._shards.fetch([Wanted(*clip) for clip in zip(*columns, outs, strict=True)])

    def _positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self.ids.positions(ids)
        if len(positions) and positions.min() < 0:
            unknown = ids[int(np.argmin(positions))]
            raise StoreError(f"no clip {unknown!r} in this store", where=self.path)
        return positions

    def _available(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self._positions(ids)
        wrong = np.flatnonzero(self.index.state[positions] != OK)
        if len(wrong):
            raise self._unavailable(ids[int(wrong[0])], int(positions[wrong[0]]))
        return positions

    def _unavailable(self, clip: str, position: int) -> StoreError:
        if self.index.state[position] == FAILED:
            reason = self.index.reasons[position]
            return StoreError(f"clip {clip!r} has no features: {reason}", where=self.path)
        return StoreError(
            f"clip {clip!r} was not extracted yet", where=self.path, remedy="run extract again"
        )


def _block(clips: NDArray[Any], store: FeatureStore) -> NDArray[Any]:
    """One block of :meth:`FeatureStore.to_dask`."""
    return store.read([clips[0, 0]])[0]


# --- shards ---------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """One clip to be read."""

    partition: int
    chunk: int
    """The first one, counted within the shard."""
    checksum: int
    """What the index says of it, see :func:`shard.clip_checksum`."""
    out: memoryview
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
        self._layout = attributes.layout
        self._leases = Leases.beside(path)
        self._sizes: dict[int, int] = {}
        self._open: dict[int, Shard] = {}

    def fetch(self, clips: Sequence[Wanted]) -> None:
        """See :class:`Shards`."""
        late: list[tuple[Shard, Wanted]] = []
        aside = scratch(self._layout)
        for clip in clips:
            shard = self._open.get(clip.partition) or self._opened(clip.partition)
            checksum = shard.read_now(clip.chunk, clip.out, aside)
            if checksum is None:
                late.append((shard, clip))
            else:
                _check(clip, checksum, shard.path)
        # The disk has worked on all of these since they were asked for.
        for shard, clip in late:
            _check(clip, shard.read_into(clip.chunk, clip.out, aside), shard.path)

    def _opened(self, partition: int) -> Shard:
        """An open shard that its receipt vouches for."""
        shard = self._leases.settled(partition, partial(self._vouched, partition))
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
        shard = Shard(shard_path(self._path, partition), self._layout, size)
        self._sizes[partition] = size
        return shard


class RemoteShards:
    """Shards in a remote root: one request per clip, fewer where clips are neighbours.

    Nothing else is asked for: the place of a chunk is arithmetic, and the clip index, vouched for
    by its pointer, holds the checksum of each clip.
    """

    def __init__(self, path: RemotePath, attributes: Attributes) -> None:
        self._path = path
        self._layout = attributes.layout

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
        size, stored = self._layout.chunk_bytes, self._layout.stored_bytes
        starts = [clip.chunk * stored for clip in ordered]
        counts = [-(-len(clip.out) // size) for clip in ordered]
        ends = [start + count * stored for start, count in zip(starts, counts, strict=True)]
        path = shard_path(self._path, ordered[0].partition)
        for clip, part in zip(ordered, path.ranges(starts, ends), strict=True):
            _check(clip, place(memoryview(part), clip.out, size, path), path)


def _check(clip: Wanted, checksum: int, where: object) -> None:
    if checksum != clip.checksum:
        raise DamagedError(
            "holds other features than were published",
            where=f"{where}, chunk {clip.chunk}",
            remedy="run `spamo-cache store verify --deep --repair`, then extract again",
        )
