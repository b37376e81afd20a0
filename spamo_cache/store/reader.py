"""Read clips from a store by byte range, every checksum verified, nothing unvouched for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import (
    ClipKey,
    Geometry,
    Slot,
    canonical,
    checked_name,
)
from spamo_cache.store.metadata import features_metadata
from spamo_cache.store.plan import FAILED, OK, STATES, State
from spamo_cache.store.receipts import Receipts
from spamo_cache.store.records import (
    MAX_ATTRIBUTES_BYTES,
    Receipt,
    load_attributes,
    load_json,
    shard_path,
)
from spamo_cache.store.shard import Shard
from spamo_cache.store.texts import Texts

_OPEN_SHARDS = 128
_LOG = logging.getLogger(__name__)


class FeatureStore:
    """One stream of one corpus, as it was when opened; pickles to its path.

    Safe to use from threads, in forked and in spawned DataLoader workers.

    Attributes:
        path: the store's folder.
        ids: all planned clips, sorted, whether or not there are features of them.
        attributes: what the store says about itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._about = load_attributes(path)
        self.attributes: Mapping[str, Any] = self._about.model_dump(mode="json")
        self.geometry: Geometry = self._about.geometry
        expected = features_metadata(self.geometry, self._about.partitions)
        where = path / "features" / "zarr.json"
        if load_json(where, MAX_ATTRIBUTES_BYTES) != expected:
            raise DamagedError("the features are not laid out as the store says", where=where)
        self._index = ClipIndex.open(path, self._about)
        self._shards: dict[int, Shard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (FeatureStore.open, (self.path,))

    @classmethod
    def open(cls, path: Path) -> FeatureStore:
        """Open the store at ``path`` for reading.

        Raises:
            StoreError: no store, a newer format, or impossible sizes.
            DamagedError: attributes or an index that are not what was written.
        """
        return cls(path)

    # --- what it is -----------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        return self._about.fingerprint

    @property
    def corpus(self) -> str:
        return self._about.corpus

    @property
    def stream(self) -> str:
        return self._about.stream

    @property
    def width(self) -> int:
        """Values of a row."""
        return self._about.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._about.dtype)

    @property
    def splits(self) -> tuple[str, ...]:
        return self._index.splits

    @property
    def ids(self) -> Texts:
        return self._index.ids

    def __len__(self) -> int:
        return len(self._index.ids)

    def __contains__(self, clip: object) -> bool:
        return isinstance(clip, str) and int(self.ids.positions([clip])[0]) >= 0

    def counts(self) -> dict[State, int]:
        """Number of clips by state: ok, failed, absent."""
        return self._index.counts()

    def select(self, *, split: str | None = None, state: State | None = None) -> list[str]:
        """Ids of the clips of a split, in a state, or both; sorted."""
        kept = np.ones(len(self), bool)
        if split is not None:
            code = self.splits.index(split) if split in self.splits else -1
            kept &= self._index.split == code
        if state is not None:
            kept &= self._index.state == STATES.index(state)
        return [self.ids[position] for position in np.flatnonzero(kept).tolist()]

    def slots(self) -> list[Slot]:
        """The place of each clip, in order of ids."""
        return self._index.slots()

    def clip_keys(self) -> list[ClipKey]:
        """What identified each clip's source, in order of ids."""
        return ClipIndex.open(self.path, self._about, everything=True).clip_keys()

    def receipt(self, partition: int) -> Receipt:
        """The receipt of a finished partition."""
        return Receipts(self.path, self._about).load(partition)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each clip's features, as receipts have them; nothing is read."""
        receipts = Receipts(self.path, self._about)
        return {clip: entry.sha256 for done in receipts for clip, entry in done.clips.items()}

    # --- one clip -------------------------------------------------------------------------------

    def state(self, clip: str) -> State:
        """Whether there are features, whether computing them failed, or was not done yet.

        Raises:
            StoreError: an unknown clip (as for the other methods that take one).
        """
        return STATES[int(self._index.state[self._position(clip)])]

    def reason(self, clip: str) -> str | None:
        """Why a failed clip has no features."""
        return self._index.reasons.get(self._position(clip))

    def rows(self, clip: str) -> int:
        """Rows of a clip, planned or there."""
        return int(self._index.rows[self._position(clip)])

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
        shapes = [(int(rows), self.width) for rows in self._index.rows[positions]]
        found: list[NDArray[Any]] = [np.empty(shape, self.dtype) for shape in shapes]
        for position, out in zip(positions.tolist(), found, strict=True):
            self._read(position, out)
        return found

    def read_into(self, ids: Sequence[str], buffer: NDArray[Any]) -> NDArray[np.int64]:
        """Fill a caller's buffer with the rows of clips, one after the other; no other copy.

        Args:
            ids: clips, in the order wanted.
            buffer: (at least the sum of rows, width), C-contiguous, of the store's dtype.

        Returns:
            (clips + 1,) offsets: clip i is ``buffer[offsets[i]:offsets[i + 1]]``.

        Raises:
            StoreError: a clip that is unknown, failed or absent; a buffer that does not fit.
            DamagedError: bytes that disagree with a checksum or receipt.
        """
        positions = self._available(ids)
        offsets = np.zeros(len(positions) + 1, np.int64)
        np.cumsum(self._index.rows[positions], out=offsets[1:])
        fits = buffer.ndim == 2 and buffer.shape[1] == self.width and len(buffer) >= offsets[-1]
        if not (fits and buffer.dtype == self.dtype and buffer.flags.c_contiguous):
            raise StoreError(
                f"{offsets[-1]} rows of {self.width} {self.dtype} do not fit into a buffer of"
                f" {buffer.shape} {buffer.dtype}",
                where=self.path,
            )
        for position, (start, end) in zip(positions, pairwise(offsets.tolist()), strict=True):
            self._read(int(position), buffer[start:end])
        return offsets

    def _read(self, position: int, out: NDArray[Any]) -> None:
        row = int(self._index.row[position])
        shard = self._shard(row // self.geometry.shard_rows)
        shard.read_into(row % self.geometry.shard_rows, out)

    def _shard(self, partition: int) -> Shard:
        """An open shard that its receipt vouches for."""
        shard = self._shards.get(partition)
        if shard is None:
            receipt = self.receipt(partition)
            if receipt.shard is None:
                raise DamagedError(f"partition {partition} has no features", where=self.path)
            path = shard_path(self.path, partition)
            shard = Shard(path, self.geometry, size=receipt.shard.size)
            self._shards[partition] = shard
            for oldest in list(self._shards)[:-_OPEN_SHARDS]:
                self._shards.pop(oldest, None)
        return shard

    def _positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self.ids.positions(ids)
        if len(positions) and positions.min() < 0:
            unknown = ids[int(np.argmin(positions))]
            raise StoreError(f"no clip {unknown!r} in this store", where=self.path)
        return positions

    def _available(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self._positions(ids)
        wrong = np.flatnonzero(self._index.state[positions] != OK)
        if len(wrong):
            raise self._unavailable(ids[int(wrong[0])], int(positions[wrong[0]]))
        return positions

    def _unavailable(self, clip: str, position: int) -> StoreError:
        if self._index.state[position] == FAILED:
            reason = self._index.reasons[position]
            return StoreError(f"clip {clip!r} has no features: {reason}", where=self.path)
        return StoreError(
            f"clip {clip!r} was not extracted yet", where=self.path, remedy="run extract again"
        )


def find(
    roots: Iterable[str | Path],
    corpus: str,
    stream: str,
    *,
    spec: Mapping[str, Any],
    keys_sha256: str | None = None,
    weights: str | None = None,
) -> list[Path]:
    """Stores of a stream computed as ``spec`` says, in the order of the roots, fullest first.

    Args:
        roots: local folders; remote ones are skipped here.
        spec: see :func:`layout.stream_spec`.
        keys_sha256: only stores of exactly this corpus, see :func:`layout.corpus_hash`.
        weights: only stores made with weights of this name.

    Stores that cannot be opened are passed over with a warning in the log.
    """
    checked_name(corpus, "corpus")
    checked_name(stream, "stream")
    wanted = canonical(dict(spec))
    found: list[Path] = []
    for root in roots:
        if "://" in str(root):
            continue
        folder = Path(root).expanduser() / corpus
        stores = [store for path in folder.glob(f"{stream}-*.zarr") if (store := _try(path))]
        matching = [
            store
            for store in stores
            if store.stream == stream
            and canonical(store.attributes["spec"]) == wanted
            and keys_sha256 in {None, store.attributes["corpus_sha256"]}
            and weights in {None, store.attributes["weights"]}
        ]
        matching.sort(key=lambda store: (-store.counts()["ok"], store.path.name))
        found += [store.path for store in matching]
    return found


def _try(path: Path) -> FeatureStore | None:
    try:
        return FeatureStore.open(path)
    except StoreError as error:
        _LOG.warning("passed over a store: %s", error)
        return None
