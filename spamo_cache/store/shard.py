"""One shard: written by zarr-python and checked, read by byte range with every checksum verified.

The layout is Zarr v3's sharding codec: inner chunks, each followed by its crc32c, then an index of
(offset, length) pairs with a crc32c of its own. Chunks lie in order and without gaps, so that the
place of a clip is arithmetic. Reading a clip through zarr-python costs many times the CPU time of
reading its byte range, hence the reader of our own.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.layout import (
    ABSENT_CHUNK,
    CHECKSUM_BYTES,
    Bytes,
    ChunkLayout,
    crc32c,
    sha256,
)
from spamo_cache.store.receipts import ShardReceipt

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BUFFERS_PER_CALL = 1024  # IOV_MAX
# Neither is known to every system; reading then waits for the disk, clip by clip.
_NOW: int = getattr(os, "RWF_NOWAIT", 0)
_SOON: int = getattr(os, "POSIX_FADV_WILLNEED", 0)
_advise: Callable[[int, int, int, int], None] = getattr(os, "posix_fadvise", lambda *_: None)
_MEND = "run `spamo-cache store verify --deep --repair`, then extract again"


def write_shard(folder: Path, layout: ChunkLayout, rows: NDArray[Any]) -> tuple[Path, ShardReceipt]:
    """Write the first rows of a shard with zarr-python, read them back and make them durable.

    Args:
        folder: an empty folder on the store's disk; the caller removes it.
        rows: (n, width) of the store's dtype, n a multiple of the chunk's rows.

    Returns:
        The shard's file, to be published under its name, and what its receipt says of it.

    Raises:
        DamagedError: what came back from the disk is not what was written.
    """
    # Takes as long to import as all the rest together, and nothing that reads needs it.
    import zarr  # noqa: PLC0415
    from zarr.codecs import Crc32cCodec  # noqa: PLC0415

    array = zarr.create_array(
        folder,
        shape=(layout.shard_rows, layout.width),
        dtype=layout.dtype,
        chunks=(layout.chunk_rows, layout.width),
        shards=(layout.shard_rows, layout.width),
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        # Empty chunks are written too: the place of a chunk in its shard is arithmetic then.
        config={"write_empty_chunks": True},
    )
    array[: len(rows)] = rows
    path = folder / "c.0.0"
    io.sync(path)
    shard = Shard(path, layout)
    back = np.empty_like(rows)
    shard.read_into(0, as_bytes(back), scratch(layout))
    if back.tobytes() != rows.tobytes():
        raise DamagedError("the disk did not keep what was written", where=path)
    data = path.read_bytes()
    return path, ShardReceipt(size=len(data), sha256=sha256(data), rows=len(rows))


def as_bytes(array: NDArray[Any]) -> Bytes:
    """A contiguous array's memory."""
    return array.reshape(-1).view(np.uint8)


def scratch(layout: ChunkLayout) -> Bytes:
    """Where the padding of a clip's last chunk goes; one will do for any number of clips."""
    return np.empty(layout.chunk_bytes, np.uint8)


def clip_checksum(rows: NDArray[Any], layout: ChunkLayout) -> int:
    """The crc32c of the crc32c of each chunk of a clip: what binds a clip to its place in a shard.

    Args:
        rows: (n, width) of the store's dtype.
    """
    zeros = np.zeros(layout.chunk_bytes, np.uint8)
    place = Destination(as_bytes(rows), zeros, layout.chunk_bytes)
    return crc32c(place.checksums())


class Destination:
    """Where the bytes of a clip go when they are read, and whether they are right.

    Data goes straight to its place; checksums and the last chunk's padding are put aside.

    Args:
        out: the clip's rows, as bytes.
        scratch: see :func:`scratch`.
        size: bytes of a chunk.

    Attributes:
        buffers: the places, in the order in which their bytes lie in the shard.
        bytes: the sum of their sizes.
    """

    __slots__ = ("_out", "_padding", "_size", "_sums", "buffers", "bytes")

    def __init__(self, out: Bytes, scratch: Bytes, size: int) -> None:
        count = -(-len(out) // size)
        self._out, self._size = out, size
        self._padding = scratch[: count * size - len(out)]
        self._sums = bytearray(CHECKSUM_BYTES * count)
        self.bytes = count * (size + CHECKSUM_BYTES)
        # System calls take memoryviews faster than numpy's arrays.
        data, sums = out.data, memoryview(self._sums)
        self.buffers: list[memoryview] = []
        for chunk in range(count):
            self.buffers += (
                data[chunk * size : (chunk + 1) * size],
                sums[chunk * CHECKSUM_BYTES : (chunk + 1) * CHECKSUM_BYTES],
            )
        if len(self._padding):
            self.buffers.insert(-1, self._padding.data)

    def fill(self, data: Buffer) -> None:
        """Put the clip's bytes, as they lie in the shard, in their places."""
        source, start = memoryview(data), 0
        for buffer in self.buffers:
            buffer[:] = source[start : start + len(buffer)]
            start += len(buffer)

    def checksums(self) -> bytes:
        """The crc32c of each chunk, as shards keep them."""
        out, size = self._out, self._size
        # numpy arrays are hashed in place, memoryviews of them are not accepted.
        sums = [crc32c(out[at : at + size]) for at in range(0, len(out), size)]
        if len(self._padding):
            sums[-1] = crc32c(self._padding, sums[-1])
        return struct.pack(f"<{len(sums)}I", *sums)

    def checksum(self, where: object) -> int:
        """The clip's checksum, see :func:`clip_checksum`.

        Raises:
            DamagedError: a chunk that disagrees with its own.
        """
        sums = self.checksums()
        if sums != self._sums:
            raise DamagedError("features disagree with their checksum", where=where, remedy=_MEND)
        return crc32c(sums)


class Shard:
    """An open shard; safe to share between threads and across fork (no file position is used).

    Args:
        size: bytes it must have, from its receipt; None where there is none yet.

    Raises:
        DamagedError: missing, of another size, or with an index that is not to be trusted.
    """

    def __init__(self, path: Path, layout: ChunkLayout, size: int | None = None) -> None:
        self.path = path
        self._chunk_bytes, self._stored_bytes = layout.chunk_bytes, layout.stored_bytes
        try:
            self._descriptor = io.open_regular(path)
        except FileNotFoundError:
            raise DamagedError("the shard is missing", where=path) from None
        # Closed with the last reference: eviction from a cache cannot hit a read in another thread.
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        if size is not None and self.size != size:
            raise DamagedError(f"the shard has {self.size} bytes, not {size}", where=path)
        self._check_index(layout)

    def read_into(self, chunk: int, out: Bytes, scratch: Bytes) -> int:
        """Fill ``out`` with the features from ``chunk`` on, every chunk compared with its crc32c.

        Args:
            out: whole rows.
            scratch: see :func:`scratch`.

        Returns:
            What :func:`clip_checksum` says of them.

        Raises:
            DamagedError: a chunk that is absent, cut, or disagrees with its crc32c.
        """
        place = Destination(out, scratch, self._chunk_bytes)
        self._scatter(place.buffers, place.bytes, chunk * self._stored_bytes)
        return place.checksum(self.path)

    def read_now(self, chunk: int, out: Bytes, scratch: Bytes) -> int | None:
        """:meth:`read_into` where all of it is in memory; None where the disk has just begun."""
        place = Destination(out, scratch, self._chunk_bytes)
        start = chunk * self._stored_bytes
        try:
            whole = os.preadv(self._descriptor, place.buffers, start, _NOW) == place.bytes
        except OSError:  # nothing there yet, too many buffers, or a disk that cannot tell
            whole = False
        if whole:
            return place.checksum(self.path)
        _advise(self._descriptor, start, place.bytes, _SOON)
        return None

    def _scatter(self, buffers: Sequence[memoryview], wanted: int, offset: int) -> None:
        """Fill all buffers, of so many bytes, from ``offset`` on; usually in one system call."""
        while wanted:
            try:
                count = os.preadv(self._descriptor, buffers[:_BUFFERS_PER_CALL], offset)
            except OSError as error:
                raise StoreError(f"cannot be read: {error.strerror}", where=self.path) from error
            if count == 0:
                raise DamagedError("the shard ends early", where=self.path)
            wanted, offset = wanted - count, offset + count
            buffers = _without(buffers, count) if wanted else ()

    def _check_index(self, layout: ChunkLayout) -> None:
        """Hold the shard's own index against the rule that chunks lie in order without gaps."""
        place = self.size - layout.index_bytes
        if place < 0:
            raise DamagedError(f"the shard is cut to {self.size} bytes", where=self.path)
        raw = np.empty(layout.index_bytes, np.uint8)
        self._scatter([raw.data], len(raw), place)
        entries = raw[:-CHECKSUM_BYTES]
        if crc32c(entries) != int(raw[-CHECKSUM_BYTES:].view("<u4")[0]):
            raise DamagedError("the shard's index disagrees with its checksum", where=self.path)
        expected = np.full((layout.chunks, 2), ABSENT_CHUNK, "<u8")
        count, rest = divmod(place, self._stored_bytes)
        expected[:count, 0] = np.arange(count, dtype="<u8")[: layout.chunks] * self._stored_bytes
        expected[:count, 1] = self._stored_bytes
        if rest or count > layout.chunks or not np.array_equal(entries, as_bytes(expected)):
            raise StoreError("the shard's chunks are not of our form", where=self.path)


def _without(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left to fill after the first ``count`` bytes."""
    left = list(buffers)
    while left and count >= len(left[0]):
        count -= len(left.pop(0))
    if count:
        left[0] = left[0][count:]
    return left
