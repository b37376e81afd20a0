"""Why two stores are not the same, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spamo_cache.store.layout import ClipKey
from spamo_cache.store.plan import State
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location

_SHOWN = 3
_CHANGES = {
    "source": "come from another file",
    "size": "have a source of another size",
    "start": "start at another time",
    "end": "end at another time",
    "crop": "are cropped otherwise",
}


def diff(first: Location, second: Location) -> list[str]:
    """Why two stores are not the same, a sentence each; empty where they are.

    Raises:
        StoreError: one of them cannot be opened.
    """
    a, b = FeatureStore.open(first), FeatureStore.open(second)
    return [*_stream_differences(a, b), *_corpus_differences(a, b), *_feature_differences(a, b)]


def _stream_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    about_a, about_b = a.attributes, b.attributes
    for name in ("corpus", "stream", "width", "dtype", "chunk_rows", "shard_rows"):
        if about_a[name] != about_b[name]:
            yield f"{name} {about_a[name]} against {about_b[name]}"
    spec_a, spec_b = about_a["spec"], about_b["spec"]
    for key in sorted((spec_a.keys() | spec_b.keys()) - {"dtype", "chunk_rows", "shard_rows"}):
        if spec_a.get(key) != spec_b.get(key):
            yield f"{key} {_word(spec_a.get(key))} against {_word(spec_b.get(key))}"
    if about_a["weights_sha256"] != about_b["weights_sha256"]:
        yield f"other weights: {_weights(about_a)} against {_weights(about_b)}"
    if about_a["semantics"] != about_b["semantics"]:
        yield (
            "computed by versions of spamo-cache that mean different things by the same spec:"
            f" semantics {about_a['semantics']} against {about_b['semantics']}"
        )


def _word(value: object) -> object:
    return "nothing" if value is None else value


def _weights(about: Mapping[str, Any]) -> str:
    return f"{about['weights']} ({about['weights_sha256'][:12]})"


def _corpus_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    versions = a.attributes["manifest_sha256"], b.attributes["manifest_sha256"]
    if all(versions) and versions[0] != versions[1]:
        yield "made from different versions of the manifest: its sentences may differ, too"
    if a.attributes["corpus_sha256"] == b.attributes["corpus_sha256"]:
        return
    keys_a = {key.id: key for key in a.clip_keys()}
    keys_b = {key.id: key for key in b.clip_keys()}
    yield from _only("clips", keys_a.keys(), keys_b.keys())
    both = sorted(keys_a.keys() & keys_b.keys())
    for name, words in _CHANGES.items():
        changed = [clip for clip in both if _differ(keys_a[clip], keys_b[clip], name)]
        if changed:
            yield f"{len(changed)} clips {words}: {_some(changed)}"


def _differ(a: ClipKey, b: ClipKey, name: str) -> bool:
    return bool(getattr(a, name) != getattr(b, name))


def _feature_differences(a: FeatureStore, b: FeatureStore) -> Iterator[str]:
    split_a, split_b = ({slot.id: slot.split for slot in store.slots()} for store in (a, b))
    both = split_a.keys() & split_b.keys()
    moved = [clip for clip in both if split_a[clip] != split_b[clip]]
    if moved:
        yield f"{len(moved)} clips are in another split: {_some(moved)}"
    states: tuple[State, ...] = ("failed", "absent")
    for state in states:
        yield from _only(
            f"clips {state}", both & set(a.select(state=state)), both & set(b.select(state=state))
        )
    sums_a, sums_b = a.checksums(), b.checksums()
    other = [clip for clip in sums_a.keys() & sums_b.keys() if sums_a[clip] != sums_b[clip]]
    if other:
        yield f"{len(other)} clips have other features: {_some(other)}"


def _only(what: str, first: Iterable[str], second: Iterable[str]) -> Iterator[str]:
    here, there = set(first), set(second)
    for clips, where in ((here - there, "first"), (there - here, "second")):
        if clips:
            yield f"{len(clips)} {what} only in the {where}: {_some(clips)}"


def _some(clips: Iterable[str]) -> str:
    names = sorted(clips)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
