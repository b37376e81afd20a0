"""What became of every clip of a run, told from the stores themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from spamo_cache.extract import worker
from spamo_cache.extract.work import Holdings, Work
from spamo_cache.store.remote import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Donation:
    """Clips of a stream that another store holds."""

    store: Location
    by: str
    """Who made that store."""
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream of a run."""

    store: Location
    rows: int
    """Rows of the splits asked for."""
    per: str
    """What a row stands for: ``frame`` or ``window``."""
    stride: int
    """Frames between two rows."""
    bytes: int
    """On disk, padding to whole chunks included."""
    held: int
    """Clips that the store had before this run."""
    foreign: bool
    """Whether the store lies in a root other than the one written to."""
    by: str
    """Who made the store; empty where there was none before."""
    donors: Sequence[Donation]
    """Where clips are copied from instead of being computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did, or with ``dry_run`` would do."""

    clips: int
    """Clips of the splits asked for."""
    frames: int
    done: int
    """Clips with features of all streams now, computed by this run, at least one of them."""
    copied: int
    """Clips with features of all streams now, of which none had to be computed."""
    reused: int
    """Clips with features of all streams that were there before."""
    failed: Sequence[tuple[str, str]]
    """Clips without all features, each with its reason."""
    streams: Mapping[str, StreamSummary]
    unreadable: int = 0
    """Clips that cannot be read, as far as can be told without decoding."""
    strays: int = 0
    """Files in folders of frames that are no frames and were left alone."""
    computed_frames: int = 0
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent decoding, preparing, encoding and publishing, summed over workers."""
    device: str = "cpu"
    device_hours: float = 0.0
    """Estimate for what has to be computed, from the networks' size and the device's rate."""
    calibrated: float | None = None
    """Frames per second as measured; None where a usual rate was taken for the estimate."""

    @property
    def stores(self) -> dict[str, Location]:
        """Stream -> its store."""
        return {name: stream.store for name, stream in self.streams.items()}


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast this device computes."""

    flops: float
    """Operations of the networks per second, everything around them included."""
    frames: float | None = None
    """Frames per second of all streams together; None where nothing was measured."""


def usual_rate(device: str) -> Rate:
    """What to expect of a device that was not measured: a data-centre GPU in half precision, or
    CPU cores in float32."""
    return Rate(4e14 if torch.device(device).type == "cuda" else 6e10 * worker.cores())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the workers reported, in sum."""

    frames: int = 0
    copied: Set[str] = frozenset()
    """Clips that took no computing."""
    seconds: Mapping[str, float] = field(default_factory=dict)


def planned(work: Work, before: Mapping[str, Holdings], device: str, rate: Rate) -> Summary:
    """What a run would do."""
    told = summarise(work, before, before, device, Outcome(), rate=rate)
    none = np.zeros(len(work.found.clips), bool)
    touched = np.any([none, *map(work.touched, work.missing)], axis=0) & work.found.asked
    computed = np.any([none, *map(work.computed, work.missing)], axis=0) & work.found.asked
    copied = np.flatnonzero(touched & ~computed).tolist()
    whole = _whole(before)
    return replace(
        told,
        done=int(np.count_nonzero(computed & (work.found.counted.frames > 0))),
        # What a partition tried again keeps of itself was there before.
        copied=sum(work.found.clips[position].id not in whole for position in copied),
    )


def summarise(
    work: Work,
    before: Mapping[str, Holdings],
    after: Mapping[str, Holdings],
    device: str,
    outcome: Outcome,
    *,
    rate: Rate | None = None,
    seconds: float = 0.0,
) -> Summary:
    """Compare what the stores held before a run with what they hold after it."""
    found = work.found
    whole_before, whole_after = _whole(before), _whole(after)
    streams = {name: _stream_summary(work, name, before[name]) for name in found.streams}
    probes = [found.probes[k] for k in np.flatnonzero(found.asked).tolist()]
    missing = 0.0
    for name, stream in found.streams.items():
        rows = stream.places.rows[work.computed(name)]
        missing += stream.flops_per_row * float(rows.sum())
    rate = rate or usual_rate(device)
    gained = whole_after - whole_before
    copied = len(gained & outcome.copied)
    return Summary(
        clips=len(probes),
        frames=int(found.counted.frames[found.asked].sum()),
        done=len(gained) - copied,
        copied=copied,
        reused=len(whole_before & whole_after),
        failed=_failed(after),
        streams=streams,
        unreadable=sum(probe.reason is not None for probe in probes),
        strays=sum(probe.strays for probe in probes),
        computed_frames=outcome.frames,
        seconds=seconds,
        shares=outcome.seconds,
        device=device,
        device_hours=missing / rate.flops / 3600,
        calibrated=rate.frames,
    )


def _stream_summary(work: Work, name: str, before: Holdings) -> StreamSummary:
    stream = work.found.streams[name]
    rows = stream.places.rows[work.found.asked]
    return StreamSummary(
        store=stream.store,
        rows=int(rows.sum()),
        per=stream.per,
        stride=stream.identity.spec["stride"],
        bytes=int((-(-rows // stream.chunk_rows) * stream.chunk_rows).sum()) * stream.row_bytes,
        held=len(before.states),
        foreign=stream.foreign,
        by=before.by,
        donors=_donations(work, name),
    )


def _donations(work: Work, name: str) -> list[Donation]:
    """Other stores that clips are copied from; when clips are tried again, not the own one."""
    if name not in work.missing:
        return []
    reusable = work.reusable[name]
    taken = reusable.donor[work.touched(name) & (reusable.donor >= 0)]
    counts = np.bincount(taken, minlength=len(reusable.donors)).tolist()
    return [
        Donation(store=donor.store, by=donor.by, clips=count)
        for donor, count in zip(reusable.donors, counts, strict=True)
        if count and donor.store != work.found.streams[name].store
    ]


def _whole(holdings: Mapping[str, Holdings]) -> set[str]:
    """Clips with features of every stream."""
    sound = [
        {clip for clip, reason in of_stream.states.items() if reason is None}
        for of_stream in holdings.values()
    ]
    return set.intersection(*sound) if sound else set()


def _failed(holdings: Mapping[str, Holdings]) -> list[tuple[str, str]]:
    """Each failed clip once, with the reasons of its streams where they differ."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for name, of_stream in holdings.items():
        for clip, reason in of_stream.states.items():
            if reason is not None:
                reasons.setdefault(clip, {}).setdefault(reason, []).append(name)
    return [
        (clip, "; ".join(_told(reason, names, len(holdings)) for reason, names in found.items()))
        for clip, found in sorted(reasons.items())
    ]


def _told(reason: str, names: Sequence[str], streams: int) -> str:
    return reason if len(names) == streams else f"{', '.join(names)}: {reason}"
