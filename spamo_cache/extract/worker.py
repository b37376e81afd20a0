"""Compute one partition: copy what is known, decode ahead, encode in batches, publish.

Every clip is decoded once and prepared once per size, whatever the number of streams. A clip
that fails is recorded with its reason and never stops the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import torch
from numpy.typing import NDArray

from spamo_cache.compat import cpu_threads
from spamo_cache.config import StreamSpec
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.registry import Compute
from spamo_cache.errors import WeightsError
from spamo_cache.extract import memory, reuse
from spamo_cache.extract.batches import Batches
from spamo_cache.extract.decoding import decoded, pool
from spamo_cache.extract.job import Advance, Done, Item, Job, Report, Task
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import decord_backend


@dataclass(slots=True)
class Part:
    """What becomes of one stream in one partition."""

    features: dict[str, NDArray[Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def fitted(self, planned: Mapping[str, int]) -> Part:
        """What of it goes where it was planned.

        Args:
            planned: rows of the clips that the partition holds; others have a later place by now.
        """
        odd = {
            clip: f"has {len(rows)} rows now, {planned[clip]} when its place was planned"
            for clip, rows in self.features.items()
            if planned.get(clip, len(rows)) != len(rows)
        }
        kept = planned.keys() - odd
        return Part(
            {clip: rows for clip, rows in self.features.items() if clip in kept},
            {clip: why for clip, why in (self.failures | odd).items() if clip in planned},
            {clip: digest for clip, digest in self.sources.items() if clip in planned},
        )


@dataclass(slots=True)
class Effort:
    """What computing took."""

    frames: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "prepare", "encode", "publish"), 0.0)
    )


def run(job: Job, task: Task, report: Report) -> Done:
    """Compute and publish the streams of a partition that nobody else is computing.

    Raises:
        SpamoError: what stops the whole run: weights that changed, a disk or memory that is full.
    """
    writers: dict[str, StoreWriter] = {}
    busy: list[str] = []
    with ExitStack() as claims, memory.explained(task.partition, job.device):
        for name in task.copies:
            writer = StoreWriter.at(job.streams[name].store)
            if not claims.enter_context(writer.lease(task.partition)):
                busy.append(name)
            elif _open(writer, task):
                writers[name] = writer
        effort, copied = _fill(job, task, writers, report) if writers else (Effort(), set())
        # A lease may be lost on the way, by a long sleep: somebody else is at it, or will be.
        busy += [name for name in writers if not _is_finished(writers[name], task.partition)]
    if not busy and not writers:
        frames = sum(item.probe.frames for item in task.items)
        report(Advance(task.name, len(task.items), frames, {}))
    return Done(task.name, tuple(busy), effort.frames, frozenset(copied), effort.seconds)


def cores() -> int:
    """Cores this process may use; a container or a batch system may give fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=8)
def load(stream: StreamSpec, base: Path, compute: Compute, device: str) -> Encoder:
    """As :func:`registry.build`, once per process, until ``load.cache_clear()``."""
    return registry.build(stream, base, compute, device)


def encoders(job: Job, names: Sequence[str]) -> dict[str, Encoder]:
    """The encoders of these streams, loaded once per process.

    Raises:
        WeightsError: they are not the weights that the run was planned with.
    """
    found: dict[str, Encoder] = {}
    for name in names:
        stream = job.streams[name]
        encoder = load(stream.stream, job.base, job.compute, job.device)
        if encoder.weights_sha256 != stream.weights_sha256:
            raise WeightsError(
                f"stream {name}: other weights than the run was planned with",
                where=stream.stream.weights,
                remedy="give every worker the same weights",
            )
        found[name] = encoder
    return found


def compute(
    job: Job,
    items: Iterable[Item],
    parts: Mapping[str, Part],
    advance: Report,
    task: str = "",
) -> Effort:
    """Decode clips and add to each stream's part what it does not have yet.

    Args:
        items: clips that at least one of the streams needs.
        parts: by stream; clips that have features already are left alone.
        advance: told after every clip how far ``task`` is.
    """
    loaded = encoders(job, list(parts))
    effort, failed, clips, planned = Effort(), dict[str, str](), 0, 0
    began = time.perf_counter()
    threads = job.threads or cores()
    # One thread per batch: as fast in sum, and equal for any number of threads.
    with cpu_threads(1), pool(threads, "encode") as encoding:
        room = BoundedSemaphore(2 * threads + 2)
        arithmetic = registry.resolve_compute(job.compute, job.device)
        batches = {
            name: Batches(
                encoder,
                device=job.device,
                compute=arithmetic,
                dtype=job.dtype,
                pool=encoding,
                room=room,
            )
            for name, encoder in loaded.items()
        }
        specs = {encoder.preprocess.resize_spec for encoder in loaded.values()}
        for item, clip in decoded(job, items, specs):
            effort.seconds["decode"] += clip.decode_seconds
            effort.seconds["prepare"] += clip.prepare_seconds
            needed = [name for name, part in parts.items() if item.id not in part.features]
            for name in needed:
                if clip.reason is None:
                    batch = batches[name]
                    batch.add(item.id, clip.prepared[batch.encoder.preprocess.resize_spec])
                    parts[name].sources[item.id] = clip.source_sha256
                else:
                    failed[item.id] = parts[name].failures[item.id] = clip.reason
            clips, planned = clips + 1, planned + item.probe.frames
            effort.frames += item.probe.frames if clip.reason is None else 0
            advance(Advance(task, clips, planned, failed))
        for name, batch in batches.items():
            features, faults = batch.finish()
            parts[name].features.update(features)
            parts[name].failures.update(faults)
            failed |= {clip: f"{name}: {fault}" for clip, fault in faults.items()}
    advance(Advance(task, clips, planned, failed))
    effort.seconds["encode"] = time.perf_counter() - began
    return effort


def _open(writer: StoreWriter, task: Task) -> bool:
    """Whether there is work on the partition, now that it is leased."""
    receipt = writer.receipts.valid(task.partition)
    if receipt is None:
        return True
    return task.retry and any(item.id in receipt.failures for item in task.items)


def _is_finished(writer: StoreWriter, partition: int) -> bool:
    """Whether there is a receipt, or no clip any more that one could speak of."""
    return writer.receipts.valid(partition) is not None or not writer.rows(partition)


def _fill(
    job: Job, task: Task, writers: Mapping[str, StoreWriter], report: Report
) -> tuple[Effort, set[str]]:
    """Copy, compute and publish; returns also the clips that took no computing."""
    parts: dict[str, Part] = {}
    origins: dict[str, dict[str, int]] = {}
    for name in writers:
        copies = reuse.read(task.copies[name])
        parts[name] = Part(copies.features, {}, copies.sources)
        origins[name] = copies.origins
    known = set.intersection(*(set(part.features) for part in parts.values()))
    skipped = sum(item.probe.frames for item in task.items if item.id in known)

    def advance(step: Advance) -> None:
        report(Advance(step.task, len(known) + step.clips, skipped + step.frames, step.failed))

    items = [item for item in task.items if item.id not in known]
    effort = compute(job, items, parts, advance, task.name) if items else Effort()
    began = time.perf_counter()
    for name, writer in writers.items():
        part = parts[name].fitted(writer.rows(task.partition))
        if not (part.features or part.failures):
            continue  # another run has given all of these clips a later place
        provenance = _provenance(job, effort) | {"copied": origins[name]}
        writer.publish(
            task.partition,
            part.features,
            part.failures,
            provenance,
            part.sources,
            replace=task.retry,
        )
    effort.seconds["publish"] = time.perf_counter() - began
    if not items:
        advance(Advance(task.name, 0, 0, {}))
    return effort, known


def _provenance(job: Job, effort: Effort) -> dict[str, Any]:
    device = torch.device(job.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "compute": registry.resolve_compute(job.compute, job.device),
        "torch": torch.__version__,
        "reader": "decord" if job.reader == "decord" and decord_backend.is_installed() else "pyav",
        "frames": effort.frames,
        "seconds": {part: round(value, 3) for part, value in effort.seconds.items()},
    }
