"""The stores of roots: listing them, finding what is wanted among them, removing one."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache import config, io
from spamo_cache.errors import DamagedError, MissingStoreError, StoreError, UsageError
from spamo_cache.store.index import ABSENT, OK, STATES, State
from spamo_cache.store.layout import FINGERPRINT_CHARACTERS, canonical, checked_name, work_path
from spamo_cache.store.leases import Leases, sweep_corpus
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location, RemotePath, location
from spamo_cache.store.roots import name_of, search, stores_in

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One line of a list of stores.

    Attributes:
        root: the root it lies in.
        path: the store; of a root that cannot be listed, the root itself.
        states: number of clips by state, those included that a running extraction has finished.
        bytes: sum of the sizes of all its files; None where a server does not list them.
        created: UTC, ISO 8601.
        created_by: who created it.
        at_work: partition, or ``extraction-...`` for the command as a whole -> who computes it now,
            and since when.
        spec: how its features are computed, see :func:`layout.stream_spec`.
        weights: their name as the cache spec gave it.
        weights_sha256, corpus_sha256, semantics: the other parts of its fingerprint.
        damaged: why it cannot be opened; the fields after ``bytes`` are empty then.
    """

    root: str
    path: Location
    corpus: str = ""
    stream: str = ""
    fingerprint: str = ""
    states: Mapping[State, int] = field(default_factory=dict)
    bytes: int | None = None
    created: str = ""
    created_by: str = ""
    at_work: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    weights_sha256: str = ""
    corpus_sha256: str = ""
    semantics: int = 0
    damaged: str | None = None


def list_stores(names: Iterable[str] | None = None) -> list[StoreEntry]:
    """The stores that some names mean, in their order.

    What cannot be opened or listed is an entry that says why, never an error.

    Args:
        names: as for :func:`roots.search`, the folder or address of a whole root included; None is
            every root of :func:`config.roots`, of which missing folders hold nothing.

    Raises:
        UsageError: no store of this name, or no such folder.
    """
    roots = config.roots()
    if names is None:
        return [entry for root in roots for entry in _entries(root, partial(_all_of, root))]
    return [entry for name in names for entry in _entries(name, partial(search, name, roots))]


def _all_of(root: str) -> list[tuple[str, Location]]:
    return [(root, path) for path in stores_in(root)]


def _entries(place: str, find: Callable[[], list[tuple[str, Location]]]) -> Iterator[StoreEntry]:
    try:
        found = find()
    except StoreError as error:
        yield StoreEntry(place, location(place), damaged=error.what)
        return
    for root, path in found:
        size: int | None = None
        try:
            size = size_of(path)
            yield entry_of(FeatureStore.open(path), root, size)
        except StoreError as error:
            corpus, stream = path.parent.name, path.stem.rpartition("-")[0]
            yield StoreEntry(root, path, corpus, stream, bytes=size, damaged=error.what)


def entry_of(store: FeatureStore, root: str, size: int | None) -> StoreEntry:
    """What a list tells of an open store."""
    about, (state, _) = store.about, store.progress()
    counts = np.bincount(state, minlength=len(STATES)).tolist()
    return StoreEntry(
        root,
        store.path,
        about.corpus,
        about.stream,
        about.fingerprint,
        dict(zip(STATES, counts, strict=True)),
        size,
        about.created,
        about.created_by,
        at_work(store.path),
        dict(about.spec),
        about.weights,
        about.weights_sha256,
        about.corpus_sha256,
        about.semantics,
    )


_ALWAYS = ("stride", "phase")


def traits(entries: Sequence[StoreEntry]) -> list[str]:
    """What tells each of these stores from the others of its corpus and stream, in words.

    Stride and phase are always noted.
    """
    known = [({} if entry.damaged else _traits(entry), entry) for entry in entries]
    notes = []
    for own, entry in known:
        others = [
            other
            for other, one in known
            if other and (one.corpus, one.stream) == (entry.corpus, entry.stream)
        ]
        apart = [
            name
            for name, value in own.items()
            if name in _ALWAYS or any(other.get(name) != value for other in others)
        ]
        if "weights" in apart:
            # Other names say it better.
            apart = [name for name in apart if name != _WEIGHTS_SHA256]
        notes.append(", ".join(f"{name} {own[name]}" for name in apart))
    return notes


_WEIGHTS_SHA256 = "weights sha256"


def _traits(entry: StoreEntry) -> dict[str, str]:
    values = {
        **dict.fromkeys(_ALWAYS),
        **entry.spec,
        "weights": entry.weights,
        _WEIGHTS_SHA256: entry.weights_sha256[:8],
        "semantics": entry.semantics,
        "clip list": entry.corpus_sha256[:8],
    }
    return {name: in_words(value) for name, value in values.items() if value is not None}


def in_words(value: object) -> str:
    """A value of a spec as people write it."""
    if isinstance(value, list | tuple):
        return "+".join(map(in_words, value))
    if isinstance(value, Mapping):
        return "+".join(f"{name}={in_words(entry)}" for name, entry in value.items())
    return str(value)


def at_work(store: Location) -> dict[str, str]:
    """Lease -> who holds it now, ``user on host since time``; of remote stores nobody."""
    live = Leases.beside(store).live() if isinstance(store, Path) else {}
    return {name: str(holder) for name, holder in live.items()}


def size_of(path: Location) -> int | None:
    """Sum of the sizes of a store's files; None where a server does not list them."""
    if not isinstance(path, Path):
        return sum(path.files().values()) if path.writable else None
    with io.reading(path):
        return sum(filter(None, map(_file_size, path.rglob("*"))))


def _file_size(path: Path) -> int | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None  # removed since it was listed, by a writer that moves on
    return None if stat.S_ISDIR(status.st_mode) else status.st_size


# --- finding one ----------------------------------------------------------------------------------


def find(
    roots: Iterable[str | Location],
    corpus: str,
    stream: str,
    *,
    spec: Mapping[str, Any],
    keys_sha256: str | None = None,
    weights: str | None = None,
) -> list[Location]:
    """Stores of a stream computed as ``spec`` says, in the order of the roots, fullest first.

    Args:
        roots: local and remote ones.
        spec: see :func:`layout.stream_spec`.
        keys_sha256: only stores of exactly this corpus, see :func:`layout.corpus_hash`.
        weights: only stores made with weights of this name.

    Roots and stores that cannot be opened are passed over with a warning in the log.
    """
    checked_name(corpus, "corpus")
    checked_name(stream, "stream")
    wanted = canonical(dict(spec))
    paths: list[Location] = []
    for root in roots:
        matching = [
            store
            for store in _opened(root, corpus, stream)
            if (store.corpus, store.stream) == (corpus, stream)
            and canonical(store.attributes["spec"]) == wanted
            and keys_sha256 in {None, store.attributes["corpus_sha256"]}
            and weights in {None, store.attributes["weights"]}
        ]
        matching.sort(key=lambda store: (-store.counts()["ok"], store.path.name))
        paths += [store.path for store in matching]
    return paths


def by_fingerprint(
    roots: Sequence[str],
    fingerprint: str,
    *,
    hint: str | None = None,
    clips: Collection[str] = (),
) -> FeatureStore:
    """The store with this fingerprint, under whatever corpus and stream it lies.

    Local roots are searched before remote ones, which are asked only while no store was found that
    lacks none of the clips; of several that lack some, the fullest is taken.

    Args:
        hint: where it may lie as well, a store's path or address.
        clips: ids that the store should have been extracted for.

    Raises:
        MissingStoreError: no root holds it.
        DamagedError: the only one there is cannot be opened.
    """
    best: tuple[int, FeatureStore] | None = None
    damage: DamagedError | None = None
    for path in _named(roots, fingerprint, hint):
        try:
            store = FeatureStore.open(path)
        except StoreError as error:
            _LOG.warning("passed over a store: %s", error)
            damage = error if isinstance(error, DamagedError) else damage
            continue
        if store.fingerprint != fingerprint:
            continue
        lacking = sum(clip not in store or store.state(clip) == "absent" for clip in clips)
        if best is None or lacking < best[0]:
            best = lacking, store
        if not lacking:
            break
    if best is not None:
        return best[1]
    raise damage or MissingStoreError(
        f"no store has the fingerprint {fingerprint[:FINGERPRINT_CHARACTERS]}",
        where=", ".join(dict.fromkeys([*roots, *([hint] if hint else [])])),
        remedy="name the root that holds it by --store ROOT or in SPAMO_CACHE, or extract it again",
    )


def _named(roots: Sequence[str], fingerprint: str, hint: str | None) -> Iterator[Location]:
    """Stores whose name says that they may have a fingerprint, local ones first."""
    ending = f"-{fingerprint[:FINGERPRINT_CHARACTERS]}.zarr"
    noted = None if hint is None else location(hint)
    for remote in (False, True):
        for root in (root for root in roots if ("://" in root) is remote):
            try:
                yield from (path for path in stores_in(root) if path.name.endswith(ending))
            except StoreError as error:
                if noted is None:
                    _LOG.warning("passed over a root: %s", error)
                else:
                    # Many a web server lists no folders, but stores keep their names below a root.
                    yield location(root) / noted.parent.name / noted.name
        if noted is not None and isinstance(noted, Path) is not remote:
            yield noted


def _opened(root: str | Location, corpus: str, stream: str) -> Iterator[FeatureStore]:
    try:
        listed = stores_in(root, corpus, stream)
    except StoreError as error:
        _LOG.warning("passed over a root: %s", error)
        return
    for path in listed:
        try:
            yield FeatureStore.open(path)
        except StoreError as error:
            _LOG.warning("passed over a store: %s", error)


# --- removing -------------------------------------------------------------------------------------


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
    live = Leases.beside(path).live(certain=True)
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


@dataclass(frozen=True, slots=True)
class Spare:
    """A store that nobody needs any more, or that would be one if nobody were at work on it.

    Attributes:
        why: it is superseded, by which store, or unfinished, and how far it is.
        kept: why it stays all the same; None where it can go.
    """

    entry: StoreEntry
    why: str
    kept: str | None = None


def spare_stores(root: str, used: Mapping[str, str]) -> list[Spare]:
    """Stores of a local root that are superseded or unfinished, those to be kept included.

    A store is superseded where another one of the same root, stream and computation has features of
    every clip that it has features of; the sources may differ in size where that one is newer. It
    is unfinished where a split was begun and not ended, or nothing was done at all.

    Args:
        used: fingerprint -> what needs the store, which stays then.

    Raises:
        UsageError: a remote root, or no such folder.
    """
    if isinstance(location(root), RemotePath):
        raise UsageError("stores of remote roots are not removed from here", where=root)
    stores = []
    for path in stores_in(root):
        try:
            stores.append(FeatureStore.open(path))
        except StoreError as error:
            _LOG.warning("passed over a store: %s", error)
    # Those that hold most come first: each is compared with those that stay.
    stores.sort(key=lambda store: (store.counts()["ok"], store.about.created), reverse=True)
    stay: list[FeatureStore] = []
    found = []
    for store in stores:
        why = _unfinished(store) or _superseded(store, stay)
        if why is None:
            stay.append(store)
            continue
        entry = entry_of(store, root, size_of(store.path))
        kept = used.get(store.fingerprint)
        if entry.at_work:
            kept = f"{next(iter(entry.at_work.values()))} is at work on it"
        found.append(Spare(entry, why, kept))
    return found


def _unfinished(store: FeatureStore) -> str | None:
    state, _ = store.progress()
    done = state != ABSENT
    of_splits = [done[store.index.split == code] for code in range(len(store.splits))]
    # Splits that nobody asked for are no reason.
    if done.any() and all(part.all() or not part.any() for part in of_splits):
        return None
    return f"unfinished: {np.count_nonzero(done):,} of {len(done):,} clips"


def _superseded(store: FeatureStore, others: Iterable[FeatureStore]) -> str | None:
    for other in others:
        if _computed_as(other) == _computed_as(store) and _covers(other, store):
            return f"superseded by {name_of(other.path)}"
    return None


def _computed_as(store: FeatureStore) -> tuple[object, ...]:
    about = store.about
    return about.corpus, about.stream, canonical(dict(about.spec)), about.weights_sha256


def _covers(other: FeatureStore, store: FeatureStore) -> bool:
    if other.about.semantics < store.about.semantics:
        return False
    clips = store.select(state="ok")
    places = other.ids.positions(clips)
    if (places < 0).any() or (other.index.state[places] != OK).any():
        return False
    keys, theirs = ({key.id: key for key in each.clip_keys()} for each in (store, other))
    newer = other.about.created > store.about.created
    # Of a replaced file the newer features count; other files, ranges and crops are other clips.
    return all(
        keys[clip] == (replace(theirs[clip], size=keys[clip].size) if newer else theirs[clip])
        for clip in clips
    )


def sweep(searched: Iterable[str]) -> None:
    """Remove what dead processes left beside the stores of local roots."""
    for root in searched:
        base = location(root)
        if isinstance(base, Path):
            for work in base.glob("*/.work"):
                sweep_corpus(work.parent)
