"""One shard: written by zarr-python and checked, read by byte range with every checksum verified.

The layout is Zarr v3's sharding codec: inner chunks, each followed by its crc32c, then an index of
(offset, length) pairs with a crc32c of its own. Chunks lie in order and without gaps, so that the
place of a clip is arithmetic. Reading a clip through zarr-python costs many times the CPU time of
reading its byte range, hence the reader of our own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.layout import (
    ABSENT_CHUNK,
    CHECKSUM_BYTES,
    ChunkLayout,
    crc32c,
    crc32c_function,
    sha256,
)
from spamo_cache.store.receipts import ShardReceipt

if TYPE_CHECKING:
    from typing_extensions import Buffer

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


def as_bytes(array: NDArray[Any]) -> memoryview:
    """A contiguous array's memory; system calls take memoryviews faster than numpy's arrays."""
    return array.reshape(-1).view(np.uint8).data


def scratch(layout: ChunkLayout) -> memoryview:
    """Where the padding of a clip's last chunk goes; one will do for any number of clips."""
    return np.empty(layout.chunk_bytes, np.uint8).data


def clip_checksum(rows: NDArray[Any], layout: ChunkLayout) -> int:
    """The crc32c of the crc32c of each chunk of a clip: what binds a clip to its place in a shard.

    Args:
        rows: (n, width) of the store's dtype.
    """
    data, size = as_bytes(rows), layout.chunk_bytes
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    sums = (crc32c(bytes(size - len(chunk)), crc32c(chunk)) for chunk in chunks)
    return crc32c(b"".join(found.to_bytes(CHECKSUM_BYTES, "little") for found in sums))


def place(stored: memoryview, out: memoryview, size: int, where: object) -> int:
    """Bring the chunks of a clip, as they lie in its shard, to where its rows go.

    Args:
        stored: the chunks, each followed by its crc32c.
        out: the clip's rows, as bytes.
        size: bytes of a chunk without its checksum.

    Returns:
        What :func:`clip_checksum` says of the rows.

    Raises:
        DamagedError: a chunk that disagrees with its crc32c.
    """
    total = 0
    for number, at in enumerate(range(0, len(out), size)):
        start = number * (size + CHECKSUM_BYTES)
        chunk, data = stored[start : start + size], out[at : at + size]
        checksum = stored[start + size : start + size + CHECKSUM_BYTES]
        data[:] = chunk[: len(data)]
        if crc32c(chunk).to_bytes(CHECKSUM_BYTES, "little") != checksum:
            raise _disagrees(where)
        total = crc32c(checksum, total)
    return total


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

    def read_into(self, chunk: int, out: memoryview, scratch: memoryview) -> int:
        """Fill ``out`` with the features from ``chunk`` on, every chunk compared with its crc32c.

        Args:
            out: whole rows.
            scratch: see :func:`scratch`.

        Returns:
            What :func:`clip_checksum` says of them.

        Raises:
            DamagedError: a chunk that is absent, cut, or disagrees with its crc32c.
        """
        with self._readable():
            return self._read(chunk, out, scratch, 0)

    def read_now(self, chunk: int, out: memoryview, scratch: memoryview) -> int | None:
        """:meth:`read_into` where all of it is in memory; None where the disk has just begun."""
        try:
            return self._read(chunk, out, scratch, _NOW)
        except OSError:  # nothing there yet, or a disk that cannot tell
            count = -(-len(out) // self._chunk_bytes) * self._stored_bytes
            _advise(self._descriptor, chunk * self._stored_bytes, count, _SOON)
            return None

    def _read(self, chunk: int, out: memoryview, scratch: memoryview, flags: int) -> int:
        # Chunk by chunk: its checksum then finds it in the processor's cache.
        size, stored, offset = self._chunk_bytes, self._stored_bytes, chunk * self._stored_bytes
        crc32c, checksums = crc32c_function(), bytearray()
        for at in range(0, len(out), size):
            data, checksum = out[at : at + size], bytearray(CHECKSUM_BYTES)
            padding = scratch[: size - len(data)]
            count = os.preadv(self._descriptor, (data, padding, checksum), offset, flags)
            if count < stored:
                self._fill(_without((data, padding, checksum), count), offset + count, flags)
            found = crc32c(data)
            if padding:
                found = crc32c(padding, found)
            if found != int.from_bytes(checksum, "little"):
                raise _disagrees(self.path)
            checksums += checksum
            offset += stored
        return crc32c(checksums)

    def _fill(self, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> None:
        """Fill all buffers from ``offset`` on, in as many system calls as the disk wants."""
        while buffers:
            count = os.preadv(self._descriptor, buffers, offset, flags)
            if count == 0:
                raise DamagedError("the shard ends early", where=self.path)
            buffers, offset = _without(buffers, count), offset + count

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=self.path) from error

    def _check_index(self, layout: ChunkLayout) -> None:
        """Hold the shard's own index against the rule that chunks lie in order without gaps."""
        index_at = self.size - layout.index_bytes
        if index_at < 0:
            raise DamagedError(f"the shard is cut to {self.size} bytes", where=self.path)
        raw = memoryview(bytearray(layout.index_bytes))
        with self._readable():
            self._fill([raw], index_at)
        entries = raw[:-CHECKSUM_BYTES]
        if crc32c(entries) != int.from_bytes(raw[-CHECKSUM_BYTES:], "little"):
            raise DamagedError("the shard's index disagrees with its checksum", where=self.path)
        expected = np.full((layout.chunks, 2), ABSENT_CHUNK, "<u8")
        count, rest = divmod(index_at, self._stored_bytes)
        expected[:count, 0] = np.arange(count, dtype="<u8")[: layout.chunks] * self._stored_bytes
        expected[:count, 1] = self._stored_bytes
        if rest or count > layout.chunks or entries.tobytes() != expected.tobytes():
            raise StoreError("the shard's chunks are not of our form", where=self.path)


def _without(buffers: Sequence[Buffer], count: int) -> list[memoryview]:
    """What is left to fill after the first ``count`` bytes."""
    left = [memoryview(buffer) for buffer in buffers]
    while left and count >= len(left[0]):
        count -= len(left.pop(0))
    if count:
        left[0] = left[0][count:]
    return left


def _disagrees(where: object) -> DamagedError:
    return DamagedError("features disagree with their checksum", where=where, remedy=_MEND)
