"""The manifest that a store was made from, kept with it: a store is complete by itself."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.layout import sha256
from spamo_cache.store.records import Attributes
from spamo_cache.store.remote import Location, read_file

NAME = "manifest.parquet"
_REMEDY = "extract or pull again with the same manifest: that puts it back"


def describe(manifest: bytes) -> Mapping[str, str | int]:
    """What a store's attributes say of its snapshot; of no bytes, that it has none."""
    return {
        "manifest_sha256": sha256(manifest) if manifest else "",
        "manifest_bytes": len(manifest),
    }


def load(store: Location, attributes: Attributes) -> bytes:
    """The snapshot of the store, no bytes where it was made without one.

    Raises:
        DamagedError: it is missing or not what it was.
        StoreError: it is a link, or unreadable.
    """
    if not attributes.manifest_sha256:
        return b""
    data = read_file(store / NAME, attributes.manifest_bytes)
    _compare(store, sha256(data), attributes)
    return data


def check(store: Path, attributes: Attributes, *, deep: bool) -> None:
    """Raise what :func:`load` would; unless ``deep``, by the size alone."""
    if not attributes.manifest_sha256:
        return
    try:
        found = (store / NAME).lstat()
    except FileNotFoundError:
        raise DamagedError("is missing", where=store / NAME, remedy=_REMEDY) from None
    if not stat.S_ISREG(found.st_mode):
        raise StoreError("is not a regular file", where=store / NAME, remedy=_REMEDY)
    if found.st_size != attributes.manifest_bytes:
        what = f"has {found.st_size} bytes, not {attributes.manifest_bytes}"
        raise DamagedError(what, where=store / NAME, remedy=_REMEDY)
    if deep:
        _compare(store, io.regular_sha256(store / NAME), attributes)


def keep(store: Path, attributes: Attributes, manifest: bytes, work: Path) -> None:
    """Put the snapshot back where it is lost or damaged and ``manifest`` is what it was."""
    if sha256(manifest) != attributes.manifest_sha256:
        return
    try:
        check(store, attributes, deep=True)
    except StoreError:
        with io.writing(store):
            io.replace(store / NAME, manifest, work)


def _compare(store: Location, digest: str, attributes: Attributes) -> None:
    if digest != attributes.manifest_sha256:
        what = "is not the manifest that the store was made from"
        raise DamagedError(what, where=store / NAME, remedy=_REMEDY)
