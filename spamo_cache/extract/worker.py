"""Compute one partition: copy what is known, decode ahead, encode in batches, publish.

Every clip is decoded once and prepared once per size, whatever the number of streams. A clip
that fails is recorded with its reason and never stops the others.

What travels between an extraction and its workers is defined here, and is the same for all
executors.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache import devices
from spamo_cache.config import PoseStream, StreamSpec
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.registry import Compute
from spamo_cache.errors import SpamoError, WeightsError, shortage
from spamo_cache.extract import reuse
from spamo_cache.extract.batches import Batches
from spamo_cache.extract.decoding import ClipTask, DecodeConfig, Sight
from spamo_cache.extract.engine import Engine, shared
from spamo_cache.extract.regions import View
from spamo_cache.extract.reuse import Copy
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import decord_backend

_STAGES = ("decode", "prepare", "encode", "wait", "publish")
RERUN = "then rerun the same command: what is finished is kept"

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """One stream and the store it goes to."""

    stream: StreamSpec
    store: Path
    weights_sha256: str
    """What the weights must be on every worker."""
    compile: Compile = "off"
    """Whether the network is compiled; ``auto``: if it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What all tasks of an extraction have in common."""

    decoding: DecodeConfig
    spec_base: Path
    """Folder of the spec's file."""
    streams: Mapping[str, StreamTarget]
    compute: Compute
    device: str
    dtype: str
    """Of the store."""
    threads: int
    """Threads that encode; 0 is one per core of the worker's machine."""


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """One partition to compute."""

    name: str
    """Unique within an extraction."""
    partition: int
    clips: tuple[ClipTask, ...]
    copies: Mapping[str, tuple[Copy, ...]]
    """Streams to compute -> what of the partition can be copied; often nothing."""
    retry: bool = False
    """Whether a finished partition with failures is to be replaced."""


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """What became of a task."""

    task: str
    """Its name."""
    busy: tuple[str, ...] = ()
    """Streams that another process is computing; the others are finished now."""
    frames: int = 0
    """Decoded."""
    copied: frozenset[str] = frozenset()
    """Clips with features that took no computing."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of each stage, see :class:`StageTimings`."""
    compile_seconds: float = 0.0
    """Before the first batch, if this was the worker's first task."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was computed."""


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task is; a later one replaces it, also after a worker has died."""

    task: str
    """Its name."""
    clips: int
    frames: int
    failed: Mapping[str, str]
    """Clip -> why it has no features, of all clips failed in the partition so far."""


Report = Callable[[TaskProgress], None]


@dataclass(slots=True)
class StreamResult:
    """Features, failures and sources of one stream in one partition."""

    features: dict[str, NDArray[Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    """How the device computed them, beyond what the spec says."""
    valid: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Of streams with validity: which rows are valid."""

    def fitted(self, planned: Mapping[str, int]) -> StreamResult:
        """What of it still fits the partition.

        Args:
            planned: clips of the partition -> their rows; other clips have moved since.
        """
        changed = {
            clip: f"has {len(rows)} rows now, {planned[clip]} when its place was planned"
            for clip, rows in self.features.items()
            if planned.get(clip, len(rows)) != len(rows)
        }
        kept = planned.keys() - changed
        return StreamResult(
            {clip: rows for clip, rows in self.features.items() if clip in kept},
            {clip: why for clip, why in (self.failures | changed).items() if clip in planned},
            {clip: digest for clip, digest in self.sources.items() if clip in planned},
            self.arithmetic,
            {clip: valid for clip, valid in self.valid.items() if clip in kept},
        )


@dataclass(slots=True)
class StageTimings:
    """Frames that were decoded, and the seconds each stage took.

    Decoding and preparing are sums over threads. ``encode`` is the time in which the device
    computed anything, ``wait`` the time between batches in which it did not.
    """

    frames: int = 0
    compile_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))


def run_task(config: WorkerConfig, task: PartitionTask, report: Report) -> PartitionResult:
    """Compute and publish the streams of a partition that nobody else is computing.

    Raises:
        SpamoError: what stops the whole extraction: changed weights, a full disk or memory.
    """
    writers: dict[str, StoreWriter] = {}
    busy: list[str] = []
    with (
        ExitStack() as leases,
        shortages_explained(task.partition, config.device),
        shared(config.device, config.decoding, threads_of(config)) as engine,
        engine.turn() as end_turn,
    ):
        names = sorted(task.copies)
        for number, name in enumerate(names):
            writer = StoreWriter.at(config.streams[name].store)
            if not leases.enter_context(writer.lease(task.partition)):
                # Whoever holds it takes the others next; with one of them taken from under its
                # hands, both would decode every clip.
                busy = names[number:]
                break
            if _is_open(writer, task):
                writers[name] = writer
        timings, copied = (
            _fill(config, task, writers, report, end_turn) if writers else (StageTimings(), ())
        )
        # A lease may be lost on the way, by a long sleep: somebody else is at it, or will be.
        busy += [name for name in writers if not _is_finished(writers[name], task.partition)]
        notes = engine.device.take_notes()
    if not busy and not writers:
        frames = sum(clip.probe.frames for clip in task.clips)
        report(TaskProgress(task.name, len(task.clips), frames, {}))
    return PartitionResult(
        task.name,
        tuple(busy),
        timings.frames,
        frozenset(copied),
        timings.seconds,
        timings.compile_seconds,
        notes,
    )


@lru_cache(maxsize=8)
def load_encoder(stream: StreamSpec, base: Path, compute: Compute, device: str) -> Encoder:
    """As :func:`registry.build`, once per process, until ``load_encoder.cache_clear()``."""
    return registry.build(stream, base, compute, device)


def load_encoders(config: WorkerConfig, names: Sequence[str]) -> dict[str, Encoder]:
    """The encoders of these streams, loaded once per process.

    Raises:
        WeightsError: they are not the weights that the extraction was planned with.
    """
    encoders: dict[str, Encoder] = {}
    for name in names:
        target = config.streams[name]
        encoder = load_encoder(target.stream, config.spec_base, config.compute, config.device)
        if encoder.weights_sha256 != target.weights_sha256:
            raise WeightsError(
                f"stream {name}: other weights than the extraction was planned with",
                where=target.stream.weights,
                remedy="give every worker the same weights",
            )
        encoders[name] = encoder
    return encoders


def compute(
    config: WorkerConfig,
    clips: Iterable[ClipTask],
    results: Mapping[str, StreamResult],
    report: Report,
    begun: Callable[[], None] = lambda: None,
) -> StageTimings:
    """Decode clips and add to each stream's result what it does not have yet.

    Args:
        clips: those that at least one of the streams needs.
        results: by stream; clips that already have features are left alone.
        report: called after every clip with the progress, of a task without a name.
        begun: called when the last clip's decoding has begun.
    """
    with shared(config.device, config.decoding, threads_of(config)) as engine:
        encoders = load_encoders(config, list(results))
        timings, failed, done, planned = StageTimings(), dict[str, str](), 0, 0
        sights = {name: _sight(config.streams[name].stream, encoders[name]) for name in results}
        networks = {name: encoders[name] for name in results if isinstance(sights[name], View)}
        timings.compile_seconds = sum(
            compiled(engine, encoder, config.streams[name]) for name, encoder in networks.items()
        )
        batches = {
            name: Batches(
                encoder,
                device=engine.device,
                compute=registry.resolve_compute(config.compute, config.device),
                dtype=config.dtype,
                pool=engine.threads,
                slots=engine.slots,
            )
            for name, encoder in networks.items()
        }
        for clip, decoded in engine.decoders.ahead(clips, set(sights.values()), begun):
            engine.check()
            timings.seconds["decode"] += decoded.decode_seconds
            timings.seconds["prepare"] += decoded.prepare_seconds
            lacking = [name for name in results if clip.id not in results[name].features]
            for name in lacking:
                sight, result = sights[name], results[name]
                if sight in decoded.reasons:
                    result.failures[clip.id] = decoded.reasons[sight]
                    continue
                if sight in decoded.valid:
                    result.valid[clip.id] = decoded.valid[sight]
                if isinstance(sight, View):
                    shown = decoded.prepared[sight]
                    batches[name].add(clip.id, shown, sight.starts(encoders[name], len(shown)))
                    result.sources[clip.id] = decoded.source_sha256
                else:
                    result.features[clip.id] = decoded.rows[sight].astype(config.dtype)
            failed |= _failed(clip.id, lacking, results)
            done, planned = done + 1, planned + clip.probe.frames
            timings.frames += clip.probe.frames if decoded.source_sha256 else 0
            report(TaskProgress("", done, planned, failed))
        for name, batch in batches.items():
            features, faults = batch.finish()
            results[name].features.update(features)
            results[name].failures.update(faults)
            for faulty in faults:
                results[name].valid.pop(faulty, None)
            results[name].arithmetic = {
                "compiled": batch.encoder.compiled,
                "batch_tokens": engine.device.batch_tokens,
            }
            failed |= {clip: f"{name}: {fault}" for clip, fault in faults.items()}
        timings.seconds["encode"], timings.seconds["wait"] = engine.device.take_time()
    report(TaskProgress("", done, planned, failed))
    return timings


def _sight(stream: StreamSpec, encoder: Encoder) -> Sight:
    """What of a clip a stream is computed from."""
    return stream if isinstance(stream, PoseStream) else View.of(stream, encoder)


def _failed(
    clip: str, streams: Sequence[str], results: Mapping[str, StreamResult]
) -> dict[str, str]:
    """Why a clip has failed in all of these streams, or in which."""
    reasons = {n: results[n].failures[clip] for n in streams if clip in results[n].failures}
    if not reasons:
        return {}
    (first, *others) = dict.fromkeys(reasons.values())
    if not others and len(reasons) == len(streams):
        return {clip: first}
    return {clip: "; ".join(f"{name}: {reason}" for name, reason in reasons.items())}


def compiled(engine: Engine, encoder: Encoder, target: StreamTarget) -> float:
    """Compile an encoder if that is wanted and not done yet; returns the seconds it took."""
    if target.compile == "off":
        encoder.interpret_forward()
    if target.compile == "off" or encoder.compiled or not encoder.compilable:
        return 0.0
    must = target.compile == "on"
    # By a thread that encodes: a program is for threads with the same settings.
    return engine.threads.submit(engine.device.compile, encoder, must=must).result()


def threads_of(config: WorkerConfig) -> int:
    """Threads that encode on this machine."""
    return config.threads or devices.cpu_cores()


@contextmanager
def shortages_explained(partition: int | None = None, device: str = "cpu") -> Iterator[None]:
    """Turn running out of memory or threads into an error that says where, and what to do.

    Raises:
        SpamoError: in place of whatever was raised.
    """
    try:
        yield
    except SpamoError:
        raise
    except Exception as error:
        lacking = shortage(error)
        if lacking is None:
            raise
        on = f"on {platform.node()}"
        where = on if partition is None else f"partition {partition}, {on}"
        if isinstance(error, torch.OutOfMemoryError):
            raise SpamoError(
                f"the memory of {device} is full",
                where=where,
                remedy="end what else runs on that GPU (see nvidia-smi), or choose another one by "
                f"--device cuda:N; {RERUN}",
            ) from error
        raise SpamoError(
            lacking,
            where=where,
            remedy="use fewer --workers or smaller store.shard_rows.frame, a machine with more "
            f"memory, or higher limits (ulimit -a); {RERUN}",
        ) from error


def _is_open(writer: StoreWriter, task: PartitionTask) -> bool:
    """Whether there is work on the partition, now that it is leased."""
    receipt = writer.receipts.valid(task.partition)
    if receipt is None:
        return True
    return task.retry and any(clip.id in receipt.failures for clip in task.clips)


def _is_finished(writer: StoreWriter, partition: int) -> bool:
    """Whether there is a receipt, or no clip any more that one could speak of."""
    return writer.receipts.valid(partition) is not None or not writer.rows(partition)


def _fill(
    config: WorkerConfig,
    task: PartitionTask,
    writers: Mapping[str, StoreWriter],
    report: Report,
    begun: Callable[[], None],
) -> tuple[StageTimings, set[str]]:
    """Copy, compute and publish; returns also the clips that took no computing."""
    results: dict[str, StreamResult] = {}
    origins: dict[str, dict[str, int]] = {}
    for name in writers:
        copies = reuse.read(task.copies[name])
        results[name] = StreamResult(copies.features, sources=copies.sources, valid=copies.valid)
        origins[name] = copies.origins
    known = set.intersection(*(set(result.features) for result in results.values()))
    skipped = sum(clip.probe.frames for clip in task.clips if clip.id in known)

    def advance(step: TaskProgress) -> None:
        clips, frames = len(known) + step.clips, skipped + step.frames
        report(TaskProgress(task.name, clips, frames, step.failed))

    clips = [clip for clip in task.clips if clip.id not in known]
    timings = StageTimings()
    if clips:
        timings = compute(config, clips, results, advance, begun)
    begun()
    began = time.perf_counter()
    for name, writer in writers.items():
        result = results[name].fitted(writer.rows(task.partition))
        if not (result.features or result.failures):
            continue  # another extraction has given all of these clips a later place
        writer.publish(
            task.partition,
            result.features,
            result.failures,
            {**_provenance(config, timings), **result.arithmetic, "copied": origins[name]},
            result.sources,
            valid=result.valid,
            replace=task.retry,
        )
    timings.seconds["publish"] = time.perf_counter() - began
    if not clips:
        advance(TaskProgress("", 0, 0, {}))
    return timings, known


def _provenance(config: WorkerConfig, timings: StageTimings) -> dict[str, Any]:
    device = torch.device(config.device)
    by_decord = config.decoding.reader == "decord" and decord_backend.is_installed()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "compute": registry.resolve_compute(config.compute, config.device),
        "torch": torch.__version__,
        "reader": "decord" if by_decord else "pyav",
        "frames": timings.frames,
        "seconds": {stage: round(value, 3) for stage, value in timings.seconds.items()},
    }
