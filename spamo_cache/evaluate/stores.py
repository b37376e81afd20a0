"""Whether features are those that a run was trained from, or differ from them only as said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spamo_cache import config
from spamo_cache.errors import StoreError
from spamo_cache.runs.folder import RunFolder
from spamo_cache.store.attributes import Attributes
from spamo_cache.store.inventory import by_fingerprint
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train.features import Features
from spamo_cache.train.features import about as about_of

_LAYOUT = {"chunk_rows", "shard_rows", "partition_frames"}
"""Where rows lie in a store, which changes none of them."""
_ELSEWHERE = ("streams.", "store.chunk_rows.", "store.shard_rows.")
"""Changes that do not reach the features of a stream of another name."""


def open_stores(
    folder: RunFolder, roots: Sequence[str] | None = None, *, split: str | None = None
) -> dict[str, FeatureStore]:
    """The stores a run was trained from, wherever they lie now; where they lay is but a hint.

    Args:
        roots: to look for them in; None is SPAMO_CACHE's.
        split: the clips that will be read; a store that has them is preferred.

    Raises:
        StoreError: no root holds one of them, or they were features in memory.
    """
    about, searched = folder.read_about(), config.roots() if roots is None else roots
    if lost := [name for name in about.fingerprints if name not in about.stores]:
        raise StoreError(
            f"features of stream {lost[0]!r} were held in memory",
            where=folder.path,
            remedy="hand them to evaluate() again",
        )
    manifest = folder.sentences()
    known = split is not None and split in manifest.splits
    clips = manifest.select([split]).table["id"].to_pylist() if known and split else []
    return {
        name: by_fingerprint(searched, fingerprint, hint=about.places[name], clips=clips)
        for name, fingerprint in about.fingerprints.items()
    }


def check_stores(
    folder: RunFolder, stores: Mapping[str, Features], changed: Mapping[str, Any] | None = None
) -> None:
    """Raise StoreError unless these are the features the run was trained from.

    Args:
        changed: dotted keys of the cache spec -> the value that these were computed with instead.
    """
    about = folder.read_about()
    for name, expected in about.fingerprints.items():
        own = _of_stream(changed or {}, name)
        found = stores[name].fingerprint if name in stores else "none"
        if own and name in stores:
            _check_changed(name, about.stores.get(name), stores[name], own)
        elif found != expected:
            raise StoreError(
                f"stream {name!r} is {found[:12]}, the run was trained from {expected[:12]}",
                where=folder.path,
                remedy="give the stores the run was trained from, or train on these",
            )


def _of_stream(changed: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """Last part of the key -> value, of the changes that reach a stream."""
    return {
        key.rpartition(".")[2]: list(value) if isinstance(value, tuple) else value
        for key, value in changed.items()
        if key.startswith(f"streams.{stream}.") or not key.startswith(_ELSEWHERE)
    }


def _check_changed(
    name: str, trained: Attributes | None, store: Features, changed: Mapping[str, Any]
) -> None:
    present = about_of(store)
    if trained is None or present is None:
        return  # held in memory: nothing says how they were made
    before, after = _made(trained), _made(present)
    for key in sorted((before.keys() | after.keys()) - _LAYOUT):
        expected = changed.get(key, before.get(key))
        if after.get(key) != expected:
            raise StoreError(
                f"stream {name!r} has {key} {after.get(key)!r}, expected {expected!r}",
                where=store.path,
                remedy="only what the change names may differ from what the run was trained from",
            )


def _made(about: Attributes) -> dict[str, Any]:
    """All that decides a store's features."""
    parts = about.model_dump(include={"corpus_sha256", "weights_sha256", "semantics"})
    # A phase of 0 is left out of specs.
    return {"phase": 0, **about.model_dump(mode="json")["spec"], **parts}
