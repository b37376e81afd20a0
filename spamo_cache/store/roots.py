"""Which stores lie in a root, local or remote; names that could lead out of it are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from spamo_cache import config, io
from spamo_cache.config import NAME_PATTERN
from spamo_cache.errors import UsageError
from spamo_cache.store.remote import Location, RemotePath, location

_CORPUS = re.compile(NAME_PATTERN)
_STORE = re.compile(rf"(?P<stream>{NAME_PATTERN})-[0-9a-f]{{12}}\.zarr")


def stores_in(
    root: str | Location, corpus: str | None = None, stream: str | None = None
) -> list[Location]:
    """The stores of a root, sorted by corpus and name; whether they can be opened is not asked.

    Args:
        corpus: only those of this corpus.
        stream: only those of this stream.

    Raises:
        StoreError: a remote root that cannot be listed.
        UsageError: an address that no root can have.
    """
    base = location(root)
    corpora = _folders(base) if corpus is None else [corpus]
    return [
        base / name / store
        for name in corpora
        if _CORPUS.fullmatch(name)
        for store in _folders(base / name)
        if (match := _STORE.fullmatch(store)) and stream in {None, match["stream"]}
    ]


def _folders(place: Location) -> list[str]:
    if isinstance(place, RemotePath):
        return place.folders()
    with io.reading(place):
        if not place.is_dir():
            return []
        return sorted(path.name for path in place.iterdir() if path.is_dir())


def locate(name: str | Location, roots: Sequence[str] | None = None) -> Location:
    """Where the store lies that a name, a path or an address means.

    Args:
        name: ``CORPUS/STREAM`` with or without ``-FINGERPRINT`` (its beginning will do), a folder,
            or an address.
        roots: searched for names, remote ones only if no local one has it; None is
            :func:`config.roots`, which ``SPAMO_CACHE`` sets.

    Raises:
        UsageError: no store of this name, or several.
        StoreError: a remote root cannot be asked.
    """
    if not isinstance(name, str) or _is_place(name):
        return location(name)
    searched = config.roots() if roots is None else roots
    wanted = name.removesuffix(".zarr")
    local = [root for root in searched if "://" not in root]
    remote = [root for root in searched if "://" in root]
    paths = _named(wanted, local) or _named(wanted, remote)
    if len({path.name for path in paths}) == 1:
        return paths[0]
    if not paths:
        raise UsageError(f"no store {name!r}", remedy="`spamo-cache store ls` shows them all")
    shown = ", ".join(f"{path.parent.name}/{path.stem}" for path in paths)
    raise UsageError(f"{name!r} may be several stores", remedy=f"one of: {shown}")


def _is_place(name: str) -> bool:
    """Whether a text is a path or an address, not a store's name."""
    if name.endswith(".zarr"):
        return name.startswith(("/", ".", "~")) or "://" in name or Path(name).is_dir()
    return "://" in name


def _named(wanted: str, searched: Iterable[str]) -> list[Location]:
    corpus, _, name = wanted.partition("/")
    return [
        path
        for root in searched
        for path in stores_in(root, corpus)
        if name == path.stem.rpartition("-")[0] or ("-" in name and path.stem.startswith(name))
    ]
