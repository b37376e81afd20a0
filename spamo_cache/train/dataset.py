"""A torch ``Dataset`` on top of feature stores, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from spamo_cache.errors import StoreError
from spamo_cache.model.rows import Packed
from spamo_cache.store.index import StringColumn, encode_strings
from spamo_cache.store.reader import FeatureStore


@dataclass(frozen=True, slots=True)
class Clips:
    """A batch: ids, and per stream the rows of all its clips end to end."""

    ids: list[str]
    streams: dict[str, Packed]


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Number of a clip -> its (rows, width) tensor in every stream, in the store's dtype.

    A DataLoader that is given the collate function reads whole batches, packed; padding is better
    done where a batch is used, for it is much of what would travel between processes::

        data = FeatureDataset({"spatial": FeatureStore.open(path)})
        loader = DataLoader(data, 16, shuffle=True, num_workers=2, collate_fn=data.collate)

    Every checksum is verified on the way.

    Args:
        stores: stream -> store. Those in remote roots need spawned workers.
        ids: which clips, in order; where None, all that have features in every stream.

    Raises:
        StoreError: a clip of ``ids`` that a store has no features of, or no clip at all.
    """

    def __init__(
        self, stores: Mapping[str, FeatureStore], ids: Sequence[str] | None = None
    ) -> None:
        self._stores = dict(stores)
        wanted = self._common() if ids is None else ids
        if not wanted:
            raise StoreError("no clip has features in every stream", where=", ".join(stores))
        # Not a list: forked workers would copy a million strings by counting references to them.
        self._ids = StringColumn(encode_strings(wanted, "clip id"))
        self._lengths = {name: store.lengths(wanted) for name, store in stores.items()}

    def _common(self) -> list[str]:
        found = [store.select(state="ok") for store in self._stores.values()]
        kept = set(found[0]).intersection(*found[1:]) if found else set()
        return sorted(kept)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {name: part.rows for name, part in self.__getitems__([number]).streams.items()}

    def __getitems__(self, numbers: Sequence[int]) -> Clips:
        """What DataLoader calls for a batch."""
        ids = [self._ids[number] for number in numbers]
        return Clips(ids, {name: self._packed(name, ids, numbers) for name in self._stores})

    @staticmethod
    def collate(clips: Any) -> Clips:
        """For ``DataLoader(collate_fn=...)``: batches are read as one, nothing is left to do."""
        batch: Clips = clips  # DataLoader's types know of lists only
        return batch

    def _packed(self, name: str, ids: Sequence[str], numbers: Sequence[int]) -> Packed:
        store, lengths = self._stores[name], self._lengths[name][list(numbers)]
        rows = _empty(int(lengths.sum()), store.width, store.dtype)
        store.read_into(ids, rows.numpy())
        return Packed(rows, torch.from_numpy(lengths))


def _empty(rows: int, width: int, dtype: np.dtype[np.generic]) -> Tensor:
    """(rows, width), in a worker in memory that its parent shares: it is sent without a copy."""
    kind = {"float16": torch.float16, "float32": torch.float32}[dtype.name]
    if get_worker_info() is None:
        return torch.empty(rows, width, dtype=kind)
    storage = torch.UntypedStorage._new_shared(rows * width * dtype.itemsize)
    return torch.empty(0, dtype=kind).set_(storage, 0, (rows, width), (width, 1))
