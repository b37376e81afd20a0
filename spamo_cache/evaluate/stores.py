"""Whether features are those that a run was trained from, or differ from them only as said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamo_cache.errors import StoreError
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train.checkpoint import RunFolder
from spamo_cache.train.features import Features

_LAYOUT = {"chunk_rows", "shard_rows", "partition_frames"}
"""Where rows lie in a store, which changes none of them."""
_ELSEWHERE = ("streams.", "store.chunk_rows.", "store.shard_rows.")
"""Changes that do not reach the features of a stream of another name."""


def open_stores(folder: RunFolder) -> Mapping[str, FeatureStore]:
    """The stores a run was trained from, where they lay then.

    Raises:
        StoreError: they are no longer there, or never lay on a disk.
    """
    places = folder.read_about()["places"]
    if lost := [name for name, place in places.items() if place is None]:
        raise StoreError(
            f"features of stream {lost[0]!r} were held in memory",
            where=folder.path,
            remedy="hand them to evaluate() again",
        )
    return {name: FeatureStore.open(place) for name, place in places.items()}


def check_stores(
    folder: RunFolder, stores: Mapping[str, Features], changed: Mapping[str, Any] | None = None
) -> None:
    """Raise StoreError unless these are the features the run was trained from.

    Args:
        changed: dotted keys of the cache spec -> the value that these were computed with instead.
    """
    for name, expected in folder.read_about()["parts"]["stores"].items():
        own = _of_stream(changed or {}, name)
        found = stores[name].fingerprint if name in stores else "none"
        if own and name in stores:
            _check_changed(folder, name, stores[name], own)
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
    folder: RunFolder, name: str, store: Features, changed: Mapping[str, Any]
) -> None:
    place = folder.read_about()["places"][name]
    if place is None or not isinstance(store, FeatureStore):
        return  # held in memory: nothing says how they were made
    before, after = (_made(one) for one in (FeatureStore.open(place), store))
    for key in sorted((before.keys() | after.keys()) - _LAYOUT):
        expected = changed.get(key, before.get(key))
        if after.get(key) != expected:
            raise StoreError(
                f"stream {name!r} has {key} {after.get(key)!r}, expected {expected!r}",
                where=store.path,
                remedy="only what the change names may differ from what the run was trained from",
            )


def _made(store: FeatureStore) -> dict[str, Any]:
    """All that decides a store's features."""
    about = store.attributes
    parts = {key: about[key] for key in ("corpus_sha256", "weights_sha256", "semantics")}
    # A phase of 0 is left out of specs.
    return {"phase": 0, **about["spec"], **parts}
