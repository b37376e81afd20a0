"""Durable, exclusive and atomic file operations; reading files that strangers may have made."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.process import Process
from spamo_cache.store.remote import Location, RemotePath

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# A folder with both bits is shared by its group.
_SHARED = stat.S_ISGID | stat.S_IWGRP
# A pipe or device must not block the open, a link must not lead out of the store.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def temporary(folder: Path) -> Path:
    """A fresh name in ``folder`` that tells whose it is; nothing is created."""
    return folder / f"{Process.me() or 'unknown'}.{secrets.token_hex(8)}.tmp"


def sweep(folder: Path, old_seconds: float = 86_400.0) -> None:
    """Remove what dead processes left under :func:`temporary` names, or anybody long ago."""
    for path in folder.glob("*.tmp"):
        owner = Process.parse(path.name)
        try:
            old = time.time() - path.lstat().st_mtime > old_seconds
        except FileNotFoundError:
            continue
        if old or (owner is not None and owner.gone()):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder with all its content; somebody else may have been first."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all below a folder durable; together, which a disk does in a tenth of the time."""
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(sync, [folder, *folder.rglob("*")]):
            pass


def for_group(path: Path, parent: Path) -> None:
    """Let the group change what is new, with all below, where it shares the folder it goes to."""
    if parent.stat().st_mode & _SHARED != _SHARED:
        return
    for each in [path, *path.rglob("*")]:
        each.chmod(each.stat().st_mode | (0o2070 if each.is_dir() else 0o060))


def make_parents(path: Path) -> None:
    """Make a folder and those above it; the group's where the folder above is."""
    if path.is_dir():
        return
    make_parents(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        for_group(path, path.parent)


def replace(path: Path, data: bytes, work: Path) -> None:
    """Atomically make ``path`` hold ``data``; ``work`` is a folder on the same disk."""
    new = temporary(work)
    new.write_bytes(data)
    for_group(new, path.parent)
    sync(new)
    new.replace(path)
    sync(path.parent)


def publish(new: Path, path: Path) -> bool:
    """Move a finished file to its name unless that name is taken; the first writer wins.

    Returns:
        Whether ``path`` is this file now; if not, ``new`` is gone all the same.
    """
    for_group(new, path.parent)
    try:
        os.link(new, path)
        won = True
    except FileExistsError:
        # A network file system may report a link that it made before its answer was lost.
        won = new.samefile(path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        won = _rename_exclusively(new, path)
    new.unlink(missing_ok=True)
    return won


def _rename_exclusively(new: Path, path: Path) -> bool:
    """For disks without hard links: whoever creates the empty file may replace it.

    A crash in between leaves a file of no bytes, which nothing here takes for data.
    """
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    new.replace(path)
    return True


def publish_bytes(path: Path, data: bytes, work: Path) -> bool:
    """Exclusively create ``path`` with all of ``data`` or not at all; False if it exists."""
    new = temporary(work)
    new.write_bytes(data)
    return publish(new, path)


def open_regular(path: Path) -> int:
    """Open a regular file for reading, refusing links, pipes and devices.

    Raises:
        FileNotFoundError: no such file.
        StoreError: not a regular file, or unreadable.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot be opened: {error.strerror}", where=path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError("is not a regular file", where=path)
    return descriptor


def read(path: Location, limit: int) -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes.

    Raises:
        DamagedError: it is missing or larger.
        StoreError: not a regular file, or unreadable.
    """
    if isinstance(path, RemotePath):
        return path.read(limit)
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise DamagedError("a file of the store is missing", where=path) from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise DamagedError(f"is larger than the {limit} bytes it may have", where=path)
        return file.read()


def digest(path: Path) -> str:
    """SHA-256 of a regular file, never held in memory as a whole.

    Raises:
        DamagedError: it is missing.
        StoreError: not a regular file, or unreadable.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise DamagedError("a file of the store is missing", where=path) from None
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write below ``path`` into one clear :class:`StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            where=error.filename or path,
            remedy="choose a writable root (--store, SPAMO_CACHE) with free space",
        ) from error


@contextmanager
def aside(work: Path) -> Iterator[Path]:
    """A temporary folder on the store's disk."""
    folder = temporary(work)
    make_parents(folder)
    try:
        yield folder
    finally:
        remove(folder)


def make_folder(path: Path, fill: Callable[[Path], None], work: Path) -> bool:
    """Create a folder with all its content or not at all; False if it exists."""
    with aside(work) as folder:
        fill(folder)
        for_group(folder, path.parent)
        sync_tree(folder)
        try:
            folder.rename(path)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            return False
    sync(path.parent)
    return True
