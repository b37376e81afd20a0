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
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.extract.plan import (
    Counted,
    Ints,
    Mask,
    Places,
    SplitClip,
    StreamPlan,
    begin,
    go_on,
    rows_of,
    taken_over,
)
from spamo_cache.store.attributes import Attributes, load_attributes
from spamo_cache.store.index import ABSENT, FAILED, OK, PLACE, ClipIndex, Columns, with_receipts
from spamo_cache.store.inventory import find
from spamo_cache.store.layout import (
    ClipKey,
    StreamIdentity,
    corpus_hash,
    fingerprint,
    store_path,
    stream_spec,
)
from spamo_cache.store.receipts import Receipts
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
    places: Places
    """Of the clips: as the store has them, if there is one."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is decided before work begins."""

    corpus: str
    clips: Sequence[SplitClip]
    probes: Sequence[Probe]
    counted: Counted
    keys: Sequence[ClipKey]
    streams: Mapping[str, StreamSurvey]
    asked: Mask
    """(clips,) whether the clip is of the splits asked for."""


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
    names = chosen(streams, list(spec.streams), "stream")
    if not root.is_dir():
        raise UsageError("no such corpus folder", where=root, remedy="check --root")
    clips = manifest.clips()
    if not clips:
        raise UsageError("the manifest has no clips", where=manifest.corpus)
    wanted = set(chosen(splits, sorted({clip.split for clip in clips}), "split"))
    encoders = {name: load(spec.streams[name]) for name in names}
    probes = probe_all(root, clips, threads=_PROBE_THREADS, progress=progress)
    keys = [
        ClipKey(clip.id, clip.source, probed.size, clip.start, clip.end, clip.crop)
        for clip, probed in zip(clips, probes, strict=True)
    ]
    counted = Counted.of(
        clips,
        [probed.frames for probed in probes],
        spec.store,
        [0 if probed.span is None else probed.span.first for probed in probes],
    )
    asked = np.array([clip.split in wanted for clip in clips], bool)
    corpus = corpus_hash(keys)
    surveyed = {
        name: _stream(
            name,
            encoder,
            spec=spec,
            counted=counted,
            asked=asked,
            corpus=manifest.corpus,
            corpus_sha256=corpus,
            store_root=store_root,
            lacks=(ABSENT, FAILED) if retry else (ABSENT,),
        )
        for name, encoder in encoders.items()
    }
    return Survey(
        corpus=manifest.corpus,
        clips=clips,
        probes=probes,
        counted=counted,
        keys=keys,
        streams=surveyed,
        asked=asked,
    )


def _stream(
    name: str,
    encoder: Encoder,
    *,
    spec: CacheSpec,
    counted: Counted,
    asked: Mask,
    corpus: str,
    corpus_sha256: str,
    store_root: Path,
    lacks: Sequence[int],
) -> StreamSurvey:
    identity = StreamIdentity(stream_spec(spec, name), encoder.weights_sha256, registry.SEMANTICS)
    layout = StreamPlan(
        encoder.rows,
        rows_of(spec.store.chunk_rows, encoder.per),
        rows_of(spec.store.shard_rows, encoder.per),
    )
    digest = fingerprint(identity, corpus_sha256)
    own = store_path(store_root, corpus, name, digest)
    elsewhere: _Recorded | None = None
    if own.exists():
        recorded = _Recorded.of(own, counted)
    else:
        found = find(config.roots(), corpus, name, spec=identity.spec, keys_sha256=corpus_sha256)
        others = (_Recorded.of(path, counted) for path in found if _is(path, digest))
        complete = (
            other for other in others if other and not other.lacking(lacks, counted)[asked].any()
        )
        recorded = elsewhere = next(complete, None)
    return StreamSurvey(
        per=encoder.per,
        width=encoder.width,
        flops_per_row=encoder.flops_per_row,
        identity=identity,
        weights=spec.streams[name].weights,
        store=own if elsewhere is None else elsewhere.store,
        chunk_rows=layout.chunk_rows,
        shard_rows=layout.shard_rows,
        row_bytes=encoder.width * int(np.dtype(spec.store.dtype).itemsize),
        foreign=elsewhere is not None,
        places=(
            begin(counted, layout, name)
            if recorded is None
            else recorded.goes_on(counted, layout, name, lacks, asked)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a store of these very clips says about them."""

    store: Location
    attributes: Attributes
    index: ClipIndex
    at: Ints
    """(clips,) where each clip stands in the index."""

    @classmethod
    def of(cls, store: Location, counted: Counted) -> _Recorded | None:
        """None where the index is lost: whoever writes to the store makes it again."""
        attributes = load_attributes(store)
        try:
            index = ClipIndex.open(store, attributes)
        except DamagedError:
            return None
        at = index.ids.positions([clip.id for clip in counted.clips])
        return cls(store, attributes, index, at)

    def lacking(self, states: Sequence[int], counted: Counted) -> Mask:
        """(clips,) whether the clip is in one of these states, or has features of other frames."""
        return self._lacking(self.index.columns, states, counted)

    def _lacking(self, columns: Columns, states: Sequence[int], counted: Counted) -> Mask:
        state, first, frames = (columns[name][self.at] for name in ("state", "first", "frames"))
        # Earlier versions took others from unusual files. 0: nobody has counted them, or nobody
        # can now, which makes no features wrong.
        other = (frames != counted.frames) | (first != counted.first)
        other &= (state == OK) & (frames > 0) & (counted.frames > 0)
        lacking: Mask = np.isin(state, states) | other
        return lacking

    def places(self, counted: Counted) -> Places:
        columns = {name: self.index.columns[name][self.at] for name in PLACE}
        splits = [self.index.splits[code] for code in columns["split"].tolist()]
        return taken_over(counted, columns, splits)

    def goes_on(
        self, counted: Counted, layout: StreamPlan, name: str, lacking: Sequence[int], asked: Mask
    ) -> Places:
        """Its plan, with places for clips that are to be computed and are counted otherwise now.

        Features of other frames than a clip's stay behind in its former place.
        """
        places = self.places(counted)
        lacks = self.lacking(lacking, counted)
        # A partition is computed whole, with its clips of other splits.
        unfinished = lacks & np.isin(places.partition, list(places.holding(lacks & asked)))
        found = go_on(places, counted, layout, name, unfinished=unfinished)
        if found is places or not isinstance(self.store, Path):
            return places
        # Of these clips some may have been finished since the index was written.
        receipts = Receipts(self.store, self.attributes)
        now = with_receipts(self.index.columns, receipts)
        unfinished &= self._lacking(now, lacking, counted)
        return go_on(places, counted, layout, name, unfinished=unfinished)


def _is(store: Location, digest: str) -> bool:
    return load_attributes(store).fingerprint == digest


def chosen(given: Sequence[str] | None, known: Sequence[str], kind: str) -> list[str]:
    if given is None:
        return list(known)
    for name in given:
        if name not in known:
            raise UsageError(f"no {kind} {name!r}", remedy=f"choose among {', '.join(known)}")
    return list(dict.fromkeys(given))
