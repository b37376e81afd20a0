"""Features that need no computing: those of unchanged clips in other stores of the same stream.

A corpus that grew or changed takes its unchanged clips from other stores. A partition whose failed
clips are retried takes its other clips from itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import StoreError
from spamo_cache.store.attributes import Attributes, load_attributes, load_group
from spamo_cache.store.index import OK, ClipIndex, Columns, identities
from spamo_cache.store.layout import ClipKey, StreamIdentity
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location

_LOG = logging.getLogger(__name__)


# --- finding them, once per extraction ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceStore:
    """A store that holds some of the clips."""

    store: Location
    made_by: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Clips in one partition of a store that hold exactly what would be computed again."""

    store: Location
    partition: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reusable:
    """Where each clip of a stream can be copied from, by the clips' positions."""

    sources: Sequence[SourceStore]
    source: NDArray[np.int32]
    """(clips,) index into ``sources``; -1 where no store holds the clip."""
    partition: NDArray[np.int32]
    """(clips,) the clip's partition in that store."""

    def copies(self, ids: Sequence[str], positions: NDArray[np.int64]) -> tuple[Copy, ...]:
        """What of the clips at these positions can be copied; ``ids`` are theirs."""
        groups: dict[tuple[int, int], list[str]] = {}
        columns = (self.source[positions].tolist(), self.partition[positions].tolist())
        for clip, source, partition in zip(ids, *columns, strict=True):
            if source >= 0:
                groups.setdefault((source, partition), []).append(clip)
        return tuple(
            Copy(self.sources[source].store, partition, tuple(clips))
            for (source, partition), clips in groups.items()
        )


def nothing(clips: int) -> Reusable:
    """Where every clip is to be computed."""
    return Reusable((), np.full(clips, -1, np.int32), np.zeros(clips, np.int32))


def search(
    stores: Iterable[Location],
    identity: StreamIdentity,
    keys: Sequence[ClipKey],
    rows: NDArray[np.int64],
    spans: NDArray[np.int64],
) -> Reusable:
    """The clips that stores of the same stream hold; of several stores the first one counts.

    Args:
        stores: in order of preference, see :func:`find.find`.
        identity: what the features must have been computed by.
        keys: every clip of the corpus.
        rows: (clips,) rows that each is planned with.
        spans: (2, clips) first frame of each within its source, and the number of its frames.
    """
    ids, wanted = [key.id for key in keys], identities(keys)
    reusable = nothing(len(keys))
    sources: list[SourceStore] = []
    for path in stores:
        if (reusable.source >= 0).all():
            break
        attributes = load_attributes(path)
        if _same_stream(attributes, identity):
            index = ClipIndex.open(path, attributes, everything=True)
            positions = index.ids.positions(ids)
            held = _held(index, positions, wanted, rows, spans) & (reusable.source < 0)
            if held.any():
                reusable.source[held] = len(sources)
                reusable.partition[held] = index.partition[positions[held]]
                sources.append(SourceStore(path, attributes.created_by))
    return Reusable(tuple(sources), reusable.source, reusable.partition)


def _same_stream(attributes: Attributes, identity: StreamIdentity) -> bool:
    # The spec is equal already: that is how the store was found.
    return (attributes.weights_sha256, attributes.semantics) == (
        identity.weights_sha256,
        identity.semantics,
    )


def _held(
    index: ClipIndex,
    positions: NDArray[np.int64],
    wanted: Columns,
    rows: NDArray[np.int64],
    spans: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """(clips,) whether the index has features of the very clip: same source, size, range, crop.

    And of the same frames: earlier versions took others from unusual files.
    """
    same: NDArray[np.bool_] = (positions >= 0) & (index.state[positions] == OK)
    same &= index.rows[positions] == rows
    there = np.stack([index.first[positions], index.frames[positions]])
    same &= (there == spans).all(axis=0) | (there[1] == 0)  # 0: nobody has counted them
    for name, column in wanted.items():
        if name not in index.columns:
            return np.zeros(len(positions), bool)  # without any pose
        there = index.columns[name][positions]
        if name in {"source", "pose"}:
            same &= _texts(there) == _texts(column)
        else:
            equal = (there == column) | ((there != there) & (column != column))  # noqa: PLR0124
            same &= equal if equal.ndim == 1 else equal.all(axis=1)
    return same


def _texts(column: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    # numpy compares bytes of different widths as what they are: padded texts.
    return np.ascontiguousarray(column).view(f"S{column.shape[1]}")[:, 0]


# --- reading them, per partition ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copies:
    """Features read from other stores, every checksum verified."""

    features: dict[str, NDArray[Any]] = field(default_factory=dict)
    valid: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Of clips from stores with validity, which rows are valid."""
    sources: dict[str, str] = field(default_factory=dict)
    """Clip -> SHA-256 of its source's contents, as recorded by the store it comes from."""
    origins: dict[str, int] = field(default_factory=dict)
    """Fingerprint of a store -> clips taken from it."""


def read(copies: Iterable[Copy]) -> Copies:
    """Read what can be copied; a clip that cannot be read is left to be computed."""
    copied = Copies()
    origins: Counter[str] = Counter()
    for copy in copies:
        try:
            store = _opened(copy.store)
            sources = store.receipt(copy.partition).sources
        except StoreError as error:
            _LOG.warning("nothing is copied from a store: %s", error)
            continue
        features = _features(store, copy.ids)
        copied.features.update(features)
        if store.has_validity:
            copied.valid.update(zip(features, store.valid(list(features)), strict=True))
        copied.sources.update({clip: sources[clip] for clip in features if clip in sources})
        origins[store.fingerprint] += len(features)
    copied.origins.update(origins)
    return copied


def _features(store: FeatureStore, clips: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        return dict(zip(clips, store.read(clips), strict=True))
    except StoreError as error:
        if len(clips) == 1:
            _LOG.warning("computed again instead of copied: %s", error)
            return {}
        # One of them cannot be read, the others can.
        return {k: rows for clip in clips for k, rows in _features(store, [clip]).items()}


def _opened(path: Location) -> FeatureStore:
    return _as_of(path, str(load_group(path / "clips" / "zarr.json").get("generation")))


@lru_cache(maxsize=4)
def _as_of(path: Location, generation: str) -> FeatureStore:  # noqa: ARG001 - part of the key
    return FeatureStore.open(path)
