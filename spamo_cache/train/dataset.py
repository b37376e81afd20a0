"""Feature stores as a torch ``Dataset``, with batches that can be resumed in mid-epoch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from spamo_cache import human
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.model.rows import Packed, Padded, join
from spamo_cache.store.index import StringColumn, encode_strings
from spamo_cache.store.reader import FeatureStore


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Some clips, the rows of all of them end to end.

    Attributes:
        ids: of the clips, in the order of the rows.
        streams: stream -> ``rows`` (sum of lengths, width) in the store's dtype, ``lengths``
            (clips,) int64, and ``valid`` (sum of lengths,) bool, or None where the store has no
            validity: then all rows are valid.
    """

    ids: list[str]
    streams: dict[str, Packed]

    def padded(self) -> PaddedBatch:
        """The same clips, each padded to the longest one of the batch in its stream."""
        return PaddedBatch(self.ids, {name: join([rows]) for name, rows in self.streams.items()})

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch with its tensors on ``device``."""
        there = torch.device(device)
        return PackedBatch(self.ids, {name: rows.to(there) for name, rows in self.streams.items()})

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return PackedBatch(
            self.ids, {name: part.pin_memory() for name, part in self.streams.items()}
        )


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Some clips, padded with zeros to the longest.

    Attributes:
        ids: of the clips.
        streams: stream -> ``rows`` (clips, longest, width) in the store's dtype, ``lengths``
            (clips,) int64, and ``mask`` (clips, longest) bool, True on true rows that are valid.
            ``valid`` (clips, longest) bool is None where the store has no validity.
    """

    ids: list[str]
    streams: dict[str, Padded]

    def to(self, device: torch.device | str) -> PaddedBatch:
        """The same batch with its tensors on ``device``."""
        there = torch.device(device)
        return PaddedBatch(self.ids, {name: rows.to(there) for name, rows in self.streams.items()})

    def pin_memory(self) -> PaddedBatch:
        """The same batch in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return PaddedBatch(
            self.ids, {name: part.pin_memory() for name, part in self.streams.items()}
        )


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Clips of feature stores by number: stream -> (rows, width) tensor in the store's dtype.

    ``loader`` gives batches of it, the same ones whatever the number of workers, and can be
    resumed in mid-epoch:

        data = FeatureDataset({"spatial": store}, split="train")
        loader = data.loader(16, seed=0, num_workers=2)
        for batch in loader:
            rows, lengths = batch.streams["spatial"].rows, batch.streams["spatial"].lengths
            ...
            checkpoint["loader"] = loader.state_dict()

    Any ``DataLoader`` will do that is given one of the collate functions: each batch is one read.
    Every checksum is verified on the way.

    Args:
        stores: stream -> store, as ``spamo_cache.open_store`` opens them. Those in remote
            roots need spawned workers (``multiprocessing_context="spawn"``).
        ids: which clips, in order; by default all that have features in every stream, sorted.
        split: of the manifest that the stores were extracted from; instead of ``ids``.

    Attributes:
        ids: of the clips, by number.

    Raises:
        StoreError: a clip of ``ids`` that a store has no features of, no clip at all, or a split
            that the stores do not have.
        UsageError: no store, or both ``ids`` and ``split``.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore],
        ids: Sequence[str] | None = None,
        *,
        split: str | None = None,
    ) -> None:
        if not stores:
            raise UsageError("a FeatureDataset needs a store for at least one stream")
        if ids is not None and split is not None:
            raise UsageError("ids and split exclude each other", remedy="leave one of them out")
        self._stores = dict(stores)
        wanted = self._in_every_stream(split) if ids is None else ids
        if not wanted:
            where = ", ".join(str(store.path) for store in stores.values())
            raise StoreError("no clip has features in every stream", where=where)
        # Not a list: forked workers would copy a million strings by counting references to them.
        self.ids: Sequence[str] = StringColumn(encode_strings(wanted, "clip id"))
        self._lengths = {name: store.lengths(wanted) for name, store in stores.items()}

    def _in_every_stream(self, split: str | None) -> list[str]:
        for store in self._stores.values():
            if split is not None and split not in store.splits:
                raise StoreError(
                    f"has no split {split!r}",
                    where=store.path,
                    remedy=f"choose among {', '.join(store.splits)}",
                )
        first, *others = (store.select(split=split, state="ok") for store in self._stores.values())
        return sorted(set(first).intersection(*others))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Stream -> (rows, width) tensor of one clip."""
        return {name: part.rows for name, part in self.__getitems__([number]).streams.items()}

    def __getitems__(self, numbers: Sequence[int]) -> PackedBatch:
        """Read a batch at once; ``DataLoader`` calls this."""
        ids = [self.ids[number] for number in numbers]
        return PackedBatch(ids, {name: self._packed(name, ids, numbers) for name in self._stores})

    @staticmethod
    def collate(clips: Any) -> PackedBatch:
        """For ``DataLoader(collate_fn=...)``: batches as they are read, packed.

        Where a model wants padding, call ``PackedBatch.padded`` where the batch is used:
        padding is much of what would travel between processes.
        """
        batch: PackedBatch = clips  # DataLoader's types know of lists only
        return batch

    @staticmethod
    def collate_padded(clips: Any) -> PaddedBatch:
        """For ``DataLoader(collate_fn=...)``: padded with zeros to the longest clip of a batch."""
        return FeatureDataset.collate(clips).padded()

    def sampler(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> BatchSampler:
        """The batches of every epoch; arguments as of ``BatchSampler``."""
        return BatchSampler(
            self.ids,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            num_replicas=num_replicas,
        )

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        num_replicas: int = 1,
        padded: bool = False,
        **options: Any,
    ) -> FeatureLoader:
        """Make a resumable ``DataLoader`` of these clips.

        Args:
            padded: give ``PaddedBatch`` in place of ``PackedBatch``.
            options: further ones of ``DataLoader``, as ``num_workers`` and ``pin_memory``. The
                others are those of ``BatchSampler``.
        """
        batches = self.sampler(
            batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            num_replicas=num_replicas,
        )
        collate = self.collate_padded if padded else self.collate
        return FeatureLoader(self, batches, collate_fn=collate, **options)

    def _packed(self, name: str, ids: Sequence[str], numbers: Sequence[int]) -> Packed:
        store, lengths = self._stores[name], self._lengths[name][list(numbers)]
        rows = _empty(int(lengths.sum()), store.width, store.dtype)
        store.read_into(ids, rows.numpy())
        valid = None
        if store.has_validity:
            valid = torch.from_numpy(np.concatenate(store.valid(ids)))
        return Packed(rows, torch.from_numpy(lengths), tuple(lengths.tolist()), valid)


class BatchSampler(Sampler[list[int]]):
    """Which clips make up each batch of an epoch: a pure function of seed and epoch.

    Use it as ``DataLoader(batch_sampler=...)``. Every epoch is another permutation; a finished one
    is followed by the next, and ``set_epoch`` begins one of choice.

    The state counts batches that were *asked for*, which a DataLoader with workers does ahead of
    time: ``FeatureLoader`` and torchdata's ``StatefulDataLoader`` know how many of these
    have been used.

    Args:
        ids: of the clips.
        batch_size: clips of a batch.
        shuffle: whether epochs are permutations; otherwise all have the order of ``ids``.
        seed: of the permutations.
        drop_last: leave out the clips that do not fill a batch.
        rank: of this process among the ``num_replicas`` that the batches are dealt out to, one
            after the other. All get equally many; batches that are left over are dropped.

    Raises:
        UsageError: sizes of which no batch can be made.
    """

    def __init__(
        self,
        ids: Sequence[str],
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < num_replicas:
            raise UsageError(
                f"no batches of {batch_size} clips for process {rank} of {num_replicas}",
                remedy="batch_size is at least 1, rank from 0 to num_replicas - 1",
            )
        self._clips, self.batch_size, self.drop_last = len(ids), batch_size, drop_last
        self._shuffle, self._seed = shuffle, seed
        self._rank, self._replicas = rank, num_replicas
        self.epoch, self.start = 0, 0
        if not len(self):
            raise UsageError(
                f"no batch of {batch_size} for each process from "
                f"{human.count(self._clips, 'clip')}",
                remedy="take smaller batches, or do not drop the last one",
            )
        depends = f"{batch_size} {shuffle} {seed} {drop_last} {num_replicas}"
        content = hashlib.sha256(depends.encode())
        for clip in ids:
            content.update(f"\n{clip!r}".encode("utf-8", "surrogatepass"))
        self._order = content.hexdigest()

    def __len__(self) -> int:
        """Batches of an epoch, of this process."""
        whole, left = divmod(self._clips, self.batch_size)
        return (whole + (left > 0 and not self.drop_last)) // self._replicas

    def __iter__(self) -> Iterator[list[int]]:
        return _Epoch(self, self.epoch, self.start)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch with the next iteration, as of torch's ``DistributedSampler``."""
        self.epoch, self.start = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next iteration begins: plain values for any checkpoint."""
        return self.state(self.epoch, self.start)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batch after those that ``state`` counts.

        Raises:
            UsageError: a state of other clips, sizes or seeds, or none at all.
        """
        self.epoch, self.start = self.position(state)

    def state(self, epoch: int, batches: int) -> dict[str, Any]:
        """The state after so many batches of an epoch."""
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        return {"epoch": epoch, "batches": batches, "order": self._order}

    def position(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Epoch and finished batches of a state; raises as ``load_state_dict``."""
        epoch, batches = state.get("epoch"), state.get("batches")
        if not (isinstance(epoch, int) and isinstance(batches, int) and min(epoch, batches) >= 0):
            raise UsageError("is no state of batches", where="load_state_dict")
        if state.get("order") != self._order:
            raise UsageError(
                "is the state of other batches: of other clips, batch size, seed or processes",
                where="load_state_dict",
                remedy="build the loader as it was when the state was taken",
            )
        return epoch, batches

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of this process in an epoch, as numbers of clips."""
        order = list(range(self._clips))
        if self._shuffle:
            # Seeding with a string hashes it by sha512: the same on every machine and version.
            random.Random(f"{self._seed} {epoch}").shuffle(order)  # noqa: S311
        first = range(self._rank * self.batch_size, self._clips, self._replicas * self.batch_size)
        return [order[start : start + self.batch_size] for start in first][: len(self)]


class _Epoch(Iterator[list[int]]):
    """An epoch under way; ``StatefulDataLoader`` keeps its state with every batch."""

    def __init__(self, sampler: BatchSampler, epoch: int, start: int) -> None:
        self._sampler = sampler
        self._begin(epoch, start)

    def _begin(self, epoch: int, start: int) -> None:
        self._epoch, self._next = epoch, start
        self._batches = self._sampler.batches(epoch)

    def __next__(self) -> list[int]:
        if self._next >= len(self._batches):
            self._sampler.set_epoch(self._epoch + 1)
            raise StopIteration
        self._next += 1
        return self._batches[self._next - 1]

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state(self._epoch, self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._begin(*self._sampler.position(state))


class FeatureLoader(DataLoader[Any]):
    """A ``DataLoader`` whose state says how many batches were handed out, prefetched or not.

    Each iteration is an epoch. One that was left early goes on after the last batch that was
    handed out; ``set_epoch`` begins anew. Batches depend on seed and epoch alone, so a loader
    with another number of workers goes on with the same ones.
    """

    def __init__(self, data: FeatureDataset, batches: BatchSampler, **options: Any) -> None:
        super().__init__(data, batch_sampler=batches, **options)
        self._batches = batches
        self._epoch, self._used = 0, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # After the last batch of an epoch its state is that of the next one.
        epoch, used = self._batches.position(self.state_dict())
        self._batches.epoch, self._batches.start = epoch, used
        for batch in super().__iter__():
            used += 1
            self._epoch, self._used = epoch, used
            yield batch
        self.set_epoch(epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch with the next iteration."""
        self._epoch, self._used = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """What was handed out so far: ``epoch``, ``batches`` of it, and what these depend on.

        Plain values for any checkpoint, taken at any time, within the loop too.
        """
        return self._batches.state(self._epoch, self._used)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on after the batches that ``state`` counts.

        Raises:
            UsageError: a state of other clips, sizes or seeds, or none at all.
        """
        self._epoch, self._used = self._batches.position(state)


def _empty(rows: int, width: int, dtype: np.dtype[np.generic]) -> Tensor:
    """(rows, width), in a worker in memory that its parent shares: it is sent without a copy."""
    kind = {"float16": torch.float16, "float32": torch.float32}[dtype.name]
    if get_worker_info() is None:
        return torch.empty(rows, width, dtype=kind)
    storage = torch.UntypedStorage._new_shared(rows * width * dtype.itemsize)
    return torch.empty(0, dtype=kind).set_(storage, 0, (rows, width), (width, 1))
