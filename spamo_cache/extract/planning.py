"""What an extraction has to do, decided before any frame is decoded.

:func:`plan_extraction` looks at clips, encoders and stores; :func:`remaining_work` lists the
partitions that no store has yet, and which of their clips can be copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache import config
from spamo_cache.config import CacheSpec, StreamSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.extract import clip_poses, reuse
from spamo_cache.extract.clip_poses import PoseFile
from spamo_cache.extract.decoding import ClipTask
from spamo_cache.extract.placement import (
    CountedClips,
    Ints,
    Mask,
    Placement,
    RowLayout,
    SplitClip,
    continued_placement,
    new_placement,
    recorded_placement,
    rows_of,
)
from spamo_cache.extract.reuse import Reusable
from spamo_cache.extract.worker import PartitionTask
from spamo_cache.store.attributes import Attributes, load_attributes
from spamo_cache.store.index import ABSENT, FAILED, OK, PLACE, ClipIndex, Columns, with_receipts
from spamo_cache.store.inventory import find
from spamo_cache.store.layout import (
    ClipKey,
    StreamIdentity,
    corpus_hash,
    fingerprint,
    poses_hash,
    store_path,
    stream_spec,
)
from spamo_cache.store.receipts import Receipt, Receipts, finished
from spamo_cache.store.remote import Location
from spamo_cache.video import Probe, probe_all

_PROBE_THREADS = 8


# --- the plan -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One stream: how it is computed, and the store that has it or will have it."""

    per: str
    """What a row stands for: ``frame`` or ``window``."""
    width: int
    """Values per row; 0 where a dry run cannot know it without the weights."""
    flops_per_row: int
    """0 where a dry run cannot know it."""
    identity: StreamIdentity
    weights: str
    store: Location
    chunk_rows: int
    shard_rows: int
    row_bytes: int
    elsewhere: bool
    """Whether the store lies, complete, in a root other than the one written to."""
    placement: Placement
    """Of the clips; as the store has recorded it, if there is one."""
    keys: Sequence[ClipKey]
    """Of the clips, with their poses where the stream uses them."""
    uses_poses: bool


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """The clips of a corpus as they are on disk, and a store for each stream."""

    corpus: str
    clips: Sequence[SplitClip]
    probes: Sequence[Probe]
    counted: CountedClips
    pose_files: Sequence[PoseFile]
    """Of the clips; empty where no stream uses them."""
    streams: Mapping[str, StreamPlan]
    requested: Mask
    """(clips,) whether the clip belongs to a requested split."""

    def statuses(self) -> dict[str, StoreStatus]:
        """Stream -> what its store holds now."""
        return {
            name: _status(self, stream) if _exists(stream.store) else StoreStatus()
            for name, stream in self.streams.items()
        }


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a stream's store holds of the requested splits, according to its receipts."""

    states: dict[str, str | None] = field(default_factory=dict)
    """Clip -> why it failed, None where it has features; clips not done yet are left out."""
    finished: set[int] = field(default_factory=set)
    """Partitions."""
    failed: set[int] = field(default_factory=set)
    """Of those the ones with failed clips."""
    made_by: str = ""
    """Who made the store."""


def plan_extraction(
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
) -> ExtractionPlan:
    """Probe the corpus, load the encoders, plan the partitions, find the stores.

    Args:
        load: gives a stream's encoder, or its outline; only its sizes and hash are looked at.
        retry: do not settle for a store in another root if it has failed clips.

    Raises:
        UsageError: a stream or split that does not exist, an empty manifest, a missing root, no
            pose of any clip where a stream uses poses.
        ConfigError: a spec that cannot be carried out.
        WeightsError: weights that cannot be used.
    """
    names = check_names(streams, list(spec.streams), "stream")
    if not root.is_dir():
        raise UsageError("no such corpus folder", where=root, remedy="check --root")
    clips = manifest.clips()
    if not clips:
        raise UsageError("the manifest has no clips", where=manifest.corpus)
    wanted = set(check_names(splits, sorted({clip.split for clip in clips}), "split"))
    encoders = {name: load(spec.streams[name]) for name in names}
    probes = probe_all(root, clips, threads=_PROBE_THREADS, progress=progress)
    keys = [
        ClipKey(clip.id, clip.source, probed.size, clip.start, clip.end, clip.crop)
        for clip, probed in zip(clips, probes, strict=True)
    ]
    counted = CountedClips.of(
        clips,
        [probed.frames for probed in probes],
        spec.store,
        [0 if probed.span is None else probed.span.first for probed in probes],
    )
    requested = np.array([clip.split in wanted for clip in clips], bool)
    files: list[PoseFile] = []
    posed = keys
    if any(spec.streams[name].uses_poses for name in names):
        files = clip_poses.find_all(root, root / spec.poses, clips)
        _check_poses(files, requested, root / spec.poses)
        posed = [replace(key, pose=file.identity) for key, file in zip(keys, files, strict=True)]
    corpus_sha256, poses_sha256 = corpus_hash(keys), poses_hash(posed)
    plans = {
        name: _stream(
            name,
            encoder,
            spec=spec,
            counted=counted,
            requested=requested,
            corpus=manifest.corpus,
            keys=posed if spec.streams[name].uses_poses else keys,
            corpus_sha256=corpus_sha256,
            poses_sha256=poses_sha256 if spec.streams[name].uses_poses else "",
            store_root=store_root,
            lacks=(ABSENT, FAILED) if retry else (ABSENT,),
        )
        for name, encoder in encoders.items()
    }
    return ExtractionPlan(
        corpus=manifest.corpus,
        clips=clips,
        probes=probes,
        counted=counted,
        pose_files=files,
        streams=plans,
        requested=requested,
    )


def _check_poses(files: Sequence[PoseFile], requested: Mask, folder: Path) -> None:
    """Raise UsageError where no clip has a pose: nobody wants an extraction of failures."""
    wanted = [file for file, asked in zip(files, requested, strict=True) if asked]
    if wanted and all(file.path is None for file in wanted):
        raise UsageError(
            f"streams use poses, and none of {len(wanted):,} clips has one",
            where=folder,
            remedy="make them by `spamo-cache pose`, name their folder by --poses, or choose other "
            "--streams",
        )


def _stream(
    name: str,
    encoder: Encoder,
    *,
    spec: CacheSpec,
    counted: CountedClips,
    requested: Mask,
    corpus: str,
    keys: Sequence[ClipKey],
    corpus_sha256: str,
    poses_sha256: str,
    store_root: Path,
    lacks: Sequence[int],
) -> StreamPlan:
    named = stream_spec(spec, name)
    weights_sha256 = encoder.weights_sha256 or _recorded_weights(
        [store_root, *config.roots()], corpus, name, named, spec.streams[name].weights
    )
    identity = StreamIdentity(named, weights_sha256, registry.SEMANTICS)
    layout = RowLayout(
        encoder.rows,
        rows_of(spec.store.chunk_rows, encoder.per),
        rows_of(spec.store.shard_rows, encoder.per),
    )
    digest = fingerprint(identity, corpus_sha256, poses_sha256)
    own = store_path(store_root, corpus, name, digest)
    elsewhere: _Recorded | None = None
    if own.exists():
        recorded = _Recorded.of(own, counted)
    else:
        paths = find(config.roots(), corpus, name, spec=identity.spec, keys_sha256=corpus_sha256)
        others = (_Recorded.of(path, counted) for path in paths if _is(path, digest))
        complete = (
            other
            for other in others
            if other and not other.lacking(lacks, counted)[requested].any()
        )
        recorded = elsewhere = next(complete, None)
    return StreamPlan(
        per=encoder.per,
        width=encoder.width,
        flops_per_row=encoder.flops_per_row,
        identity=identity,
        weights=spec.streams[name].weights,
        store=own if elsewhere is None else elsewhere.store,
        chunk_rows=layout.chunk_rows,
        shard_rows=layout.shard_rows,
        row_bytes=encoder.width * int(np.dtype(spec.store.dtype).itemsize),
        elsewhere=elsewhere is not None,
        placement=(
            new_placement(counted, layout, name)
            if recorded is None
            else recorded.continued(counted, layout, name, lacks, requested)
        ),
        keys=keys,
        uses_poses=spec.streams[name].uses_poses,
    )


def _recorded_weights(
    roots: Sequence[str | Path], corpus: str, stream: str, spec: Mapping[str, Any], weights: str
) -> str:
    """The hash of weights that are not at hand, as a store made with them has it; else empty."""
    found = find(roots, corpus, stream, spec=spec, weights=weights)
    return load_attributes(found[0]).weights_sha256 if found else ""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a store of exactly these clips has recorded about them."""

    store: Location
    attributes: Attributes
    index: ClipIndex
    at: Ints
    """(clips,) where each clip stands in the index."""

    @classmethod
    def of(cls, store: Location, counted: CountedClips) -> _Recorded | None:
        """None where the index is lost; the next writer rebuilds it."""
        attributes = load_attributes(store)
        try:
            index = ClipIndex.open(store, attributes)
        except DamagedError:
            return None
        at = index.ids.positions([clip.id for clip in counted.clips])
        return cls(store, attributes, index, at)

    def lacking(self, states: Sequence[int], counted: CountedClips) -> Mask:
        """(clips,) whether the clip is in one of these states, or has features of other frames."""
        return self._lacking(self.index.columns, states, counted)

    def _lacking(self, columns: Columns, states: Sequence[int], counted: CountedClips) -> Mask:
        state, first, frames = (columns[name][self.at] for name in ("state", "first", "frames"))
        # Earlier versions took others from unusual files. 0: nobody has counted them, or nobody
        # can now, which makes no features wrong.
        other = (frames != counted.frames) | (first != counted.first)
        other &= (state == OK) & (frames > 0) & (counted.frames > 0)
        lacking: Mask = np.isin(state, states) | other
        return lacking

    def placement(self, counted: CountedClips) -> Placement:
        columns = {name: self.index.columns[name][self.at] for name in PLACE}
        splits = [self.index.splits[code] for code in columns["split"].tolist()]
        return recorded_placement(counted, columns, splits)

    def continued(
        self,
        counted: CountedClips,
        layout: RowLayout,
        name: str,
        lacking: Sequence[int],
        requested: Mask,
    ) -> Placement:
        """Its placement; clips to be computed whose number of frames has changed are moved.

        What was computed from their former frames stays behind in their former place.
        """
        recorded = self.placement(counted)
        lacks = self.lacking(lacking, counted)
        # A partition is computed whole, with its clips of other splits.
        unfinished = lacks & np.isin(recorded.partition, list(recorded.holding(lacks & requested)))
        moved = continued_placement(recorded, counted, layout, name, unfinished=unfinished)
        if moved is recorded or not isinstance(self.store, Path):
            return recorded
        # Of these clips some may have been finished since the index was written.
        receipts = Receipts(self.store, self.attributes)
        now = with_receipts(self.index.columns, receipts)
        unfinished &= self._lacking(now, lacking, counted)
        return continued_placement(recorded, counted, layout, name, unfinished=unfinished)


def check_names(given: Sequence[str] | None, known: Sequence[str], kind: str) -> list[str]:
    """``given`` without repetitions, all of ``known`` where it is None; raises UsageError."""
    if given is None:
        return list(known)
    for name in given:
        if name not in known:
            raise UsageError(f"no {kind} {name!r}", remedy=f"choose among {', '.join(known)}")
    return list(dict.fromkeys(given))


def _is(store: Location, digest: str) -> bool:
    return load_attributes(store).fingerprint == digest


def _exists(store: Location) -> bool:
    return (store / "zarr.json").exists()


def _status(plan: ExtractionPlan, stream: StreamPlan) -> StoreStatus:
    wanted = stream.placement.holding(plan.requested)
    made_by, receipts = _receipts(stream.store, wanted)
    status = StoreStatus(made_by=made_by)
    for receipt in receipts:
        status.finished.add(receipt.partition)
        members = stream.placement.members[receipt.partition].tolist()
        reasons = {
            clip.id: receipt.failures.get(clip.id)
            for clip in (plan.clips[k] for k in members if plan.requested[k])
            if clip.id in receipt.clips or clip.id in receipt.failures
        }
        status.states.update(reasons)
        if any(reason is not None for reason in reasons.values()):
            status.failed.add(receipt.partition)
    return status


def _receipts(store: Location, wanted: set[int]) -> tuple[str, Iterator[Receipt]]:
    """Who made a store, and its receipts of the partitions wanted."""
    about = load_attributes(store)
    if isinstance(store, Path):
        # Without its index, which may be lost: `StoreWriter.open` makes it again.
        receipts = Receipts(store, about)
        valid = map(receipts.valid, sorted(wanted.intersection(receipts.partitions())))
        return about.created_by, (receipt for receipt in valid if receipt is not None)
    partitions = ClipIndex.open(store, about).finished_partitions()
    return about.created_by, finished(store, about, partitions, among=wanted)


# --- what is left of it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartitionGroup:
    """Streams that lack the same partition, whose clips are decoded once for all of them."""

    partition: int
    positions: Ints
    streams: tuple[str, ...]

    @property
    def name(self) -> str:
        """Unique: groups of the same partition have different streams."""
        return "-".join((str(self.partition), *self.streams))


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """The partitions that an extraction still has to finish."""

    plan: ExtractionPlan
    missing: Mapping[str, set[int]]
    """Stream -> its partitions that are unfinished, or are to be retried."""
    reusable: Mapping[str, Reusable]
    retry: bool

    def groups(self) -> list[PartitionGroup]:
        """What there is to do, in order of work.

        Streams whose stores were begun with different plans may differ in a partition's clips.
        """
        streams: dict[tuple[int, bytes], list[str]] = {}
        for name, numbers in self.missing.items():
            members = self.plan.streams[name].placement.members
            for number in numbers:
                streams.setdefault((number, members[number].tobytes()), []).append(name)
        return [
            PartitionGroup(number, np.frombuffer(members, np.int64), tuple(names))
            for (number, members), names in sorted(streams.items())
        ]

    def task(self, group: PartitionGroup) -> PartitionTask:
        clips = tuple(self.clip_task(position) for position in group.positions.tolist())
        ids = [clip.id for clip in clips]
        copies = {name: self.reusable[name].copies(ids, group.positions) for name in group.streams}
        return PartitionTask(group.name, group.partition, clips, copies, self.retry)

    def clip_task(self, position: int) -> ClipTask:
        """A clip as workers need it."""
        clip, probe = self.plan.clips[position], self.plan.probes[position]
        reason = self.plan.counted.too_long.get(position)
        if reason is not None:
            probe = replace(probe, frames=0, reason=reason)
        file = self.plan.pose_files[position] if self.plan.pose_files else None
        return ClipTask(clip.id, clip.source, clip.start, clip.end, clip.crop, probe, file)

    def affected(self, name: str) -> Mask:
        """(clips,) whether the clip lies in a partition that the stream lacks."""
        mask = np.zeros(len(self.plan.clips), bool)
        for number in self.missing.get(name, ()):
            mask[self.plan.streams[name].placement.members[number]] = True
        return mask

    def computed(self, name: str) -> Mask:
        """(clips,) whether the stream's features have to be computed."""
        affected = self.affected(name)
        return affected & (self.reusable[name].source < 0) if name in self.missing else affected

    def size(self) -> tuple[int, int]:
        """Clips and frames of the remaining partitions, counted once per group they are in."""
        positions = [group.positions for group in self.groups()]
        frames = sum(int(self.plan.counted.frames[members].sum()) for members in positions)
        return sum(map(len, positions)), frames


def remaining_work(
    plan: ExtractionPlan,
    before: Mapping[str, StoreStatus],
    *,
    roots: Sequence[str | Location],
    retry: bool,
) -> RemainingWork:
    """What is left to do.

    Args:
        before: see :meth:`ExtractionPlan.statuses`.
        roots: where to look for stores that already hold some of the clips.
        retry: include finished partitions with failed clips.
    """
    missing, reusable = {}, {}
    for name, stream in plan.streams.items():
        if stream.elsewhere:
            continue
        status = before[name]
        missing[name] = stream.placement.holding(plan.requested) - status.finished
        missing[name] |= status.failed if retry else set()
        reusable[name] = reuse.nothing(len(plan.clips))
        if missing[name]:
            others = find(roots, plan.corpus, name, spec=stream.identity.spec)
            stores = [stream.store, *(path for path in others if path != stream.store)]
            reusable[name] = reuse.search(
                [path for path in stores if _exists(path)],
                stream.identity,
                stream.keys,
                stream.placement.rows,
                np.stack([stream.placement.first, stream.placement.frames]),
            )
    return RemainingWork(plan, missing, reusable, retry)
