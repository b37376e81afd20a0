"""Durable, exclusive and atomic file operations; reading files that strangers may have made."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from threading import Lock

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.process import Process
from spamo_cache.store.remote import Location, RemotePath

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
# Answers of disks that do not know the question (CIFS, FUSE), as opposed to faults of a disk.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_NO_MODES = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}
_BLOCK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"(unknown|[0-9a-f]{12}\.\d+\.\d+)\.[0-9a-f]+\.tmp")
# A folder with both bits is shared by its group.
_SHARED = stat.S_ISGID | stat.S_IWGRP
# A pipe or device must not block the open, a link must not lead out of the store.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "make room on that disk or have the quota raised, then run the same command again",
    ),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "have it opened to you, or name a place that is: --store or SPAMO_CACHE for features,"
        " SPAMO_HOME for what is kept between runs",
    ),
    errno.ENOTDIR: "a part of this path is a file: name another place",
    errno.ENAMETOOLONG: "name a place with a shorter path",
}
_FAULT = "check that disk and how it is mounted, then run the same command again"

_LOG = logging.getLogger(__name__)
_UNSAID = Lock()
"""Taken by the thread that says first that a disk does not sync folders."""


def temporary(folder: Path) -> Path:
    """A fresh name in ``folder`` that tells whose it is; nothing is created."""
    return folder / f"{Process.me() or 'unknown'}.{secrets.token_hex(8)}.tmp"


def remove(path: Path) -> None:
    """Remove a file or a folder with all its content; somebody else may have been first.

    Raises:
        OSError: some of it is still there.
    """
    try:
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        shutil.rmtree(path)
    except FileNotFoundError:
        # Gone under our hands, by somebody who removes it as well.
        if os.path.lexists(path):
            remove(path)


def is_temporary(name: str) -> bool:
    """Whether :func:`temporary` may have made a name."""
    return bool(_TEMPORARY.fullmatch(name))


def sweep(folder: Path) -> None:
    """Remove what processes that are dead for certain left under :func:`temporary` names."""
    for path in folder.glob("*.tmp"):
        owner = Process.parse(path.name) if is_temporary(path.name) else None
        if owner is not None and owner.alive() is False:
            discard(path)


def discard(path: Path) -> None:
    """:func:`remove` where what is left does no harm: a later sweep may take it."""
    with suppress(OSError):
        remove(path)


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not folder or error.errno not in _NO_FOLDER_SYNC:
            raise
        _say_names_are_not_synced(error.strerror or str(error))
    finally:
        os.close(descriptor)


def _say_names_are_not_synced(why: str) -> None:
    """Once in a process: it is the same for every folder."""
    if _UNSAID.acquire(blocking=False):
        _LOG.warning(
            "this disk does not make the names of files durable on request (%s): after a power cut"
            " the last ones may be gone; nothing is ever half-written",
            why,
        )


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
        try:
            each.chmod(each.stat().st_mode | (0o2070 if each.is_dir() else 0o060))
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise


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
    try:
        new.write_bytes(data)
        for_group(new, path.parent)
        sync(new)
        new.replace(path)
    except BaseException:
        discard(new)
        raise
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
        won = _same(new, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        won = _rename_exclusively(new, path)
    discard(new)
    return won


def _same(new: Path, path: Path) -> bool:
    try:
        return new.samefile(path)
    except FileNotFoundError:
        return False  # whoever had the name has just given it up


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
    try:
        new.write_bytes(data)
        return publish(new, path)
    except BaseException:
        discard(new)
        raise


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


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Raises:
        DamagedError: it is missing.
        StoreError: not a regular file, or unreadable, also halfway.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise DamagedError("a file of the store is missing", where=path) from None
    with reading(path), os.fdopen(descriptor, "rb") as file:
        yield file


def read(path: Location, limit: int) -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes.

    Raises:
        DamagedError: it is missing or larger.
        StoreError: not a regular file, or unreadable.
    """
    if isinstance(path, RemotePath):
        return path.read(limit)
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise DamagedError(f"is larger than the {limit} bytes it may have", where=path)
        return file.read()


def digest(path: Path) -> str:
    """SHA-256 of a regular file, never held in memory as a whole.

    Raises:
        DamagedError: it is missing.
        StoreError: not a regular file, or unreadable.
    """
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    """A regular file, piece by piece; see :func:`digest` for what is raised."""
    with _opened(path) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@contextmanager
def reading(path: Location) -> Iterator[None]:
    """Turn the system's refusals to read below ``path`` into one clear :class:`StoreError`."""
    with _told("cannot read", path):
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write below ``path`` into one clear :class:`StoreError`."""
    with _told("cannot write", path):
        yield


@contextmanager
def _told(what: str, path: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        where = error.filename or path
        raise StoreError(f"{what}: {why}", where=where, remedy=remedy(error)) from error


def remedy(error: OSError) -> str:
    """What can be done about a disk that refuses."""
    return _REMEDIES.get(error.errno or 0, _FAULT)


@contextmanager
def aside(work: Path) -> Iterator[Path]:
    """A temporary folder in ``work``, on the store's disk."""
    folder = temporary(work)
    folder.mkdir()
    try:
        for_group(folder, work)
        yield folder
    finally:
        discard(folder)


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
