"""What a run is about, before any frame is decoded: clips, lengths, stores and their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spamo_cache import config
from spamo_cache.config import CacheSpec
from spamo_cache.encoders import registry
from spamo_cache.encoders.registry import Encoder
from spamo_cache.errors import UsageError
from spamo_cache.extract.plan import Plan, SplitClip, StreamPlan, plan, rows_of
from spamo_cache.store.layout import (
    ClipKey,
    StreamIdentity,
    corpus_hash,
    fingerprint,
    store_path,
    stream_spec,
)
from spamo_cache.store.reader import FeatureStore, find
from spamo_cache.video import Probe, probe_all

_PROBE_THREADS = 8


class ManifestLike(Protocol):
    """The part of a manifest that extraction reads."""

    @property
    def corpus(self) -> str: ...
    def __len__(self) -> int: ...
    def clips(self) -> Sequence[SplitClip]: ...


@dataclass(frozen=True, slots=True)
class StreamSurvey:
    """One stream: how it is computed and where its store is, or is going to be."""

    encoder: Encoder
    identity: StreamIdentity
    weights: str
    store: Path
    chunk_rows: int
    shard_rows: int
    row_bytes: int
    foreign: bool
    """Whether the store is complete in another root than the one to be written."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is decided before work begins."""

    clips: Sequence[SplitClip]
    probes: Sequence[Probe]
    keys: Sequence[ClipKey]
    streams: Mapping[str, StreamSurvey]
    plan: Plan
    splits: frozenset[str]
    """The splits asked for."""

    def wanted(self) -> list[int]:
        """Partitions of the splits asked for."""
        return [number for number, split in self.plan.splits.items() if split in self.splits]


def survey(
    manifest: ManifestLike,
    root: Path,
    spec: CacheSpec,
    base: Path,
    *,
    store_root: Path,
    streams: Sequence[str] | None,
    splits: Sequence[str] | None,
    device: str,
    progress: Callable[[int], None] | None = None,
) -> Survey:
    """Probe the corpus, load the encoders, plan the partitions, find the stores.

    Raises:
        UsageError: a stream or split that does not exist, an empty manifest, a missing root.
        ConfigError: a spec that cannot be carried out.
        WeightsError: weights that cannot be used.
    """
    names = _chosen(streams, list(spec.streams), "stream")
    if not root.is_dir():
        raise UsageError("no such corpus folder", where=root, remedy="check --root")
    clips = manifest.clips()
    if not clips:
        raise UsageError("the manifest has no clips", where=manifest.corpus)
    asked = _chosen(splits, sorted({clip.split for clip in clips}), "split")
    encoders = {
        name: registry.build(spec.streams[name], base, spec.compute, device) for name in names
    }
    probes = probe_all(root, clips, threads=_PROBE_THREADS, progress=progress)
    keys = [
        ClipKey(clip.id, clip.source, probed.size, clip.start, clip.end, clip.crop)
        for clip, probed in zip(clips, probes, strict=True)
    ]
    layouts = {
        name: StreamPlan(
            encoder.rows,
            rows_of(spec.store.chunk_rows, encoder.per),
            rows_of(spec.store.shard_rows, encoder.per),
        )
        for name, encoder in encoders.items()
    }
    planned = plan(clips, [probed.frames for probed in probes], layouts, spec.store)
    corpus = corpus_hash(keys)
    surveyed = {
        name: _stream(
            name,
            encoder,
            spec=spec,
            layout=layouts[name],
            corpus=manifest.corpus,
            corpus_sha256=corpus,
            store_root=store_root,
            splits=asked,
        )
        for name, encoder in encoders.items()
    }
    return Survey(clips, probes, keys, surveyed, planned, frozenset(asked))


def _stream(
    name: str,
    encoder: Encoder,
    *,
    spec: CacheSpec,
    layout: StreamPlan,
    corpus: str,
    corpus_sha256: str,
    store_root: Path,
    splits: Sequence[str],
) -> StreamSurvey:
    identity = StreamIdentity(stream_spec(spec, name), encoder.weights_sha256, registry.SEMANTICS)
    digest = fingerprint(identity, corpus_sha256)
    own = store_path(store_root, corpus, name, digest)
    elsewhere = None
    if not own.exists():
        found = find(config.roots(), corpus, name, spec=identity.spec, keys_sha256=corpus_sha256)
        complete = (path for path in found if _complete(path, digest, splits))
        elsewhere = next(complete, None)
    return StreamSurvey(
        encoder,
        identity,
        spec.streams[name].weights,
        own if elsewhere is None else elsewhere,
        layout.chunk_rows,
        layout.shard_rows,
        encoder.width * int(np.dtype(spec.store.dtype).itemsize),
        foreign=elsewhere is not None,
    )


def _complete(path: Path, digest: str, splits: Sequence[str]) -> bool:
    store = FeatureStore.open(path)
    if store.fingerprint != digest:
        return False
    wanted = frozenset(splits)
    return all(
        slot.split not in wanted or store.state(slot.id) != "absent" for slot in store.slots()
    )


def _chosen(given: Sequence[str] | None, known: Sequence[str], kind: str) -> list[str]:
    if given is None:
        return list(known)
    for name in given:
        if name not in known:
            raise UsageError(f"no {kind} {name!r}", remedy=f"choose among {', '.join(known)}")
    return list(dict.fromkeys(given))
