"""What stores there are, what is known of one, and removing one."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spamo_cache import io
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store import roots
from spamo_cache.store.claims import Claims, sweep_corpus
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import work_path
from spamo_cache.store.plan import State
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.records import Attributes
from spamo_cache.store.remote import Location, RemotePath, location


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list of stores.

    Attributes:
        root: the root it was found in.
        path: the store; of a root that cannot be listed, the root itself.
        clips: number of clips by state.
        bytes: bytes of all its files; None where a server does not list them.
        created: UTC, ISO 8601.
        owner: who created it.
        damaged: why it cannot be opened; the fields before are empty then.
    """

    root: str
    path: Location
    corpus: str
    stream: str
    fingerprint: str
    clips: Mapping[State, int]
    bytes: int | None
    created: str
    owner: str
    damaged: str | None = None


def stores(searched: Iterable[str]) -> list[Entry]:
    """Every store of the roots, in their order; missing folders hold none."""
    return [entry for root in searched for entry in _listed(root)]


def _listed(root: str) -> list[Entry]:
    try:
        return [_entry(root, path) for path in roots.stores(root)]
    except StoreError as error:
        return [Entry(root, location(root), "", "", "", {}, None, "", "", damaged=error.what)]


def _entry(root: str, path: Location) -> Entry:
    size: int | None = None
    try:
        size = _size(path)
        store = FeatureStore.open(path)
    except StoreError as error:
        corpus, stream = path.parent.name, path.stem.rpartition("-")[0]
        return Entry(root, path, corpus, stream, "", {}, size, "", "", damaged=error.what)
    about = store.attributes
    return Entry(
        root,
        path,
        store.corpus,
        store.stream,
        store.fingerprint,
        store.counts(),
        size,
        about["created"],
        about["created_by"],
    )


def _size(path: Location) -> int | None:
    if not isinstance(path, Path):
        return sum(path.files().values()) if path.writable else None
    with io.reading(path):
        return sum(filter(None, map(_file_size, path.rglob("*"))))


def _file_size(path: Path) -> int | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None  # removed since it was listed, by a writer that moves on
    return None if stat.S_ISDIR(found.st_mode) else found.st_size


def locate(name: str, searched: Sequence[str]) -> Location:
    """The one store meant by a place, or by ``corpus/stream`` with or without ``-fingerprint``.

    Remote roots are asked where no local one has it.

    Raises:
        UsageError: none, or several.
        StoreError: a remote root cannot be asked.
    """
    if "://" in name or (name.endswith(".zarr") and Path(name).is_dir()):
        return location(name)
    wanted = name.removesuffix(".zarr")
    local = [root for root in searched if "://" not in root]
    remote = [root for root in searched if "://" in root]
    found = _named(wanted, local) or _named(wanted, remote)
    if len({path.name for path in found}) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no store {name!r}", remedy="`spamo-cache store ls` shows them all")
    shown = ", ".join(f"{path.parent.name}/{path.stem}" for path in found)
    raise UsageError(f"{name!r} may be several stores", remedy=f"one of: {shown}")


def _named(wanted: str, searched: Iterable[str]) -> list[Location]:
    corpus, _, name = wanted.partition("/")
    return [
        path
        for root in searched
        for path in roots.stores(root, corpus)
        if name == path.stem.rpartition("-")[0] or ("-" in name and path.stem.startswith(name))
    ]


def info(path: Location) -> dict[str, Any]:
    """All that is known of a store: its attributes, counts, sizes, who is at work on it."""
    store = FeatureStore.open(path)
    about = Attributes.model_validate(store.attributes)
    receipts = list(roots.finished(path, about, ClipIndex.open(path, about)))
    return {
        **store.attributes,
        "path": str(path),
        "states": store.counts(),
        "splits": {split: len(store.select(split=split)) for split in store.splits},
        "bytes": sum(receipt.shard.size for receipt in receipts if receipt.shard),
        "partitions_done": len(receipts),
        "made_by": _made(receipt.provenance for receipt in receipts),
        "failures": {clip: store.reason(clip) for clip in store.select(state="failed")},
        "at_work": {name: str(holder) for name, holder in _live(path).items()},
    }


def _made(provenances: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who made partitions, where and on what, with the number and the time of the last."""
    last: dict[tuple[str, ...], str] = {}
    counts: dict[tuple[str, ...], int] = {}
    for made in provenances:
        who = tuple(str(made[key]) for key in ("user", "host", "device") if key in made)
        counts[who] = counts.get(who, 0) + 1
        last[who] = max(last.get(who, ""), str(made.get("published", "")))
    return [
        f"{' on '.join(who)}: {counts[who]} partitions, the last at {last[who]}"
        for who in sorted(counts)
    ]


def _live(path: Location) -> Mapping[str, Any]:
    if isinstance(path, RemotePath):
        return {}
    return Claims.beside(path).live()


def remove(path: Location) -> None:
    """Remove a store, and what dead processes left beside it.

    Raises:
        StoreError: somebody is at work on it, or the root is not writable.
        UsageError: no store, one in a remote root, or one that is reached through a link.
    """
    if isinstance(path, RemotePath):
        raise UsageError(
            "stores of remote roots are not removed from here",
            where=path,
            remedy="delete this prefix by the server's own tools",
        )
    if path.suffix != ".zarr" or not (path / "zarr.json").is_file():
        raise UsageError("no feature store here", where=path)
    if path.is_symlink() or path.parent.is_symlink():
        raise UsageError("is reached through a link", where=path, remedy=f"name {path.resolve()}")
    sweep_corpus(path.parent)
    live = Claims.beside(path).live(certain=True)
    if live:
        holder = next(iter(live.values()))
        raise StoreError(f"is being written by {holder}", where=path, remedy="wait, or stop it")
    work = work_path(path)
    with io.writing(path):
        io.make_folders(work)
        # Gone under its name at once; what takes time happens aside, and a sweep ends it if this
        # is cut off.
        path.rename(io.temporary(work))
        io.remove(work)


def sweep(searched: Iterable[str]) -> None:
    """Remove what dead processes left beside the stores of local roots."""
    for root in searched:
        base = location(root)
        if isinstance(base, Path):
            for work in base.glob("*/.work"):
                sweep_corpus(work.parent)
