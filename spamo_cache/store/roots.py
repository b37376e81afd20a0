"""Which stores lie in a root, local or remote; names that could lead out of it are passed over."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from spamo_cache import config, io
from spamo_cache.config import NAME_PATTERN
from spamo_cache.errors import UsageError
from spamo_cache.store.remote import Location, RemotePath, location

_CORPUS = re.compile(NAME_PATTERN)
_LIST = "`spamo-cache store ls` shows them all"
_STORE = re.compile(rf"(?P<stream>{NAME_PATTERN})-[0-9a-f]{{12}}\.zarr")


def stores_in(
    root: str | Location, corpus: str | None = None, stream: str | None = None
) -> list[Location]:
    """The stores of a root, sorted by corpus and name; whether they can be opened is not asked.

    Those of a dataset on the Hub are named as they are now, by the commit.

    Args:
        corpus: only those of this corpus.
        stream: only those of this stream.

    Raises:
        StoreError: a remote root that cannot be listed.
        UsageError: an address that no root can have.
    """
    base = pinned(location(root))
    corpora = _folders(base) if corpus is None else [corpus]
    return [
        base / name / store
        for name in corpora
        if _CORPUS.fullmatch(name)
        for store in _folders(base / name)
        if (match := _STORE.fullmatch(store)) and stream in {None, match["stream"]}
    ]


def pinned(place: Location) -> Location:
    """A place as it is now, see :meth:`RemotePath.pinned`; a local one is what it is."""
    return place.pinned() if isinstance(place, RemotePath) else place


def _folders(place: Location) -> list[str]:
    if isinstance(place, RemotePath):
        return place.folders()
    with io.reading(place):
        if not place.is_dir():
            return []
        return sorted(path.name for path in place.iterdir() if path.is_dir())


def locate(name: str | Location, roots: Sequence[str] | None = None) -> Location:
    """The one store that a name, a path or an address means, see :func:`search` and :func:`pinned`.

    Args:
        name: as for :func:`search`; a ``Path`` or a ``RemotePath`` is taken as it is.
        roots: searched for names, remote ones only if no local one has it; None is
            :func:`config.roots`, which ``SPAMO_CACHE`` sets.

    Raises:
        UsageError: no store of this name, or several.
        StoreError: a remote root cannot be asked.
    """
    if not isinstance(name, str):
        return pinned(location(name))
    searched = config.roots() if roots is None else roots
    remote = [root for root in searched if "://" in root]
    try:
        found = search(name, [root for root in searched if "://" not in root])
    except UsageError as error:
        try:
            found = [] if _is_place(name) else search(name, remote)
        except UsageError:
            found = []
        if not found:
            raise error from None
    named = {name_of(path): path for _, path in reversed(found)}
    if len(named) == 1:
        return pinned(next(iter(named.values())))
    if not named:
        raise UsageError("no store lies here", where=name, remedy=_LIST)
    raise UsageError(
        f"{name!r} may be several stores", remedy=f"name one of: {', '.join(sorted(named))}"
    )


def search(name: str, roots: Sequence[str]) -> list[tuple[str, Location]]:
    """Roots and stores that a name, a path or an address means, in the order of roots.

    Args:
        name: ``CORPUS``; ``CORPUS/STREAM`` with or without ``-FINGERPRINT`` (its beginning will
            do); or the folder or address of a store, of a root, or of a corpus in a root.
        roots: searched for names.

    Raises:
        UsageError: no store of this name, no such folder, or an address that no root can have.
        StoreError: a remote root cannot be asked.
    """
    if _is_place(name):
        return _stores_at(location(name))
    corpus, _, wanted = name.rstrip("/").removesuffix(".zarr").partition("/")
    found = [
        (root, path)
        for root in roots
        for path in stores_in(root, corpus)
        if wanted in {"", path.stem.rpartition("-")[0]}
        or ("-" in wanted and path.stem.startswith(wanted))
    ]
    if not found and name and Path(name).is_dir():
        return _stores_at(location(name))
    if not found:
        raise UsageError(f"no store {name!r}", remedy=f"{_nearest(name, roots)}{_LIST}")
    return found


def name_of(store: Location) -> str:
    """``CORPUS/STREAM-FINGERPRINT``."""
    return f"{store.parent.name}/{store.stem}"


def _is_place(name: str) -> bool:
    """Whether a text is a path or an address, not a store's name."""
    if (
        "://" in name
        or name.startswith(("/", "~"))
        or name.split("/", maxsplit=1)[0] in {".", ".."}
    ):
        return True
    return name.rstrip("/").endswith(".zarr") and Path(name).is_dir()


def _stores_at(place: Location) -> list[tuple[str, Location]]:
    if place.suffix == ".zarr":
        return [(str(place.parent.parent), place)]
    if isinstance(place, Path) and not place.is_dir():
        raise UsageError("no such folder", where=place, remedy=_LIST)
    found = [(str(place), path) for path in stores_in(place)]
    return found or [(str(place.parent), path) for path in stores_in(place.parent, place.name)]


def _nearest(name: str, roots: Sequence[str]) -> str:
    local = (root for root in roots if "://" not in root)
    full = {name_of(path) for root in local for path in stores_in(root)}
    known = full | {name.rpartition("-")[0] for name in full} | {n.partition("/")[0] for n in full}
    near = difflib.get_close_matches(name, known, n=1)
    return f"nearest is {near[0]!r}; " if near else ""
