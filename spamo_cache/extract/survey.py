"""What a run is about, before any frame is decoded: clips, lengths, stores and their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spamo_cache import config
from spamo_cache.config import CacheSpec, StreamSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import UsageError
from spamo_cache.extract.plan import Ints, Plan, SplitClip, StreamPlan, plan, rows_of
from spamo_cache.store.find import find
from spamo_cache.store.layout import (
    ClipKey,
    StreamIdentity,
    corpus_hash,
    fingerprint,
    store_path,
    stream_spec,
)
from spamo_cache.store.plan import State
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location
from spamo_cache.video import Probe, probe_all

_PROBE_THREADS = 8


@dataclass(frozen=True, slots=True)
class StreamSurvey:
    """One stream: how it is computed and where its store is, or is going to be."""

    per: str
    """What a row stands for: ``frame`` or ``window``."""
    width: int
    flops_per_row: int
    identity: StreamIdentity
    weights: str
    store: Location
    chunk_rows: int
    shard_rows: int
    row_bytes: int
    foreign: bool
    """Whether the store is complete in another root than the one to be written."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is decided before work begins."""

    corpus: str
    clips: Sequence[SplitClip]
    probes: Sequence[Probe]
    frames: Ints
    """(clips,) frames of each."""
    keys: Sequence[ClipKey]
    streams: Mapping[str, StreamSurvey]
    plan: Plan
    splits: frozenset[str]
    """The splits asked for."""

    def wanted(self) -> list[int]:
        """Partitions of the splits asked for."""
        return [k for k, split in enumerate(self.plan.splits) if split in self.splits]


def survey(
    manifest: Manifest,
    root: Path,
    spec: CacheSpec,
    load: Callable[[StreamSpec], Encoder],
    *,
    store_root: Path,
    streams: Sequence[str] | None,
    splits: Sequence[str] | None,
    retry: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Survey:
    """Probe the corpus, load the encoders, plan the partitions, find the stores.

    Args:
        load: gives a stream's encoder, of which only sizes and hash are looked at.
        retry: a store of another root that has failed clips will not do as it is.

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
    encoders = {name: load(spec.streams[name]) for name in names}
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
    frames = np.array([probed.frames for probed in probes], np.int64)
    begins = [0 if probed.span is None else probed.span.first for probed in probes]
    planned = plan(clips, frames, layouts, spec.store, begins)
    counts = zip(begins, frames.tolist(), strict=True)
    spans = dict(zip((clip.id for clip in clips), counts, strict=True))
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
            lacks=("absent", "failed") if retry else ("absent",),
            spans=spans,
        )
        for name, encoder in encoders.items()
    }
    return Survey(
        corpus=manifest.corpus,
        clips=clips,
        probes=probes,
        frames=frames,
        keys=keys,
        streams=surveyed,
        plan=planned,
        splits=frozenset(asked),
    )


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
    lacks: Sequence[State],
    spans: Mapping[str, tuple[int, int]],
) -> StreamSurvey:
    identity = StreamIdentity(stream_spec(spec, name), encoder.weights_sha256, registry.SEMANTICS)
    digest = fingerprint(identity, corpus_sha256)
    own = store_path(store_root, corpus, name, digest)
    elsewhere = None
    if not own.exists():
        found = find(config.roots(), corpus, name, spec=identity.spec, keys_sha256=corpus_sha256)
        complete = (path for path in found if _complete(path, digest, splits, lacks, spans))
        elsewhere = next(complete, None)
    return StreamSurvey(
        per=encoder.per,
        width=encoder.width,
        flops_per_row=encoder.flops_per_row,
        identity=identity,
        weights=spec.streams[name].weights,
        store=own if elsewhere is None else elsewhere,
        chunk_rows=layout.chunk_rows,
        shard_rows=layout.shard_rows,
        row_bytes=encoder.width * int(np.dtype(spec.store.dtype).itemsize),
        foreign=elsewhere is not None,
    )


def _complete(
    path: Location,
    digest: str,
    splits: Sequence[str],
    lacks: Sequence[State],
    spans: Mapping[str, tuple[int, int]],
) -> bool:
    """Whether no clip of the splits is in one of the states that a store is left for.

    Nor has other frames, as earlier versions took them from unusual files: ``spans`` has the first
    one's number and their count.
    """
    store = FeatureStore.open(path)
    if store.fingerprint != digest:
        return False
    if any(slot.frames and (slot.first, slot.frames) != spans[slot.id] for slot in store.slots()):
        return False
    return not any(store.select(split=split, state=state) for split in splits for state in lacks)


def _chosen(given: Sequence[str] | None, known: Sequence[str], kind: str) -> list[str]:
    if given is None:
        return list(known)
    for name in given:
        if name not in known:
            raise UsageError(f"no {kind} {name!r}", remedy=f"choose among {', '.join(known)}")
    return list(dict.fromkeys(given))
