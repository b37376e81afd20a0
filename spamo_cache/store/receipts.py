"""Receipts: what a store vouches for. A partition without a valid one does not exist."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from spamo_cache import io
from spamo_cache.config import StrictModel
from spamo_cache.errors import DamagedError
from spamo_cache.store.attributes import (
    Attributes,
    Sha256,
    document_of,
    load_json,
    read_record,
    without,
)
from spamo_cache.store.layout import canonical
from spamo_cache.store.leases import Leases
from spamo_cache.store.remote import Location, RemotePath

Count = Annotated[int, Field(ge=0, lt=2**48)]
MAX_RECEIPT_BYTES = 1 << 24
_THREADS = 16


class ClipReceipt(StrictModel):
    """One clip whose features a receipt vouches for."""

    rows: Annotated[int, Field(ge=1)]
    sha256: Sha256
    """Of its (rows, width) values, little-endian, without padding."""
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]
    """Of the crc32c of each of its chunks: cheap to compare whenever it is read."""
    invalid: tuple[Annotated[tuple[Count, Count], Field(strict=False)], ...] = ()
    """First row and end of each run of rows that are not valid, in order."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(rows,) whether each row is valid."""
        valid = np.ones(self.rows, bool)
        for start, end in self.invalid:
            valid[start:end] = False
        return valid

    @model_validator(mode="after")
    def _check_invalid(self) -> ClipReceipt:
        edges = [edge for run in self.invalid for edge in run]
        if not all(a < b for a, b in pairwise([-1, *edges, self.rows + 1])):
            raise ValueError("not runs of the clip's rows")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A clip whose rows are all valid is written as it was before there was validity.
        return without(dump(self), "invalid", [])


def invalid_runs(valid: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """First row and end of each run of rows that are not valid."""
    edges = np.flatnonzero(np.diff(~valid, prepend=False, append=False)).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


class ShardReceipt(StrictModel):
    """The file that holds a partition's features."""

    size: Annotated[int, Field(ge=1)]
    sha256: Sha256
    rows: Annotated[int, Field(ge=1)]
    """Rows written, padding between clips included."""


class Receipt(StrictModel):
    """What exists of one partition; written after its shard is durable."""

    format: int
    fingerprint: Sha256
    partition: Count
    clips: Mapping[str, ClipReceipt]
    failures: Mapping[str, str]
    """Clip id -> why it has no features."""
    sources: Mapping[str, str]
    """Clip id -> SHA-256 of the source's contents, as read."""
    shard: ShardReceipt | None
    """None where every clip failed."""
    provenance: Mapping[str, Any]

    def has_features_of(self, other: Receipt) -> bool:
        """Whether both vouch for the same features, and call the same rows valid."""
        return (self.clips, self.shard) == (other.clips, other.shard)


@overload
def receipt_path(path: Path, partition: int) -> Path: ...
@overload
def receipt_path(path: RemotePath, partition: int) -> RemotePath: ...
def receipt_path(path: Location, partition: int) -> Location:
    """``receipts/<partition>.json``."""
    return path / "receipts" / f"{partition}.json"


@overload
def shard_path(path: Path, partition: int) -> Path: ...
@overload
def shard_path(path: RemotePath, partition: int) -> RemotePath: ...
def shard_path(path: Location, partition: int) -> Location:
    """``features/c.<partition>.0``: the shard with the partition's number."""
    return path / "features" / f"c.{partition}.0"


def load_receipt(path: Location, about: Attributes, partition: int) -> Receipt:
    """A receipt of the store at ``path``, itself checked.

    Raises:
        DamagedError: missing, broken, impossible, or another partition's or store's.
    """
    where = receipt_path(path, partition)
    receipt = read_record(load_json(where, MAX_RECEIPT_BYTES), Receipt, where)
    mine = (about.format, about.fingerprint, partition)
    if (receipt.format, receipt.fingerprint, receipt.partition) != mine:
        raise DamagedError("is the receipt of something else", where=where)
    if receipt.shard is not None:
        chunks, rest = divmod(receipt.shard.rows, about.chunk_rows)
        size = about.layout.shard_bytes(chunks)
        if rest or chunks > about.layout.chunks or receipt.shard.size != size:
            raise DamagedError("is the receipt of an impossible shard", where=where)
    return receipt


class Receipts:
    """The receipts of the store at ``path``."""

    def __init__(self, path: Path, attributes: Attributes) -> None:
        self.path = path
        self.attributes = attributes

    def partitions(self) -> list[int]:
        """Partitions with a receipt of any kind."""
        folder = self.path / "receipts"
        with io.reading(folder):
            names = [path.stem for path in folder.glob("*.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def __iter__(self) -> Iterator[Receipt]:
        """The valid receipts, in order of partitions."""
        receipts = map(self.valid, self.partitions())
        return (receipt for receipt in receipts if receipt is not None)

    def valid(self, partition: int) -> Receipt | None:
        """A partition's receipt; None where there is no valid one: then it is to be done again."""
        try:
            return self.sound(partition)
        except DamagedError:
            return None

    def sound(self, partition: int) -> Receipt:
        """A partition's receipt, if its shard is there as well.

        Raises:
            DamagedError: see :func:`load_receipt` and :meth:`check_shard`.
        """
        receipt = load_receipt(self.path, self.attributes, partition)
        self.check_shard(receipt)
        return receipt

    def check_shard(self, receipt: Receipt) -> None:
        """Compare the shard's size with its receipt.

        Raises:
            DamagedError: missing, a link, or of another size (zero reads as zeros in Zarr).
        """
        if receipt.shard is None:
            return
        where = shard_path(self.path, receipt.partition)
        with io.reading(where):
            try:
                size = where.lstat().st_size
            except FileNotFoundError:
                raise DamagedError("the shard is missing", where=where) from None
        if size != receipt.shard.size or where.is_symlink():
            raise DamagedError(f"the shard has {size} bytes, not {receipt.shard.size}", where=where)

    # --- changing them, from the desk of a partition's lease (see `leases`) -----------------------

    def place(self, partition: int, file: Path) -> bool:
        """Give a durable shard its name; False where somebody else has finished the partition.

        What stands there and nothing vouches for, left by a crash or withdrawn, is replaced.
        """
        final = shard_path(self.path, partition)
        if not os.path.lexists(final):
            won = io.publish(file, final)
        elif self.valid(partition) is not None:
            return False
        else:
            io.share_with_group(file, final.parent)
            file.replace(final)
            won = True
        io.sync(final.parent)
        return won

    def withdraw(self, partition: int, desk: Path) -> None:
        """Vouch for a partition no more; its shard stays until another one takes its place."""
        _take(receipt_path(self.path, partition), desk)
        io.sync(self.path / "receipts")

    def remove(self, partition: int, desk: Path) -> None:
        """Remove a partition: its receipt first, then its shard."""
        self.withdraw(partition, desk)
        _take(shard_path(self.path, partition), desk)

    def publish(self, receipt: Receipt, desk: Path) -> bool:
        """Vouch for a shard that is in its place, or for failures; the first receipt stays.

        Returns:
            Whether it is this one.
        """
        path = receipt_path(self.path, receipt.partition)
        data = canonical(document_of(receipt))
        if io.publish_bytes(path, data, desk):
            io.sync(path)
            io.sync(path.parent)
            return True
        other = self.valid(receipt.partition)
        if other is None or (other.shard != receipt.shard and self._in_place(receipt)):
            # Its writer stalled for so long that its shard was taken for left behind.
            io.replace(path, data, desk)
            return True
        return False

    def _in_place(self, receipt: Receipt) -> bool:
        shard = receipt.shard
        path = shard_path(self.path, receipt.partition)
        return shard is not None and io.regular_sha256(path) == shard.sha256


def _take(path: Path, desk: Path) -> None:
    """Move a file, where there is one, to the desk, which fails where the desk is gone."""
    try:
        path.rename(io.temporary(desk))
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


def fresh(store: Location, attributes: Attributes, listed: Collection[int]) -> Iterator[Receipt]:
    """What writers have finished since the index was written; of remote stores nothing is known.

    Args:
        listed: partitions that the index says are finished.
    """
    if isinstance(store, Path):
        here = Receipts(store, attributes)
        found = map(here.valid, sorted(set(here.partitions()).difference(listed)))
        yield from (receipt for receipt in found if receipt is not None)


def finished(
    store: Location,
    attributes: Attributes,
    listed: Collection[int],
    among: Collection[int] | None = None,
) -> Iterator[Receipt]:
    """What a store vouches for, in order of partitions.

    Of a remote store, whose files a server may not list, only what its index lists.

    Args:
        listed: partitions that the index says are finished.
        among: only these partitions.

    Raises:
        DamagedError: a receipt of a remote store that is missing or broken.
    """
    done = set(listed)
    if isinstance(store, Path):
        here, leases = Receipts(store, attributes), Leases.beside(store)
        for number in sorted(done.union(here.partitions())):
            if among is None or number in among:
                with suppress(DamagedError):
                    yield leases.settled(number, partial(here.sound, number))
        return
    partitions = [number for number in sorted(done) if among is None or number in among]
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda number: load_receipt(store, attributes, number), partitions)
