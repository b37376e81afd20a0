"""Stage 1 from a manifest to sealed stores: plan, reuse, compute, seal, say what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from spamo_cache.config import CacheSpec
from spamo_cache.encoders import registry
from spamo_cache.errors import UsageError
from spamo_cache.extract import worker
from spamo_cache.extract.executors import dask, serial
from spamo_cache.extract.job import Done, Item, Job, Report, StreamJob, Task
from spamo_cache.extract.progress import Progress, Tracker
from spamo_cache.extract.summary import Summary, held, summarise
from spamo_cache.extract.survey import ManifestLike, Survey, survey
from spamo_cache.store.writer import StoreWriter

Executor = Literal["dask", "serial"]

_BUSY_SECONDS = 1.0
"""Pause before looking again at partitions that another run is computing."""


def extract(
    manifest: ManifestLike,
    root: Path,
    spec: CacheSpec,
    spec_base: Path,
    *,
    store_root: Path,
    streams: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    executor: Executor = "dask",
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
    retry_failed: bool = False,
    terms: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Compute the features that no root holds yet.

    Args:
        manifest: all clips of the corpus; ``splits`` chooses among them without changing the store.
        root: corpus root, below which the clips' sources lie.
        spec: how streams are computed.
        spec_base: folder of the spec's file, where relative weights stand.
        store_root: root that new stores are written to.
        streams: names of streams of the spec; None is all.
        splits: names of splits; None is all.
        executor: ``serial`` computes in this process.
        workers: processes of a local cluster; None is one per GPU, or one with all cores.
        scheduler: address of a running Dask scheduler instead.
        slurm: YAML of a Slurm cluster instead, see :func:`executors.dask.slurm_options`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dry_run: decide everything, write nothing.
        retry_failed: compute partitions with failed clips again.
        terms: terms of use of the corpus, kept with the stores.
        progress: called with the state so far, a few times a second at most per worker.

    Returns:
        What became of every clip. Failed clips are listed, not raised.

    Raises:
        UsageError: a stream, split, device or scheduler that does not exist.
        ConfigError: a spec that cannot be carried out.
        WeightsError: weights that cannot be used.
        StoreError: a store that cannot be written.
        KeyboardInterrupt: passed on, after what is finished has been sealed.
    """
    began = time.perf_counter()
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not a positive number")
    device = registry.resolve_device(device)
    tracker = Tracker(progress, len(manifest))
    found = survey(
        manifest,
        root,
        spec,
        spec_base,
        store_root=store_root,
        streams=streams,
        splits=splits,
        device=device,
        progress=tracker.probed,
    )
    before = held(found)
    if dry_run:
        return summarise(found, before, before, device, seconds=time.perf_counter() - began)
    writers = _writers(found, manifest.corpus, store_root, spec, terms)
    if retry_failed:
        _forget_failed(found, writers)
    job = _job(
        found,
        spec,
        root=root,
        base=spec_base,
        device=device,
        workers=workers,
        remote=bool(scheduler or slurm),
    )
    cluster = dask.Cluster(workers=workers or _workers(device), scheduler=scheduler, slurm=slurm)

    def run(tasks: Sequence[Task], report: Report) -> Iterator[Done]:
        if executor == "serial":
            return serial.run(job, tasks, report)
        return dask.run(job, tasks, report, cluster)

    with _sealed(writers):
        frames, shares = _work(found, writers, run, tracker)
    return summarise(
        found,
        before,
        held(found),
        device,
        computed_frames=frames,
        shares=shares,
        seconds=time.perf_counter() - began,
    )


# --- work ---------------------------------------------------------------------------------------


def _work(
    found: Survey,
    writers: Mapping[str, StoreWriter],
    run: Callable[[Sequence[Task], Report], Iterator[Done]],
    tracker: Tracker,
) -> tuple[int, dict[str, float]]:
    """Run until every partition asked for is finished, by this run or by another."""
    frames, shares = 0, dict.fromkeys(("decode", "prepare", "encode", "publish"), 0.0)
    tasks = _tasks(found, writers)
    tracker.begin(tasks)
    while tasks:
        busy = False
        for done in run(tasks, tracker.advance):
            frames += done.frames
            busy |= bool(done.busy)
            for share, seconds in done.seconds.items():
                shares[share] += seconds
        if busy:
            time.sleep(_BUSY_SECONDS)
        tasks = _tasks(found, writers) if busy else []
    return frames, shares


def _tasks(found: Survey, writers: Mapping[str, StoreWriter]) -> list[Task]:
    finished = {name: writer.finished() for name, writer in writers.items()}
    tasks = []
    for number in found.wanted():
        missing = tuple(name for name, numbers in finished.items() if number not in numbers)
        if missing:
            items = tuple(_item(found, position) for position in found.plan.partitions[number])
            tasks.append(Task(number, items, missing))
    return tasks


def _item(found: Survey, position: int) -> Item:
    clip, probe = found.clips[position], found.probes[position]
    reason = found.plan.too_long.get(position)
    if reason is not None:
        probe = replace(probe, frames=0, reason=reason)
    return Item(clip.id, clip.source, clip.start, clip.end, clip.crop, probe)


def _writers(
    found: Survey, corpus: str, store_root: Path, spec: CacheSpec, terms: str
) -> dict[str, StoreWriter]:
    writers = {
        name: StoreWriter.open(
            store_root,
            corpus=corpus,
            stream=name,
            identity=stream.identity,
            weights=stream.weights,
            keys=found.keys,
            slots=found.plan.slots[name],
            width=stream.encoder.width,
            dtype=spec.store.dtype,
            chunk_rows=stream.chunk_rows,
            shard_rows=stream.shard_rows,
            terms=terms,
        )
        for name, stream in found.streams.items()
        if not stream.foreign
    }
    for writer in writers.values():
        writer.sweep()
    return writers


def _forget_failed(found: Survey, writers: Mapping[str, StoreWriter]) -> None:
    wanted = set(found.wanted())
    for writer in writers.values():
        failed = {receipt.partition for receipt in writer.receipts if receipt.failures}
        if failed & wanted:
            writer.forget(failed & wanted)


@contextmanager
def _sealed(writers: Mapping[str, StoreWriter]) -> Iterator[None]:
    """Bring the indexes up to date with what was finished, however the block is left."""
    try:
        yield
    finally:
        for writer in writers.values():
            writer.seal()


def _job(
    found: Survey,
    spec: CacheSpec,
    *,
    root: Path,
    base: Path,
    device: str,
    workers: int | None,
    remote: bool,
) -> Job:
    cores = worker.cores()
    on_cpu = device == "cpu"
    threads = max(1, cores // (workers or 1)) if on_cpu else 1
    return Job(
        root=root.absolute(),
        base=base.absolute(),
        streams={
            name: StreamJob(
                spec.streams[name], stream.store.absolute(), stream.identity.weights_sha256
            )
            for name, stream in found.streams.items()
        },
        resize=spec.frames.resize,
        compute=spec.compute,
        device=device,
        dtype=spec.store.dtype,
        threads=0 if remote and on_cpu else threads,
        decoders=max(1, threads // 2) if on_cpu else min(16, cores),
    )


def _workers(device: str) -> int:
    if device != "cuda":
        return 1
    import torch

    return torch.cuda.device_count()
