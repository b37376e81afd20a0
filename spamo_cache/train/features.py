"""Features as training sees them, wherever they lie, and a bank that packs them into batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np
import torch
from torch import nn

from spamo_cache import human
from spamo_cache.config import Pipeline
from spamo_cache.datasets.mixture import corpus_of, own_id
from spamo_cache.errors import StoreError
from spamo_cache.model.rows import Packed
from spamo_cache.store.attributes import Attributes
from spamo_cache.store.remote import Location


class Features(Protocol):
    """One stream's rows per clip; a FeatureStore is one."""

    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def path(self) -> Location | None: ...

    def state(self, clip: str) -> Literal["ok", "failed", "absent"]: ...
    def reason(self, clip: str) -> str | None: ...
    def rows(self, clip: str) -> int: ...
    def read_into(self, ids: Sequence[str], buffer: np.ndarray) -> np.ndarray:
        """Fill ``buffer`` with the packed rows; offsets (len(ids) + 1,)."""
        ...


class MarkedFeatures(Features, Protocol):
    """A stream that says of each row if it is valid."""

    def valid(self, ids: Sequence[str]) -> list[np.ndarray]:
        """(rows,) bool of each clip."""
        ...


def are_marked(stream: Features) -> TypeGuard[MarkedFeatures]:
    """Whether some rows of a stream may not be valid."""
    return bool(getattr(stream, "has_validity", False))


class Frames(Features, Protocol):
    """A stream that is encoded as it is trained: a row is uint8 pixels, flat.

    ``encoder`` makes (rows, width) of (rows, values); ``fingerprint`` is that of the features its
    first weights give.
    """

    encoder: nn.Module

    @property
    def values(self) -> int: ...


def are_frames(stream: Features) -> TypeGuard[Frames]:
    return hasattr(stream, "encoder")


def about(stream: Features) -> Attributes | None:
    """What its store says about itself; None for features that lie in none."""
    attributes: Attributes | None = getattr(stream, "about", None)
    return attributes


_ALIKE = {"weights_sha256", "semantics", "width"}
_FREE = {"chunk_rows", "shard_rows", "partition_frames", "compute", "dtype", "resize"}
"""What of a spec moves rows, or changes them by less than a translator minds."""


def unlike(
    one: Attributes | None, other: Attributes | None, free: Collection[str] = ()
) -> list[str]:
    """In what two stores of a stream, of whatever corpora, were made differently.

    Nothing where one of them says nothing: features that were held in memory.

    Args:
        free: further keys of the spec that may differ.
    """
    if one is None or other is None:
        return []
    ours, theirs = ({**each.spec, **each.model_dump(include=_ALIKE)} for each in (one, other))
    # A phase of 0 is left out of specs.
    ours, theirs = {"phase": 0, **ours}, {"phase": 0, **theirs}
    keys = sorted((ours.keys() | theirs.keys()) - _FREE - set(free))
    return [key for key in keys if ours.get(key) != theirs.get(key)]


def encoders_of(stores: Mapping[str, Features], streams: Iterable[str]) -> dict[str, nn.Module]:
    """Stream -> the encoder that is trained with the rest, of those that are frames."""
    chosen = {name: stores[name] for name in streams if name in stores}
    return {name: stream.encoder for name, stream in chosen.items() if are_frames(stream)}


class MemoryFeatures:
    """Features held in memory: clip id -> (rows, width) array, all of one width and dtype.

    Args:
        valid: clip id -> (rows,) bool, of every clip or of none.
    """

    path: Path | None = None

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        failed: Mapping[str, str] | None = None,
        valid: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._arrays = dict(arrays)
        self._valid = dict(valid or {})
        self.has_validity = bool(valid)
        self._failed = dict(failed or {})
        first = next(iter(self._arrays.values()), np.empty((0, 0), np.float16))
        self.width = int(first.shape[1])
        self.dtype: np.dtype[Any] = first.dtype

    @property
    def fingerprint(self) -> str:
        total = hashlib.sha256()
        for clip in sorted(self._arrays.keys() | self._failed.keys()):
            array = self._arrays.get(clip)
            content = b"failed" if array is None else np.ascontiguousarray(array).tobytes()
            total.update(f"{clip} {hashlib.sha256(content).hexdigest()}\n".encode())
            if clip in self._valid:
                total.update(self._valid[clip].tobytes())
        return total.hexdigest()

    def state(self, clip: str) -> Literal["ok", "failed", "absent"]:
        if clip in self._arrays:
            return "ok"
        return "failed" if clip in self._failed else "absent"

    def reason(self, clip: str) -> str | None:
        return self._failed.get(clip)

    def rows(self, clip: str) -> int:
        return len(self._arrays[clip])

    def read_into(self, ids: Sequence[str], buffer: np.ndarray) -> np.ndarray:
        offsets = np.cumsum([0, *(self.rows(clip) for clip in ids)])
        for clip, start, stop in zip(ids, offsets, offsets[1:], strict=False):
            buffer[start:stop] = self._arrays[clip]
        return offsets

    def valid(self, ids: Sequence[str]) -> list[np.ndarray]:
        return [self._valid[clip] for clip in ids]


class MixedFeatures:
    """One stream of several corpora: clips of a mixed manifest, each read where its corpus lies.

    Everything but the clips is as in ``own``, and the dtype one that holds the values of all.

    Args:
        own: of the target.
        others: corpus -> features of the same spec and weights.
    """

    def __init__(self, own: Features, others: Mapping[str, Features]) -> None:
        self.own, self.others = own, others
        self.width = own.width
        self.dtype = np.result_type(own.dtype, *(other.dtype for other in others.values()))
        self.fingerprint, self.path, self.about = own.fingerprint, own.path, about(own)
        self.has_validity = any(map(are_marked, (own, *others.values())))

    def valid(self, ids: Sequence[str]) -> list[np.ndarray]:
        found = []
        for clip in ids:
            store, own = self._of(clip)
            whole = np.ones(store.rows(own), bool)
            found.append(store.valid([own])[0] if are_marked(store) else whole)
        return found

    def _of(self, clip: str) -> tuple[Features, str]:
        corpus = corpus_of(clip, "", self.others)
        return self.others.get(corpus, self.own), own_id(clip, corpus)

    def state(self, clip: str) -> Literal["ok", "failed", "absent"]:
        store, own = self._of(clip)
        return store.state(own)

    def reason(self, clip: str) -> str | None:
        store, own = self._of(clip)
        return store.reason(own)

    def rows(self, clip: str) -> int:
        store, own = self._of(clip)
        return store.rows(own)

    def read_into(self, ids: Sequence[str], buffer: np.ndarray) -> np.ndarray:
        located = [self._of(clip) for clip in ids]
        offsets = np.cumsum([0, *(store.rows(own) for store, own in located)])
        # Clips that lie in one store and follow each other are read at once.
        first = 0
        for _, group in groupby(located, key=lambda one: id(one[0])):
            (store, *_), own = zip(*group, strict=True)
            last = first + len(own)
            rows = buffer[offsets[first] : offsets[last]]
            if store.dtype == buffer.dtype:
                store.read_into(own, rows)
            else:
                narrower: np.ndarray = np.empty(rows.shape, store.dtype)
                store.read_into(own, narrower)
                rows[:] = narrower
            first = last
        return offsets


class Bank:
    """Rows of the clips of one split, per stream, ready to be batched.

    Streams that fit together into ``memory`` bytes are read once and kept; others, and frames
    always, are read anew for every batch.

    Args:
        stores: stream -> features; every clip of ``clips`` must be ``ok`` in all of them.
        clips: ids, in the order in which :meth:`packed` is asked for them by number.
        derangement: clip -> clip whose features it gets instead of its own.
        max_frames: the longest stream of a clip is thinned out evenly to this many rows, the
            others in proportion, so that streams stay in step.
        memory: bytes.
        crop: a seed: instead, every stream that is longer is cropped to a random range of
            ``max_frames`` rows, on its own, as the official release does.
    """

    def __init__(
        self,
        stores: Mapping[str, Features],
        clips: Sequence[str],
        *,
        derangement: Mapping[str, str] | None = None,
        max_frames: int,
        memory: int,
        crop: str | None = None,
    ) -> None:
        self._stores = stores
        self._ids = [(derangement or {}).get(clip, clip) for clip in clips]
        self._rows = {
            name: np.array([store.rows(clip) for clip in self._ids], dtype=np.int64)
            for name, store in stores.items()
        }
        self._crop, self._most = crop, max_frames
        longest = np.maximum.reduce(list(self._rows.values()))
        thin = (longest > max_frames) & (crop is None)
        self._kept = {
            name: np.where(thin, -(-rows * max_frames // longest), rows)
            for name, rows in self._rows.items()
        }
        size = sum(
            int(self._kept[name].sum()) * store.width * np.dtype(store.dtype).itemsize
            for name, store in stores.items()
        )
        self.of_frames = any(map(are_frames, stores.values()))
        self.in_memory = size <= memory and not self.of_frames
        self._held = {name: self._read(name, range(len(clips))) for name in self._held_names()}
        self._starts = {
            name: np.concatenate([[0], np.cumsum(kept)]) for name, kept in self._kept.items()
        }

    @property
    def streams(self) -> list[str]:
        """Names, in their order."""
        return list(self._stores)

    @property
    def lengths(self) -> np.ndarray:
        """(clips,) rows of all streams together."""
        summed: np.ndarray = np.stack([self.lengths_of(name) for name in self._kept]).sum(0)
        return summed

    def lengths_of(self, name: str) -> np.ndarray:
        """(clips,) rows of one stream."""
        kept = self._kept[name]
        return kept if self._crop is None else np.minimum(kept, self._most)

    def packed(self, numbers: Sequence[int], draw: int = 0) -> dict[str, Packed]:
        """The clips with these numbers; random ranges differ with ``draw``.

        Rows are of the type that the stream keeps them in.
        """
        return {name: self._pack(name, numbers, draw) for name in self._stores}

    def row_indices(self, name: str, number: int) -> np.ndarray:
        """(rows,) which of its stored rows a clip is handed out with in evaluation."""
        rows, kept = int(self._rows[name][number]), int(self._kept[name][number])
        if self._crop is None:
            return evenly(rows, kept)
        first = self._first(number, rows, draw=0)
        return np.arange(first, min(first + self._most, rows))

    def _held_names(self) -> Iterable[str]:
        return self._stores if self.in_memory else ()

    def _pack(self, name: str, numbers: Sequence[int], draw: int) -> Packed:
        lengths = self._kept[name][list(numbers)]
        if name not in self._held:
            rows = self._read(name, numbers)
        else:
            starts = self._starts[name]
            rows = np.concatenate([self._held[name][starts[i] : starts[i + 1]] for i in numbers])
        valid = self._read_valid(name, numbers)
        if self._crop is not None and lengths.max() > self._most:
            firsts = [self._first(i, int(n), draw) for i, n in zip(numbers, lengths, strict=True)]
            kept = np.minimum(lengths, self._most)
            chosen = np.concatenate(list(map(np.arange, *_ranges(lengths, firsts, kept))))
            rows, valid = rows[chosen], None if valid is None else valid[chosen]
            lengths = kept
        return Packed(
            torch.from_numpy(rows),
            torch.from_numpy(lengths),
            tuple(lengths.tolist()),
            None if valid is None else torch.from_numpy(valid),
        )

    def _first(self, number: int, rows: int, draw: int) -> int:
        """First row of the range that a clip is cropped to."""
        chance = random.Random(f"{self._crop} crop {self._ids[number]} {draw}")  # noqa: S311
        return chance.randint(0, max(0, rows - self._most))

    def _read(self, name: str, numbers: Sequence[int]) -> np.ndarray:
        """(rows, width) of these clips as stored, thinned out."""
        chosen = list(numbers)
        rows = self._rows[name][chosen]
        store = self._stores[name]
        values = store.values if are_frames(store) else store.width
        buffer = np.empty((int(rows.sum()), values), dtype=store.dtype)
        store.read_into([self._ids[i] for i in chosen], buffer)
        return self._thinned(name, chosen, buffer)

    def _read_valid(self, name: str, numbers: Sequence[int]) -> np.ndarray | None:
        """(rows,) bool of these clips, thinned out like their rows; None where all are valid."""
        store = self._stores[name]
        if not are_marked(store):
            return None
        chosen = list(numbers)
        valid = np.concatenate(store.valid([self._ids[i] for i in chosen]))
        return self._thinned(name, chosen, valid)

    def _thinned(self, name: str, chosen: list[int], rows: np.ndarray) -> np.ndarray:
        """What is kept of the rows of these clips, which lie end to end."""
        stored, kept = self._rows[name][chosen], self._kept[name][chosen]
        if np.array_equal(kept, stored):
            return rows
        starts = np.cumsum(stored) - stored
        triples = zip(starts, stored, kept, strict=True)
        indices = [start + evenly(int(n), int(k)) for start, n, k in triples]
        thinned: np.ndarray = rows[np.concatenate(indices)]
        return thinned


def crop_of(pipeline: Pipeline) -> str | None:
    """What :class:`Bank` crops by under this pipeline's protocol."""
    return str(pipeline.seed) if pipeline.protocol.crop_at_random else None


def _ranges(
    lengths: np.ndarray, firsts: Sequence[int], kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the rows kept of each clip, where clips lie end to end."""
    starts = np.cumsum(lengths) - lengths + np.array(firsts)
    return starts, starts + kept


def evenly(rows: int, kept: int) -> np.ndarray:
    """(kept,) indices spread over ``rows`` from the first to the last."""
    chosen: np.ndarray = np.linspace(0, rows - 1, kept).round().astype(np.int64)
    return chosen


def derangement(clips: Sequence[str], seed: int) -> dict[str, str]:
    """Every clip -> another clip, one to one: the floor that `shuffle_features` measures.

    Raises:
        StoreError: fewer than two clips cannot be shuffled.
    """
    if len(clips) < 2:
        raise StoreError("one clip alone cannot be given another's features")
    order = sorted(clips)
    random.Random(seed).shuffle(order)  # noqa: S311
    return dict(zip(order, order[1:] + order[:1], strict=True))


def usable(
    stores: Mapping[str, Features], clips: Iterable[str], what: str, *, drop_missing: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Clips with features in every stream, and the failed ones with their reason.

    Args:
        what: where the clips are from.
        drop_missing: clips that were never extracted are failed ones.

    Raises:
        StoreError: clips that were never extracted: leaving them out would change the experiment.
    """
    good: list[str] = []
    failed: dict[str, str] = {}
    absent: list[str] = []
    for clip in clips:
        states = {name: store.state(clip) for name, store in stores.items()}
        if "absent" in states.values():
            absent.append(clip)
            failed |= {clip: "never extracted"} if drop_missing else {}
            continue
        broken = [name for name, state in states.items() if state == "failed"]
        if broken:
            failed[clip] = f"{broken[0]}: {stores[broken[0]].reason(clip)}"
        else:
            good.append(clip)
    if absent and not drop_missing:
        raise StoreError(
            f"{human.count(len(absent), 'clip has', 'clips have')} no features yet, "
            f"first {absent[0]!r}",
            where=what,
            remedy="run spamo-cache extract for this split first",
        )
    return good, failed
