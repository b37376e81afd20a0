"""What became of every clip of an extraction, as the stores themselves record it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from spamo_cache.extract.estimate import Rate, usual_rate
from spamo_cache.extract.planning import RemainingWork, StoreStatus
from spamo_cache.store.remote import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedClips:
    """Clips of a stream that another store holds."""

    store: Location
    made_by: str
    """Who made that store."""
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream of an extraction."""

    store: Location
    """Where it lies or will lie; its name ends in ``unknown`` in a dry run without the weights."""
    rows: int
    """Rows of the requested splits."""
    per: str
    """What a row stands for: ``frame`` or ``window``."""
    stride: int
    """Frames between two rows."""
    bytes: int | None
    """On disk, padding to whole chunks included; None in a dry run where only the weights would
    tell the width of a row."""
    held: int
    """Clips that the store had before this extraction."""
    elsewhere: bool
    """Whether the store lies in a root other than the one written to."""
    made_by: str
    """Who made the store; empty where there was none before."""
    copied_from: Sequence[CopiedClips]
    """Where clips are copied from instead of being computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What an extraction did, or would do where it is a dry run."""

    clips: int
    """Clips of the requested splits."""
    frames: int
    done: int
    """Clips with features of all streams now, at least one of them computed by this extraction."""
    copied: int
    """Clips with features of all streams now, none of which had to be computed."""
    reused: int
    """Clips with features of all streams that were there before."""
    failed: Sequence[tuple[str, str]]
    """Clips without all features, each with its reason."""
    failed_sources: Mapping[str, str]
    """Of these clips their files or folders, below the corpus's root."""
    streams: Mapping[str, StreamSummary]
    unreadable: int = 0
    """Clips that cannot be read, as far as can be seen without decoding."""
    strays: int = 0
    """Files in folders of frames that are not frames; they are left alone."""
    computed_frames: int = 0
    seconds: float = 0.0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage, summed over workers: ``decode`` and ``prepare`` (of threads),
    ``encode`` (the device computes), ``wait`` (it has nothing to compute yet), ``publish``."""
    compile_seconds: float = 0.0
    """Of ``seconds``, those before the first batch in which networks were compiled."""
    notes: Sequence[str] = ()
    """What a user should know of how the features were computed."""
    device: str = "cpu"
    device_hours: float | None = 0.0
    """Estimate for what has to be computed, from the networks' size and the device's rate; None in
    a dry run where only the weights would tell that size."""
    calibrated: float | None = None
    """Frames per second as measured; None where a usual rate was taken for the estimate."""

    @property
    def rate(self) -> float:
        """Frames computed a second, compiling left out."""
        seconds = self.seconds - self.compile_seconds
        return self.computed_frames / seconds if seconds > 0 else 0.0

    @property
    def busy(self) -> float | None:
        """Share of the time from a device's first batch to its last in which it computed."""
        computed, waited = (self.stage_seconds.get(stage, 0.0) for stage in ("encode", "wait"))
        return computed / (computed + waited) if computed else None

    @property
    def stores(self) -> dict[str, Location]:
        """Stream -> its store."""
        return {name: stream.store for name, stream in self.streams.items()}


@dataclass(frozen=True, slots=True)
class WorkerTotals:
    """What the tasks reported, in sum."""

    frames: int = 0
    copied: Set[str] = frozenset()
    """Clips that took no computing."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    compile_seconds: float = 0.0
    notes: Sequence[str] = ()


def summarise_plan(
    work: RemainingWork, before: Mapping[str, StoreStatus], device: str, rate: Rate
) -> Summary:
    """What an extraction would do."""
    summary = summarise(work, before, before, device, WorkerTotals(), rate=rate)
    plan = work.plan
    none = np.zeros(len(plan.clips), bool)
    affected = np.any([none, *map(work.affected, work.missing)], axis=0) & plan.requested
    computed = np.any([none, *map(work.computed, work.missing)], axis=0) & plan.requested
    copied = np.flatnonzero(affected & ~computed).tolist()
    complete = _complete(before)
    return replace(
        summary,
        done=int(np.count_nonzero(computed & (plan.counted.frames > 0))),
        # What a retried partition keeps of itself was there before.
        copied=sum(plan.clips[position].id not in complete for position in copied),
    )


def summarise(
    work: RemainingWork,
    before: Mapping[str, StoreStatus],
    after: Mapping[str, StoreStatus],
    device: str,
    totals: WorkerTotals,
    *,
    rate: Rate | None = None,
    seconds: float = 0.0,
) -> Summary:
    """Compare what the stores held before an extraction with what they hold after it."""
    plan = work.plan
    complete_before, complete_after = _complete(before), _complete(after)
    probes = [plan.probes[k] for k in np.flatnonzero(plan.requested).tolist()]
    flops: float | None = 0.0
    for name, stream in plan.streams.items():
        rows = float(stream.placement.rows[work.computed(name)].sum())
        unknown = flops is None or (rows and not stream.flops_per_row)
        flops = None if unknown or flops is None else flops + stream.flops_per_row * rows
    rate = rate or usual_rate(device)
    failed, gained = _failed(after), complete_after - complete_before
    sources = {clip.id: clip.source for clip in plan.clips}
    copied = len(gained & totals.copied)
    return Summary(
        clips=len(probes),
        frames=int(plan.counted.frames[plan.requested].sum()),
        done=len(gained) - copied,
        copied=copied,
        reused=len(complete_before & complete_after),
        failed=failed,
        failed_sources={clip: sources[clip] for clip, _ in failed},
        streams={name: _stream_summary(work, name, before[name]) for name in plan.streams},
        unreadable=sum(probe.reason is not None for probe in probes),
        strays=sum(probe.strays for probe in probes),
        computed_frames=totals.frames,
        seconds=seconds,
        stage_seconds=totals.seconds,
        compile_seconds=totals.compile_seconds,
        notes=totals.notes,
        device=device,
        device_hours=None if flops is None else flops / rate.flops / 3600,
        calibrated=rate.frames,
    )


def _stream_summary(work: RemainingWork, name: str, before: StoreStatus) -> StreamSummary:
    stream = work.plan.streams[name]
    rows = stream.placement.rows[work.plan.requested]
    padded = int((-(-rows // stream.chunk_rows) * stream.chunk_rows).sum())
    return StreamSummary(
        store=stream.store if stream.identity.weights_sha256 else _unnamed(stream.store, name),
        rows=int(rows.sum()),
        per=stream.per,
        stride=stream.identity.spec["stride"],
        bytes=padded * stream.row_bytes if stream.width else None,
        held=len(before.states),
        elsewhere=stream.elsewhere,
        made_by=before.made_by,
        copied_from=_copied_from(work, name),
    )


def _unnamed(store: Location, stream: str) -> Location:
    """Where a store will lie whose fingerprint only the weights can tell."""
    return store.parent / f"{stream}-unknown.zarr"


def _copied_from(work: RemainingWork, name: str) -> list[CopiedClips]:
    """Stores that clips are copied from; of retried partitions, not the stream's own."""
    if name not in work.missing:
        return []
    reusable = work.reusable[name]
    taken = reusable.source[work.affected(name) & (reusable.source >= 0)]
    counts = np.bincount(taken, minlength=len(reusable.sources)).tolist()
    return [
        CopiedClips(store=source.store, made_by=source.made_by, clips=count)
        for source, count in zip(reusable.sources, counts, strict=True)
        if count and source.store != work.plan.streams[name].store
    ]


def _complete(statuses: Mapping[str, StoreStatus]) -> set[str]:
    """Clips with features of every stream."""
    sound = [
        {clip for clip, reason in status.states.items() if reason is None}
        for status in statuses.values()
    ]
    return set.intersection(*sound) if sound else set()


def _failed(statuses: Mapping[str, StoreStatus]) -> list[tuple[str, str]]:
    """Each failed clip once, with the reasons of its streams where they differ."""
    failures: dict[str, dict[str, list[str]]] = {}
    for name, status in statuses.items():
        for clip, reason in status.states.items():
            if reason is not None:
                failures.setdefault(clip, {}).setdefault(reason, []).append(name)

    def described(reason: str, names: Sequence[str]) -> str:
        return reason if len(names) == len(statuses) else f"{', '.join(names)}: {reason}"

    return [
        (clip, "; ".join(described(reason, names) for reason, names in reasons.items()))
        for clip, reasons in sorted(failures.items())
    ]
