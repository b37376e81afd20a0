"""Stores that hold what is wanted, in whichever root they lie."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import roots as places
from spamo_cache.store.layout import FINGERPRINT_CHARACTERS, canonical, checked_name
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location, location

_LOG = logging.getLogger(__name__)


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
    found: list[Location] = []
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
        found += [store.path for store in matching]
    return found


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
        StoreError: no root holds it.
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
    raise damage or StoreError(
        f"no store has the fingerprint {fingerprint[:FINGERPRINT_CHARACTERS]}",
        where=", ".join(dict.fromkeys([*roots, *([hint] if hint else [])])),
        remedy="name the root that holds it by --store ROOT or in SPAMO_CACHE",
    )


def _named(roots: Sequence[str], fingerprint: str, hint: str | None) -> Iterator[Location]:
    """Stores whose name says that they may have a fingerprint, local ones first."""
    ending = f"-{fingerprint[:FINGERPRINT_CHARACTERS]}.zarr"
    noted = None if hint is None else location(hint)
    for remote in (False, True):
        for root in (root for root in roots if ("://" in root) is remote):
            try:
                yield from (path for path in places.stores(root) if path.name.endswith(ending))
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
        listed = places.stores(root, corpus, stream)
    except StoreError as error:
        _LOG.warning("passed over a root: %s", error)
        return
    for path in listed:
        try:
            yield FeatureStore.open(path)
        except StoreError as error:
            _LOG.warning("passed over a store: %s", error)
