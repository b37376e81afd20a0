"""One folder of clips in every format that labs keep features in, each filling a packed batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import lmdb
import numpy as np
import zarr
from numpy.typing import NDArray

from reference.material import WIDTH, Array, Material
from spamo_cache.store.layout import CHECKSUM_BYTES
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.shard import Shard

Reader = Callable[[Sequence[int]], object]
"""Fills the batch with the clips of these numbers."""


class Formats:
    """The same clips in every format.

    Args:
        batch: most clips read at once.
    """

    def __init__(self, folder: Path, material: Material, batch: int) -> None:
        self.folder, self.ids, self.rows = folder, material.ids, material.rows
        self.store: FeatureStore = material.store(folder / "store")
        self._write(material)
        most = sum(sorted(self.rows)[-batch:])
        self.half = np.zeros((most, WIDTH), np.float16)
        self.single = np.zeros((most, WIDTH), np.float32)
        self._source = np.ones((most, WIDTH), np.float16)

    def _write(self, material: Material) -> None:
        for name in ("npy16", "npy32"):
            (self.folder / name).mkdir()
        with h5py.File(self.folder / "clips.h5", "w") as file:
            for clip, rows in material:
                np.save(self.folder / "npy16" / f"{clip}.npy", rows)
                np.save(self.folder / "npy32" / f"{clip}.npy", rows.astype(np.float32))
                file.create_dataset(clip, data=rows)
        with self._lmdb(readonly=False) as database, database.begin(write=True) as change:
            for clip, rows in material:
                change.put(clip.encode(), rows.tobytes())

    def readers(self) -> dict[str, Reader]:
        """By name; all verified ones are ours."""
        return {
            "ours, verified": self.ours,
            "ours, unverified": self.unverified,
            "npy fp16 per clip": self.npy16,
            "npy fp32 per clip (official)": self.npy32,
            "npy fp16, loaded only": self.npy16_alone,
            "HDF5, dataset per clip": self.hdf5,
            "zarr-python, same store": self.zarr,
            "limit: mmap of the ranges": self.mmap,
            "limit: memory copy": self.copy,
            "LMDB": self.lmdb,
        }

    # --- ours -----------------------------------------------------------------------------------

    def ours(self, numbers: Sequence[int]) -> None:
        self.store.read_into([self.ids[n] for n in numbers], self.half)

    def unverified(self, numbers: Sequence[int]) -> None:
        """What reading would cost if nothing were checked; the package has no such mode."""
        with (
            mock.patch.object(Shard, "_read", _unverified),
            mock.patch("spamo_cache.store.reader._check", _nothing),
        ):
            self.ours(numbers)

    # --- others ---------------------------------------------------------------------------------

    def _pack(self, arrays: Callable[[int], Any], numbers: Sequence[int], batch: Any) -> None:
        start = 0
        for number in numbers:
            end = start + self.rows[number]
            batch[start:end] = arrays(number)
            start = end

    def npy16(self, numbers: Sequence[int]) -> None:
        self._pack(lambda n: np.load(f"{self.folder}/npy16/{self.ids[n]}.npy"), numbers, self.half)

    def npy32(self, numbers: Sequence[int]) -> None:
        load = lambda n: np.load(f"{self.folder}/npy32/{self.ids[n]}.npy")  # noqa: E731
        self._pack(load, numbers, self.single)

    def npy16_alone(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            np.load(f"{self.folder}/npy16/{self.ids[number]}.npy")

    def hdf5(self, numbers: Sequence[int]) -> None:
        start = 0
        for number in numbers:
            end = start + self.rows[number]
            self._hdf5[self.ids[number]].read_direct(self.half[start:end])
            start = end

    def zarr(self, numbers: Sequence[int]) -> None:
        self._pack(lambda n: self._zarr[slice(*self._range(n))], numbers, self.half)

    def lmdb(self, numbers: Sequence[int]) -> None:
        with self._database.begin(buffers=True) as look:

            def rows(number: int) -> Array:
                value = look.get(self.ids[number].encode())
                return np.frombuffer(value, np.float16).reshape(-1, WIDTH)

            self._pack(rows, numbers, self.half)

    # --- limits ---------------------------------------------------------------------------------

    def mmap(self, numbers: Sequence[int]) -> None:
        layout, batch, at = self.store.layout, self.half.reshape(-1).view(np.uint8), 0
        for number in numbers:
            first, last = self._range(number)
            partition, row = divmod(first, layout.shard_rows)
            start = row // layout.chunk_rows * layout.stored_bytes
            count = (last - first) * layout.row_bytes
            batch[at : at + count] = self._mapped[partition][start : start + count]
            at += count

    def copy(self, numbers: Sequence[int]) -> None:
        total = sum(self.rows[n] for n in numbers)
        self.half[:total] = self._source[:total]

    def release(self) -> None:
        """Close what is open: what is mapped cannot be dropped from the page cache."""
        for name in ("_mapped", "_hdf5", "_zarr", "_database"):
            opened = self.__dict__.pop(name, None)
            if hasattr(opened, "close"):
                opened.close()

    # --- opened once ----------------------------------------------------------------------------

    def _range(self, number: int) -> tuple[int, int]:
        first = self._first[number]
        return first, first + self.rows[number]

    @cached_property
    def _first(self) -> list[int]:
        return [slot.row for slot in self.store.slots()]

    @cached_property
    def _hdf5(self) -> Any:
        return h5py.File(self.folder / "clips.h5", "r")

    @cached_property
    def _zarr(self) -> Any:
        return zarr.open_group(str(self.store.path), mode="r")["features"]

    @cached_property
    def _mapped(self) -> list[NDArray[np.uint8]]:
        shards = sorted(Path(str(self.store.path), "features").glob("c.*"), key=_number)
        return [np.memmap(path, np.uint8, "r") for path in shards]

    @cached_property
    def _database(self) -> Any:
        return self._lmdb(readonly=True)

    def _lmdb(self, *, readonly: bool) -> Any:
        options = {"readonly": readonly, "lock": not readonly, "readahead": False}
        return lmdb.open(os.fspath(self.folder / "lmdb"), map_size=1 << 40, **options)


def _nothing(*_: object) -> None:
    pass


def _unverified(self: Shard, chunk: int, out: memoryview, scratch: memoryview, flags: int) -> int:
    """As ``Shard._read``, without a checksum."""
    offset, checksum = chunk * self._stored_bytes, bytearray(CHECKSUM_BYTES)
    for at in range(0, len(out), self._chunk_bytes):
        data = out[at : at + self._chunk_bytes]
        padding = scratch[: self._chunk_bytes - len(data)]
        os.preadv(self._descriptor, (data, padding, checksum), offset, flags)
        offset += self._stored_bytes
    return 0


def _number(path: Path) -> int:
    return int(path.name.split(".")[1])


def same(formats: Formats, material: Material, numbers: Sequence[int]) -> None:
    """Hold every format's batch against the features themselves.

    Raises:
        ValueError: one that is not equal.
    """
    expected = np.concatenate([material.features(n) for n in numbers])
    for name, read in formats.readers().items():
        formats.half[:], formats.single[:] = 0, 0
        read(numbers)
        batch: Array = formats.single if "fp32" in name else formats.half  # type: ignore[assignment]
        comparable = "limit: memory" not in name and "only" not in name
        if comparable and not _equal(name, batch[: len(expected)], expected):
            raise ValueError(f"{name} did not read what was written")


def _equal(name: str, found: NDArray[Any], expected: Array) -> bool:
    if "mmap" not in name:
        return bool(np.array_equal(found, expected))
    return bool(np.array_equal(found[:32], expected[:32]))  # later rows lie beside checksums
