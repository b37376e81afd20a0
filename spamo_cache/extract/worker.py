"""Compute one partition: decode ahead in threads, encode in batches, publish.

Every clip is decoded once and prepared once per geometry, whatever the number of streams. A clip
that fails is recorded with its reason and never stops the others.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.compat import cpu_threads
from spamo_cache.config import StreamSpec
from spamo_cache.encoders import registry
from spamo_cache.encoders.preprocess import Geometry, prepare
from spamo_cache.encoders.registry import Compute, Encoder
from spamo_cache.errors import SpamoError, VideoError, WeightsError
from spamo_cache.extract.batches import Batches
from spamo_cache.extract.job import Advance, Done, Item, Job, Report, Task
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import read


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip ready for all encoders, or the reason why it is not."""

    prepared: Mapping[Geometry, torch.Tensor]
    source_sha256: str = ""
    reason: str | None = None
    decode_seconds: float = 0.0
    prepare_seconds: float = 0.0


def run(job: Job, task: Task, report: Report) -> Done:
    """Compute and publish the streams of a partition that nobody else is computing.

    Raises:
        SpamoError: what stops the whole run: weights that changed, a disk that refuses.
    """
    with ExitStack() as claims:
        writers: dict[str, StoreWriter] = {}
        busy: list[str] = []
        for name in task.streams:
            writer = StoreWriter.at(job.streams[name].store)
            if not claims.enter_context(writer.claim(task.partition)):
                busy.append(name)
            elif writer.receipts.valid(task.partition) is None:
                writers[name] = writer
        frames, seconds = _compute(job, task, writers, report) if writers else (0, {})
    done = tuple(name for name in task.streams if name not in busy)
    return Done(task.partition, done, tuple(busy), frames, seconds)


def cores() -> int:
    """Cores this process may use; a container or a batch system may give fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def encoders(job: Job, names: Sequence[str]) -> dict[str, Encoder]:
    """The encoders of these streams, loaded once per process.

    Raises:
        WeightsError: they are not the weights that the run was planned with.
    """
    found: dict[str, Encoder] = {}
    for name in names:
        stream = job.streams[name]
        encoder = _encoder(stream.stream, job.base, job.compute, job.device)
        if encoder.weights_sha256 != stream.weights_sha256:
            raise WeightsError(
                f"stream {name}: other weights than the run was planned with",
                where=stream.stream.weights,
                remedy="give every worker the same weights",
            )
        found[name] = encoder
    return found


def _compute(
    job: Job, task: Task, writers: Mapping[str, StoreWriter], report: Report
) -> tuple[int, dict[str, float]]:
    loaded = encoders(job, list(writers))
    clock = dict.fromkeys(("decode", "prepare", "encode", "publish"), 0.0)
    failures: dict[str, str] = {}
    sources: dict[str, str] = {}
    began = time.perf_counter()
    frames = 0
    threads = job.threads or cores()
    # One thread per batch: as fast in sum, and equal for any number of threads.
    with cpu_threads(1), _pool(threads, "encode") as pool:
        room = BoundedSemaphore(2 * threads + 2)
        batches = {
            name: Batches(encoder, device=job.device, dtype=job.dtype, pool=pool, room=room)
            for name, encoder in loaded.items()
        }
        geometries = {encoder.preprocess.geometry for encoder in loaded.values()}
        for item, decoded in _decoded(job, task.items, geometries):
            clock["decode"] += decoded.decode_seconds
            clock["prepare"] += decoded.prepare_seconds
            if decoded.reason is not None:
                failures[item.id] = decoded.reason
            else:
                sources[item.id] = decoded.source_sha256
                frames += item.probe.frames
                for batch in batches.values():
                    prepared = decoded.prepared[batch.encoder.preprocess.geometry]
                    batch.add(item.id, prepared)
            report(Advance(1, item.probe.frames, decoded.reason is not None))
        features = {name: batch.finish() for name, batch in batches.items()}
    clock["encode"] = time.perf_counter() - began
    for name, writer in writers.items():
        kept, bad = _finite(features[name])
        provenance = _provenance(job, clock, frames)
        writer.publish(task.partition, kept, failures | bad, provenance, sources)
    clock["publish"] = time.perf_counter() - began - clock["encode"]
    return frames, clock


def _decoded(
    job: Job, items: Sequence[Item], geometries: set[Geometry]
) -> Iterator[tuple[Item, Decoded]]:
    """Clips in their order, decoded ahead by threads while the bytes that wait stay in bounds."""
    pixels = sum(3 * geometry.size**2 for geometry in geometries)
    waiting: deque[tuple[Item, int, Future[Decoded]]] = deque()
    ahead = 0
    remaining = deque(items)
    with _pool(job.decoders, "decode") as pool:
        while remaining or waiting:
            while remaining and (not waiting or ahead < job.ahead_bytes):
                item = remaining.popleft()
                size = item.probe.frames * pixels
                ahead += size
                waiting.append((item, size, pool.submit(_decode, job, item, geometries)))
            item, size, future = waiting.popleft()
            yield item, future.result()
            ahead -= size


def _decode(job: Job, item: Item, geometries: set[Geometry]) -> Decoded:
    if item.probe.reason is not None:
        return Decoded({}, reason=item.probe.reason)
    began = time.perf_counter()
    try:
        frames, digest = read(job.root, item, item.probe)
        if len(frames) != item.probe.frames:
            raise VideoError(f"lists {item.probe.frames} frames, gives {len(frames)}")
        decoded = time.perf_counter()
        prepared = {geometry: prepare(frames, geometry, job.resize) for geometry in geometries}
    except VideoError as error:
        return Decoded({}, reason=error.what)
    except (MemoryError, SpamoError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a decoder throws is this clip's failure
        return Decoded({}, reason=f"{type(error).__name__}: {error}")
    return Decoded(
        prepared,
        digest,
        decode_seconds=decoded - began,
        prepare_seconds=time.perf_counter() - decoded,
    )


def _finite(
    features: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Split clips into sound ones and those with values the store must not hold."""
    kept, bad = {}, {}
    for clip, rows in features.items():
        if np.isfinite(rows).all():
            kept[clip] = rows
        else:
            wrong = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
            bad[clip] = f"{wrong} of {len(rows)} rows are not finite in {rows.dtype}"
    return kept, bad


def _provenance(job: Job, clock: Mapping[str, float], frames: int) -> dict[str, Any]:
    device = torch.device(job.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "compute": registry.resolve_compute(job.compute, job.device),
        "torch": torch.__version__,
        "frames": frames,
        "seconds": {part: round(value, 3) for part, value in clock.items()},
    }


@lru_cache(maxsize=8)
def _encoder(stream: StreamSpec, base: Path, compute: Compute, device: str) -> Encoder:
    return registry.build(stream, base, compute, device)


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that are stopped, with what they have not begun, when the block is left."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
