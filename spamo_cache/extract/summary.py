"""What became of every clip of a run, told from the stores themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spamo_cache.encoders import registry
from spamo_cache.extract import worker
from spamo_cache.extract.survey import Survey
from spamo_cache.store.layout import aligned
from spamo_cache.store.reader import FeatureStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream of a run."""

    store: Path
    rows: int
    """Rows of the splits asked for."""
    bytes: int
    """On disk, padding to whole chunks included."""
    held: int
    """Clips that the store had before this run."""
    foreign: bool
    """Whether the store lies in a root other than the one written to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did, or with ``dry_run`` would do."""

    clips: int
    """Clips of the splits asked for."""
    frames: int
    done: int
    """Clips with features of all streams, computed by this run."""
    reused: int
    """Clips with features of all streams that were there before."""
    failed: Sequence[tuple[str, str]]
    """Clips without all features, each with its reason."""
    streams: Mapping[str, StreamSummary]
    computed_frames: int = 0
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent decoding, preparing, encoding and publishing, summed over workers."""
    device: str = "cpu"
    device_hours: float = 0.0
    """Estimate for what is missing, from the networks' size and a usual rate of the device."""

    @property
    def stores(self) -> dict[str, Path]:
        """Stream -> its store."""
        return {name: stream.store for name, stream in self.streams.items()}


States = Mapping[str, Mapping[str, str | None]]
"""Stream -> clip -> why it failed, None where it has features; absent clips are left out."""


def held(found: Survey) -> States:
    """What the stores of a run hold now, of the splits asked for."""
    return {
        name: _states(stream.store, found.splits) if stream.store.exists() else {}
        for name, stream in found.streams.items()
    }


def _states(path: Path, splits: frozenset[str]) -> dict[str, str | None]:
    store = FeatureStore.open(path)
    states: dict[str, str | None] = {}
    for split in splits:
        states |= dict.fromkeys(store.select(split=split, state="ok"))
        states |= {id_: store.reason(id_) for id_ in store.select(split=split, state="failed")}
    return states


def summarise(
    found: Survey,
    before: States,
    after: States,
    device: str,
    *,
    computed_frames: int = 0,
    shares: Mapping[str, float] | None = None,
    seconds: float = 0.0,
) -> Summary:
    """Compare what the stores held before a run with what they hold after it."""
    positions = [k for number in found.wanted() for k in found.plan.partitions[number]]
    whole_before, whole_after = _whole(before), _whole(after)
    streams = {
        name: _stream_summary(found, name, positions, len(before[name])) for name in found.streams
    }
    missing = sum(
        stream.encoder.flops_per_row * streams[name].rows * (1 - len(after[name]) / len(positions))
        for name, stream in found.streams.items()
    )
    return Summary(
        clips=len(positions),
        frames=sum(found.probes[k].frames for k in positions),
        done=len(whole_after - whole_before),
        reused=len(whole_before & whole_after),
        failed=_failed(after),
        streams=streams,
        computed_frames=computed_frames,
        seconds=seconds,
        shares=shares or {},
        device=device,
        device_hours=missing / registry.usual_flops(device, worker.cores()) / 3600,
    )


def _stream_summary(found: Survey, name: str, positions: Sequence[int], held: int) -> StreamSummary:
    stream, slots = found.streams[name], found.plan.slots[name]
    rows = [slots[k].rows for k in positions]
    padded = sum(aligned(count, stream.chunk_rows) for count in rows)
    return StreamSummary(
        store=stream.store,
        rows=sum(rows),
        bytes=padded * stream.row_bytes,
        held=held,
        foreign=stream.foreign,
    )


def _whole(states: States) -> set[str]:
    """Clips with features of every stream."""
    sound = [
        {clip for clip, reason in of_stream.items() if reason is None}
        for of_stream in states.values()
    ]
    return set.intersection(*sound) if sound else set()


def _failed(states: States) -> list[tuple[str, str]]:
    """Each failed clip once, with the reasons of its streams where they differ."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for name, of_stream in states.items():
        for clip, reason in of_stream.items():
            if reason is not None:
                reasons.setdefault(clip, {}).setdefault(reason, []).append(name)
    return [
        (clip, "; ".join(_told(reason, names, len(states)) for reason, names in found.items()))
        for clip, found in sorted(reasons.items())
    ]


def _told(reason: str, names: Sequence[str], streams: int) -> str:
    return reason if len(names) == streams else f"{', '.join(names)}: {reason}"
