"""A disk that fails at a single operation: one clear error, nothing lost, and the rerun ends it.

Some operations of all are enough for every run of the suite; a stride of 1 takes each of them.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.errors import SpamoError
from spamo_cache.store.copy import copy
from spamo_cache.store.exchange import export_hdf5, export_npy, import_features
from spamo_cache.store.inspect import info
from spamo_cache.store.inventory import list_stores, remove
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify

ERRORS = (
    *(errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS),
    *(errno.ESTALE, errno.ENAMETOOLONG, errno.EACCES),
)


class Disk:
    """Fails the n-th operation below a folder, as the system would."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._left, self._code = 0, 0
        self.failed = ""

    def fail(self, operation: int, code: int) -> None:
        self._left, self._code, self.failed = operation, code, ""

    def heal(self) -> None:
        self._left = 0

    def asked(self, what: str, path: object) -> None:
        """Raises OSError where it is this operation's turn."""
        if self._left and str(path).startswith(self._folder):
            self._left -= 1
            if self._left == 0:
                self.failed = f"{what} {path}"
                raise OSError(self._code, os.strerror(self._code), str(path))


EVENTS = {
    *("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"),
    *("os.scandir", "os.listdir", "os.utime"),
}
_disks: list[Disk] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _disks and event in EVENTS:
        _disks[-1].asked(event, arguments[0])


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(_hook)  # there is no way to take one off again


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    write_bytes, preadv = Path.write_bytes, os.preadv

    def path_of(descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def written(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        made.asked("write", path)
        return write_bytes(path, data)

    def scattered(descriptor: int, *rest: Any) -> int:
        made.asked("read", path_of(descriptor))
        return preadv(descriptor, *rest)

    def synced(descriptor: int) -> None:
        made.asked("fsync", path_of(descriptor))

    monkeypatch.setattr(Path, "write_bytes", written)
    monkeypatch.setattr(os, "preadv", scattered)
    monkeypatch.setattr(os, "fsync", synced)
    _disks.append(made)
    yield made
    _disks.remove(made)


@dataclass
class Site:
    """A disk with a store on it, and what can be done there."""

    disk: Path
    material: Any
    name: str

    @property
    def store(self) -> Path:
        return self.disk / "root" / "weather" / self.name

    def fill(self) -> None:
        self.material.write(self.disk / "root")

    def export(self) -> None:
        """Features without a store, to be imported."""
        self.fill()
        self.export_npy()
        self.export_hdf5()
        shutil.rmtree(self.disk / "root")

    def write(self) -> None:
        writer = self.material.open(self.disk / "root")
        for partition in self.material.partitions:
            with writer.lease(partition):
                self.material.publish(writer, partition)
        writer.commit_index()

    def retry(self) -> None:
        writer = self.material.open(self.disk / "root")
        failed = next(iter(self.material.failures))
        partition = next(slot.partition for slot in self.material.slots if slot.id == failed)
        slots = writer.slots(partition)
        features = {slot.id: self.material.features[slot.id] for slot in slots}
        with writer.lease(partition):
            writer.publish(partition, features, {}, {}, replace=True)
        writer.commit_index()

    def read(self) -> None:
        store = FeatureStore.open(self.store)
        store.read(store.select(state="ok"))

    def verify(self) -> None:
        verify(self.store, deep=True)

    def info(self) -> None:
        info(self.store)

    def ls(self) -> None:
        list_stores([str(self.disk / "root")])

    def rm(self) -> None:
        if self.store.exists():
            remove(self.store)

    def copy(self) -> None:
        copy(self.store, self.disk / "other")

    def export_npy(self) -> None:
        folder = self.disk / "npy"
        if folder.exists():
            folder.rename(self.disk / "cut")
        export_npy(self.store, folder)

    def export_hdf5(self) -> None:
        file = self.disk / "features.h5"
        if file.exists():
            file.unlink()
        export_hdf5(self.store, file)

    def import_npy(self) -> None:
        import_features(self.disk / "npy", self.disk / "root", **IMPORTED)

    def import_hdf5(self) -> None:
        import_features(self.disk / "features.h5", self.disk / "root", **IMPORTED)

    def check(self) -> None:
        """All that there is of the store is right, and there is all of it."""
        for path in self.disk.glob("*/*/*.zarr"):
            assert verify(path, deep=True).sound
            store = FeatureStore.open(path)
            for clip in store.select(state="ok"):
                np.testing.assert_array_equal(store.read([clip])[0], self.material.features[clip])


IMPORTED: dict[str, Any] = {"corpus": "weather", "stream": "spatial", "shard_rows": 64}
EMPTY, FULL, EXPORTED = (lambda _: None), Site.fill, Site.export
CASES: dict[str, tuple[Callable[[Site], None], Callable[[Site], None], int]] = {
    "write": (EMPTY, Site.write, 61),
    "retry": (FULL, Site.retry, 29),
    "read": (FULL, Site.read, 9),
    "verify": (FULL, Site.verify, 9),
    "info": (FULL, Site.info, 5),
    "ls": (FULL, Site.ls, 9),
    "rm": (FULL, Site.rm, 3),
    "copy": (FULL, Site.copy, 61),
    "import npy": (EXPORTED, Site.import_npy, 89),
    "import hdf5": (EXPORTED, Site.import_hdf5, 89),
    "export npy": (FULL, Site.export_npy, 19),
    "export hdf5": (FULL, Site.export_hdf5, 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_fails_once(case, make, tmp_path, disk):
    prepare, work, stride = CASES[case]
    material = make(5, failed=1)
    site = Site(tmp_path / "disk", material, material.write(tmp_path / "whole").path.name)
    failures = 0
    for operation, code in zip(count(1, stride), cycle(ERRORS), strict=False):
        shutil.rmtree(site.disk, ignore_errors=True)
        site.disk.mkdir()
        prepare(site)
        disk.fail(operation, code)
        with suppress(SpamoError):  # nothing else may be raised
            work(site)
        disk.heal()
        if not disk.failed:
            break
        failures += 1
        shutil.rmtree(site.disk / "cut", ignore_errors=True)
        work(site)
        site.check()
    assert failures > 2
