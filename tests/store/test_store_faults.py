"""A disk that fails at any single operation: one clear error, nothing lost, and the rerun ends it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.errors import SpamoError
from spamo_cache.store import catalogue
from spamo_cache.store.convert import import_hdf5, import_npy
from spamo_cache.store.export import export_hdf5, export_npy
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.share import copy
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
    write_bytes, preadv, fsync = Path.write_bytes, os.preadv, os.fsync

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


Case = tuple[Callable[[Path], object], Callable[[Path], object], Callable[[Path], object]]
"""What lies on the disk, what is done there, and what is there in the end."""


def cases(material: Any) -> dict[str, Case]:
    features = material.features

    def nothing(_: Path) -> None:
        return

    def stored(disk: Path) -> Path:
        return material.write(disk / "root").path

    def the(disk: Path) -> Path:
        return next((disk / "root").glob("*/*.zarr"))

    def write(disk: Path) -> None:
        writer = material.open(disk / "root")
        for partition in material.partitions:
            with writer.claim(partition):
                material.publish(writer, partition)
        writer.seal()

    def retry(disk: Path) -> None:
        writer = material.open(disk / "root")
        with writer.claim(0):
            slots = [slot for slot in material.slots if slot.partition == 0]
            found = {slot.id: features[slot.id] for slot in slots}
            writer.publish(0, found, {}, {}, replace=True)
        writer.seal()

    def whole(disk: Path) -> None:
        assert verify(the(disk), deep=True).sound
        store = FeatureStore.open(the(disk))
        assert store.counts()["absent"] == 0
        for clip in store.select(state="ok"):
            np.testing.assert_array_equal(store.read([clip])[0], features[clip])
        assert [path.name for path in (disk / "root").glob("*/.work/*/*.tmp")] == []

    def exported(disk: Path) -> None:
        stored(disk)
        export_npy(the(disk), disk / "npy")
        export_hdf5(the(disk), disk / "features.h5")
        shutil.rmtree(disk / "root")

    def kept(disk: Path) -> None:
        assert len(catalogue.stores([str(disk / "root")])) == 1
        whole(disk)

    options: dict[str, Any] = {"corpus": "weather", "stream": "spatial", "shard_rows": 64}
    return {
        "write": (nothing, write, whole),
        "retry": (stored, retry, whole),
        "read": (stored, lambda disk: list(FeatureStore.open(the(disk)).read(
            FeatureStore.open(the(disk)).select(state="ok"))), whole),
        "verify": (stored, lambda disk: verify(the(disk), deep=True), whole),
        "info": (stored, lambda disk: catalogue.info(the(disk)), whole),
        "ls": (stored, lambda disk: catalogue.stores([str(disk / "root")]), kept),
        "rm": (stored, lambda disk: [catalogue.remove(p) for p in (disk/"root").glob("*/*.zarr")], nothing),
        "copy": (stored, lambda disk: copy(the(disk), disk / "other"), whole),
        "import npy": (exported, lambda disk: import_npy(disk / "npy", disk / "root", **options), nothing),
        "import hdf5": (exported, lambda disk: import_hdf5(disk / "features.h5", disk / "root", **options), nothing),
        "export npy": (stored, lambda disk: (shutil.rmtree(disk/"n", True), export_npy(the(disk), disk / "n")), whole),
        "export hdf5": (stored, lambda disk: ((disk/"f.h5").unlink(True), export_hdf5(the(disk), disk / "f.h5")), whole),
    }


def test_experiment(make, tmp_path, disk):
    material = make(5, failed=1)
    root = tmp_path / "disk"
    import traceback
    which = os.environ.get("CASES", "").split(",")
    for name, (prepare, work, check) in cases(material).items():
        if which != [""] and name not in which: continue
        codes = cycle(ERRORS)
        bad = 0
        for step in count(1, int(os.environ.get("STRIDE", "1"))):
            if root.exists(): shutil.rmtree(root)
            root.mkdir()
            prepare(root)
            code=next(codes)
            disk.fail(step, code)
            try:
                work(root); out = "ok"
            except SpamoError as e:
                out = f"{type(e).__name__}: {e.what}"
            except Exception as e:
                out = "TRACEBACK " + repr(e)[:100] + traceback.format_exc()[-600:]
                bad += 1
            failed = disk.failed
            disk.heal()
            if "TRACE" in out or failed and os.environ.get("V"): print(name, step, failed, out)
            try:
                work(root)
                check(root)
            except Exception as e:
                print("AFTER", name, step, failed, out[:100], repr(e)[:300])
            if not failed: break
        print(name, step, bad)
