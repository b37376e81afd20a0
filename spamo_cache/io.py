"""Files and JSON for the whole package: atomic writers, documents with a checksum, file hashes.

Whoever reads a file while it is written, or after a kill, finds the old content or the new one,
whole. :mod:`spamo_cache.bounded` is for files that anybody may have written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from spamo_cache import bounded
from spamo_cache.errors import DamagedError, SpamoError, StoreError, UsageError, remedy
from spamo_cache.process import Process

CHECKSUM = "sha256"
"""Key of a document's checksum, which is over all the rest of it."""

_FORGOTTEN_SECONDS = 86_400.0
"""Age at which nobody is expected to come back for an unfinished file."""
_BLOCK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"(unknown|[0-9a-f]{12}\.\d+\.\d+)\.[0-9a-f]+\.tmp")
# A folder with both bits is shared by its group.
_SHARED = stat.S_ISGID | stat.S_IWGRP
# A pipe or device must not block the open, a link must not lead elsewhere.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
# Answers of disks that do not know the question (CIFS, FUSE), as opposed to faults of a disk.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_NO_MODES = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}
_REFUSALS = {errno.EROFS, errno.EACCES, errno.EPERM}
_OTHER_PLACES = ": --store or SPAMO_CACHE for features, SPAMO_HOME for what is kept between runs"

_LOG = logging.getLogger(__name__)
_NOT_YET_WARNED = Lock()
"""Taken by the first thread that warns of a disk that does not sync folders."""


# --- whole files --------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path``; a reader or a kill sees the old or the new content, whole.

    Folders above it are made; what dead processes left unfinished in its folder is removed.

    Raises:
        OSError: the disk refuses; the old content stays.
    """
    make_folders(path.parent)
    sweep(path.parent)
    with temporary_folder(path.parent) as work:
        replace(path, content, work)


def write_output(path: Path, data: bytes, what: str, kind: type[SpamoError] = SpamoError) -> None:
    """Write a file that the user has named; atomic.

    Args:
        what: it is: ``the report``.

    Raises:
        SpamoError: of this ``kind``; it cannot be written.
    """
    try:
        write_atomic(path, data)
    except OSError as error:
        raise kind(
            f"{what} cannot be written: {error.strerror or error}",
            where=path,
            remedy=remedy(error),
        ) from error


def check_output(path: Path) -> None:
    """Find out before long work whether a file could be written; nothing is made.

    Raises:
        UsageError: a folder stands in its place, or its own folder can be neither used nor made.
    """
    if path.is_dir():
        raise UsageError("is a folder, not a file to write", where=path, remedy="name a file")
    _check_place(path, path.absolute().parent, writable=True)


def check_folder(path: Path) -> None:
    """Find out before long work whether a folder is there or could be made; nothing is made.

    One that is there may be for reading only: what is finished in it needs no writing.

    Raises:
        UsageError: it is no folder, or its own folder can be neither used nor made.
    """
    _check_place(path, path.absolute(), writable=not path.is_dir())


def _check_place(path: Path, folder: Path, *, writable: bool) -> None:
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise UsageError(
            f"cannot be written: {there} is no folder", where=path, remedy="name another place"
        )
    if writable and not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot be written: no permission to write in {there}",
            where=path,
            remedy="name another place, or ask its owner",
        )


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """:func:`write_atomic` of a JSON document with a checksum of its content."""
    write_atomic(path, (to_json(document, indent=2) + "\n").encode())


def read_json(
    path: Path, remedy: str | None = "restore it from a copy, or remove it and make it again"
) -> dict[str, Any]:
    """A document that :func:`write_json` wrote, without its checksum.

    Raises:
        DamagedError: it is not what was written.
        SpamoError: it is missing or unreadable.
    """
    try:
        data = bounded.read(path, bounded.MAX_JSON_BYTES)
    except OSError as error:
        why = error.strerror or str(error)
        raise SpamoError(f"cannot be read: {why}", where=path, remedy=remedy) from error
    return from_json(data, path, remedy)


def to_json(document: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A document, with its checksum, as text that people can read."""
    return json.dumps(with_checksum(document), indent=indent, ensure_ascii=False)


def from_json(text: str | bytes, where: object, remedy: str | None = None) -> dict[str, Any]:
    """The document that :func:`to_json` was given.

    Raises:
        DamagedError: no JSON, or not what was written.
    """
    try:
        document = bounded.parse_json(text)
    except ValueError as error:
        raise DamagedError(f"is not the JSON it was: {error}", where=where, remedy=remedy) from None
    return without_checksum(document, where, remedy)


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum, as JSON will give it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return {**plain, CHECKSUM: _checksum(plain)}


def without_checksum(document: Any, where: object, remedy: str | None = None) -> dict[str, Any]:
    """The document without its checksum, which is compared.

    Raises:
        DamagedError: no JSON object, or one that disagrees with its checksum.
    """
    if not isinstance(document, dict):
        raise DamagedError("holds no JSON object", where=where, remedy=remedy)
    rest = {key: value for key, value in document.items() if key != CHECKSUM}
    if document.get(CHECKSUM) != _checksum(rest):
        raise DamagedError("disagrees with its own checksum", where=where, remedy=remedy)
    return rest


def _checksum(document: Mapping[str, Any]) -> str:
    # NaN is allowed for: a document that says so is no worse than one that cannot be written.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, links followed; never held in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(text: str) -> str:
    """``text`` where it can name a file anywhere, else a form of it that can."""
    plain = text == text.strip() and not text.startswith(".") and text.isprintable()
    if plain and not set(text) & set('/\\:*?"<>|%') and 0 < len(text.encode()) <= 200:
        return text
    # Not to be read back: the true id stands in the marker, attribute or manifest.
    return f"{quote(text, safe='')[:80]}%{hashlib.sha256(text.encode()).hexdigest()[:16]}"


# --- unfinished files ---------------------------------------------------------------------------


def temporary(folder: Path) -> Path:
    """A fresh name in ``folder`` that tells whose it is; nothing is created."""
    return folder / f"{Process.me() or 'unknown'}.{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether :func:`temporary` may have made a name."""
    return bool(_TEMPORARY.fullmatch(name))


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder in ``folder``, on its disk, that is gone after the block."""
    made = temporary(folder)
    made.mkdir()
    try:
        share_with_group(made, folder)
        yield made
    finally:
        discard(made)


def unfinished(folder: Path) -> list[Path]:
    """What lies in ``folder`` under names of :func:`temporary`."""
    return sorted(path for path in folder.glob("*.tmp") if is_temporary(path.name))


def sweep(folder: Path) -> None:
    """Remove what dead processes left unfinished in ``folder``."""
    sweep_unfinished(unfinished(folder))


def sweep_unfinished(paths: Collection[Path], in_use: Collection[str] = ()) -> None:
    """Remove unfinished files of the dead.

    Those of processes of which nobody here can tell whether they live go after a day.

    Args:
        in_use: names of such files, or of processes, that are at work for certain.
    """
    for path in paths:
        owner = Process.parse(path.name)
        alive = None if owner is None else owner.alive()
        if alive is None and path.name not in in_use and str(owner) not in in_use:
            with suppress(FileNotFoundError):
                alive = age(path, path.parent) <= _FORGOTTEN_SECONDS
        if alive is False:
            discard(path)


def age(path: Path, folder: Path) -> float:
    """Seconds since a file was changed, by the clock of the disk: those of hosts differ.

    Args:
        folder: on the same disk, to write to.

    Raises:
        FileNotFoundError: no such file.
    """
    clock = temporary(folder)
    try:
        clock.touch()
        now = clock.stat().st_mtime
    except OSError:
        now = time.time()  # a read-only disk
    finally:
        discard(clock)
    return now - path.lstat().st_mtime


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
        # Somebody else is removing it at the same time.
        if os.path.lexists(path):
            remove(path)


def discard(path: Path) -> None:
    """:func:`remove` where what is left does no harm: a later sweep may take it."""
    with suppress(OSError):
        remove(path)


# --- durable ------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Make a file's contents, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not folder or error.errno not in _NO_FOLDER_SYNC:
            raise
        _warn_that_names_are_not_synced(error.strerror or str(error))
    finally:
        os.close(descriptor)


def _warn_that_names_are_not_synced(why: str) -> None:
    """Once in a process: it is the same for every folder."""
    if _NOT_YET_WARNED.acquire(blocking=False):
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


def share_with_group(path: Path, parent: Path) -> None:
    """Let the group change ``path``, with all below, where it shares the folder it goes to."""
    if parent.stat().st_mode & _SHARED != _SHARED:
        return
    for each in [path, *path.rglob("*")]:
        try:
            each.chmod(each.stat().st_mode | (0o2070 if each.is_dir() else 0o060))
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise


def make_folders(path: Path) -> None:
    """Make a folder and those above it; the group's where the folder above is."""
    if path.is_dir():
        return
    make_folders(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        share_with_group(path, path.parent)


def appending(path: Path) -> BufferedWriter:
    """Open a file to add to its end; one that is new is the group's where its folder is."""
    file = path.open("ab")
    try:
        share_with_group(path, path.parent)
    except BaseException:
        file.close()
        raise
    return file


def create_folder(path: Path, fill: Callable[[Path], None], work: Path) -> bool:
    """Create a folder with all its content or not at all; False if it exists.

    Args:
        work: a folder on the same disk.
    """
    with temporary_folder(work) as folder:
        fill(folder)
        share_with_group(folder, path.parent)
        sync_tree(folder)
        try:
            folder.rename(path)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            return False
    sync(path.parent)
    return True


def replace(path: Path, data: bytes, work: Path) -> None:
    """Atomically make ``path`` hold ``data``; ``work`` is a folder on the same disk."""
    new = temporary(work)
    try:
        new.write_bytes(data)
        share_with_group(new, path.parent)
        sync(new)
        new.replace(path)
    except BaseException:
        discard(new)
        raise
    sync(path.parent)


# --- exclusive: the first writer wins -----------------------------------------------------------


def publish(new: Path, path: Path) -> bool:
    """Move a finished file to its name unless that name is taken; the first writer wins.

    Returns:
        Whether ``path`` is this file now; if not, ``new`` is gone all the same.
    """
    share_with_group(new, path.parent)
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


def publish_bytes(path: Path, data: bytes, work: Path) -> bool:
    """Exclusively create ``path`` with all of ``data`` or not at all; False if it exists."""
    new = temporary(work)
    try:
        new.write_bytes(data)
        return publish(new, path)
    except BaseException:
        discard(new)
        raise


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


# --- regular files only -------------------------------------------------------------------------


def open_regular(path: Path) -> int:
    """Open a regular file for reading, refusing links, pipes and devices.

    Returns:
        Its descriptor.

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


def read_regular(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes.

    Raises:
        DamagedError: it is missing or larger.
        StoreError: not a regular file, or unreadable.
    """
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise DamagedError(f"is larger than the {limit} bytes it may have", where=path)
        return file.read()


def regular_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file, never held in memory as a whole.

    Raises:
        DamagedError: it is missing.
        StoreError: not a regular file, or unreadable.
    """
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_blocks(path: Path) -> Iterator[bytes]:
    """A regular file, 1 MiB at a time; raises as :func:`regular_sha256`."""
    with _opened(path) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise DamagedError("the file is missing", where=path) from None
    with reading(path), os.fdopen(descriptor, "rb") as file:
        yield file


# --- disks that refuse --------------------------------------------------------------------------


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn the system's refusals to read below ``path`` into one clear :class:`StoreError`."""
    with _as_store_error("cannot read", path):
        yield


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn the system's refusals to write below ``path`` into one clear :class:`StoreError`."""
    with _as_store_error("cannot write", path, _OTHER_PLACES):
        yield


@contextmanager
def _as_store_error(what: str, path: object, places: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        where, known = error.filename or path, remedy(error)
        if error.errno in _REFUSALS:
            known += places
        raise StoreError(f"{what}: {why}", where=where, remedy=known) from error
