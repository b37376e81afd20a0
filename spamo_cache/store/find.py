"""Stores that hold what is wanted, in whichever root they lie."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spamo_cache.errors import StoreError
from spamo_cache.store import roots as places
from spamo_cache.store.layout import canonical, checked_name
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location

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
