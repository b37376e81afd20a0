"""One shard: written by zarr-python and checked, read by byte range with every checksum verified.

The layout is Zarr v3's sharding codec: inner chunks, each followed by its crc32c, then an index of
(offset, length) pairs with a crc32c of its own. Reading a clip through zarr-python costs many times
the CPU time of reading its byte range, hence the reader of our own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import files
from spamo_cache.store.layout import (
    ABSENT_CHUNK,
    CHECKSUM_BYTES,
    Geometry,
    sha256,
)
from spamo_cache.store.records import ShardReceipt

# One system call takes at most 1,024 buffers (IOV_MAX), two for each chunk.
_CHUNKS_PER_CALL = 500


def write(folder: Path, geometry: Geometry, rows: NDArray[Any]) -> tuple[Path, ShardReceipt]:
    """Write the first rows of a shard with zarr-python, read them back and make them durable.

    Args:
        folder: an empty folder on the store's disk; the caller removes it.
        rows: (n, width) of the store's dtype, n a multiple of the chunk's rows.

    Returns:
        The shard's file, to be published under its name, and what its receipt says of it.

    Raises:
        DamagedError: what came back from the disk is not what was written.
    """
    array = zarr.create_array(
        folder,
        shape=(geometry.shard_rows, geometry.width),
        dtype=geometry.dtype,
        chunks=(geometry.chunk_rows, geometry.width),
        shards=(geometry.shard_rows, geometry.width),
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        # Empty chunks are written too: the place of a chunk in its shard is arithmetic then.
        config={"write_empty_chunks": True},
    )
    array[: len(rows)] = rows
    path = folder / "c.0.0"
    files.sync(path)
    shard = Shard(path, geometry)
    back = np.empty_like(rows)
    shard.read_into(0, back)
    if back.tobytes() != rows.tobytes():
        raise DamagedError("the disk did not keep what was written", where=path)
    data = path.read_bytes()
    return path, ShardReceipt(size=len(data), sha256=sha256(data), rows=len(rows))


class Shard:
    """An open shard; safe to share between threads and across fork (no file position is used).

    Args:
        size: bytes it must have, from its receipt; None where there is none yet.

    Raises:
        DamagedError: missing, of another size, or with an index that is not to be trusted.
    """

    def __init__(self, path: Path, geometry: Geometry, size: int | None = None) -> None:
        self.path = path
        self.geometry = geometry
        try:
            self._descriptor = files.open_regular(path)
        except FileNotFoundError:
            raise DamagedError("the shard is missing", where=path) from None
        # Closed with the last reference: eviction from a cache cannot hit a read in another thread.
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        if size is not None and self.size != size:
            raise DamagedError(f"the shard has {self.size} bytes, not {size}", where=path)
        self.offsets = self._read_index()

    def read_into(self, row: int, out: NDArray[Any], *, verify: bool = True) -> None:
        """Fill ``out`` (rows, width) with the rows from ``row`` (within the shard) on.

        Args:
            row: a multiple of the chunk's rows.
            verify: compare every chunk touched with its crc32c.

        Raises:
            DamagedError: a chunk that is absent, cut, or disagrees with its crc32c.
        """
        geometry = self.geometry
        first, count = geometry.chunks_of(row, len(out))
        tail = np.empty((count * geometry.chunk_rows - len(out), out.shape[1]), out.dtype)
        sums = np.empty(count, "<u4")
        # Data goes straight to its place; checksums and the last chunk's padding are put aside.
        data, aside = _bytes(out), _bytes(sums)
        for start, end in self._runs(first, count):
            buffers: list[memoryview] = []
            for chunk in range(start, end):
                buffers.append(
                    data[chunk * geometry.chunk_bytes : (chunk + 1) * geometry.chunk_bytes]
                )
                if chunk == count - 1:
                    buffers.append(_bytes(tail))
                buffers.append(aside[chunk * CHECKSUM_BYTES : (chunk + 1) * CHECKSUM_BYTES])
            _scatter(self._descriptor, buffers, int(self.offsets[first + start]), self.path)
        if verify:
            self._verify(first, out, tail, sums)

    def _runs(self, first: int, count: int) -> list[tuple[int, int]]:
        """Chunks [start, end) of the clip that lie one after the other, by system call."""
        places = self.offsets[first : first + count]
        if len(places) < count or (places < 0).any():
            raise DamagedError("the shard holds no such rows", where=f"{self.path}, chunk {first}")
        breaks = np.flatnonzero(np.diff(places) != self.geometry.stored_bytes) + 1
        edges = {0, count, *breaks.tolist(), *range(0, count, _CHUNKS_PER_CALL)}
        return list(pairwise(sorted(edges)))

    def _verify(
        self, first: int, out: NDArray[Any], tail: NDArray[Any], sums: NDArray[np.uint32]
    ) -> None:
        step = self.geometry.chunk_rows
        for chunk, expected in enumerate(sums.tolist()):
            # numpy arrays are hashed in place, memoryviews are not accepted.
            found = google_crc32c.value(out[chunk * step : (chunk + 1) * step])
            if (chunk + 1) * step > len(out):
                found = google_crc32c.extend(found, tail)
            if found != expected:
                raise DamagedError(
                    "features disagree with their checksum",
                    where=f"{self.path}, chunk {first + chunk}",
                    remedy="run `spamo-cache store verify --deep --repair`, then extract again",
                )

    def _read_index(self) -> NDArray[np.int64]:
        """Offset of each chunk; -1 where it is absent."""
        geometry = self.geometry
        place = self.size - geometry.index_bytes
        if place < 0:
            raise DamagedError(f"the shard is cut to {self.size} bytes", where=self.path)
        entries = np.empty((geometry.chunks, 2), "<u8")
        checksum = np.empty(1, "<u4")
        _scatter(self._descriptor, [_bytes(entries), _bytes(checksum)], place, self.path)
        if google_crc32c.value(entries) != checksum[0]:
            raise DamagedError("the shard's index disagrees with its checksum", where=self.path)
        absent = (entries == ABSENT_CHUNK).all(axis=1)
        offset, length = entries[:, 0], entries[:, 1]
        inside = (length == geometry.stored_bytes) & (offset <= place) & (place - offset >= length)
        if not (absent | inside).all():
            raise StoreError("the shard's chunks are not of our form", where=self.path)
        return np.where(absent, -1, offset.astype(np.int64))


def _bytes(array: NDArray[Any]) -> memoryview:
    # A view as bytes; memoryview.cast refuses shapes with a zero in them.
    return array.reshape(-1).view(np.uint8).data


def _scatter(descriptor: int, buffers: Sequence[memoryview], offset: int, path: Path) -> None:
    """Fill all buffers with the bytes from ``offset`` on, usually in one system call."""
    remaining = list(buffers)
    while remaining:
        try:
            count = os.preadv(descriptor, remaining, offset)
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=path) from error
        if count == 0:
            raise DamagedError("the shard ends early", where=path)
        offset += count
        while remaining and count >= len(remaining[0]):
            count -= len(remaining.pop(0))
        if count:
            remaining[0] = remaining[0][count:]
