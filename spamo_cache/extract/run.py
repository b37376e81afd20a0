"""Stage 1 from a manifest to finished stores: plan, reuse, compute, index, report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from spamo_cache import config, devices
from spamo_cache.config import CacheSpec, StreamSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.extract import memory, worker
from spamo_cache.extract.calibrate import calibrate as measure
from spamo_cache.extract.executors import dask, serial
from spamo_cache.extract.job import Done, Job, Report, StreamJob, Task
from spamo_cache.extract.progress import Progress, Tracker
from spamo_cache.extract.summary import Outcome, Summary, planned, summarise, usual_rate
from spamo_cache.extract.survey import Survey, chosen, survey
from spamo_cache.extract.work import Group, Work, held, left
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import decord_backend

Executor = Literal["dask", "serial"]

_BUSY_SECONDS = 1.0
"""Pause before looking again at partitions that another run is computing."""


def check(
    spec: CacheSpec,
    *,
    streams: Sequence[str] | None,
    executor: Executor,
    workers: int | None,
    scheduler: str | None,
    slurm: Path | None,
    device: str,
    dry_run: bool,
    calibrate: bool,
) -> str:
    """Raise what is wrong with a request as far as can be told without its corpus.

    Returns:
        The device that is meant.

    Raises:
        UsageError: a stream, device, reader, number of workers or combination that cannot be.
        ConfigError: an unusable Slurm file.
    """
    chosen(streams, list(spec.streams), "stream")
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not a positive number")
    if calibrate and not dry_run:
        raise UsageError("calibration belongs to a dry run", remedy="add --dry-run")
    if (scheduler or slurm) and (executor == "serial" or (scheduler and slurm)):
        raise UsageError(
            "only one of --scheduler, --slurm and --executor serial can do the work",
            remedy="give one of them",
        )
    if slurm is not None:
        dask.slurm_options(slurm)
    if spec.frames.reader == "decord" and not decord_backend.is_installed():
        raise UsageError("decord is not installed", remedy="install it, or leave --reader out")
    return devices.resolve(device)


@memory.explained()
def extract(
    manifest: Manifest,
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
    calibrate: bool = False,
    retry_failed: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Compute the features that no root holds yet.

    Args:
        manifest: all clips of the corpus; ``splits`` chooses among them without changing the store.
            New stores keep it, and the terms of use of a corpus that is known.
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
        calibrate: measure for 20 seconds, in a dry run, what its estimate of hours rests on.
        retry_failed: compute failed clips again; the others of their partitions are kept.
        progress: called with the state so far, a few times a second at most per worker.

    Returns:
        What became of every clip. Failed clips are listed, not raised.

    Raises:
        UsageError: a stream, split, device, reader or scheduler that does not exist.
        ConfigError: a spec that cannot be carried out.
        WeightsError: weights that cannot be used.
        StoreError: a store that cannot be written.
        KeyboardInterrupt: passed on, after what is finished has been indexed.
    """
    began = time.perf_counter()
    device = check(
        spec,
        streams=streams,
        executor=executor,
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        device=device,
        dry_run=dry_run,
        calibrate=calibrate,
    )
    base = spec_base.absolute()
    # What was loaded in an earlier run may have changed on disk since.
    worker.load.cache_clear()

    def load(stream: StreamSpec) -> Encoder:
        if executor == "serial" or calibrate:
            return worker.load(stream, base, spec.compute, device)
        # Processes of their own will compute: this one only looks at sizes and hashes.
        return registry.build(stream, base, "float32")

    tracker = Tracker(progress, len(manifest))
    found = survey(
        manifest,
        root,
        spec,
        load,
        store_root=store_root,
        streams=streams,
        splits=splits,
        retry=retry_failed,
        progress=tracker.probed,
    )
    job = _job(
        found,
        spec,
        root=root,
        base=base,
        device=device,
        workers=workers,
        remote=bool(scheduler or slurm),
    )
    roots: list[str | Path] = [store_root, *config.roots()]
    before = held(found)
    work = left(found, before, roots=roots, retry=retry_failed)
    if dry_run:
        rate = measure(job, work) if calibrate else usual_rate(device)
        return planned(work, before, device, rate)
    writers = _writers(work, store_root, spec, manifest)
    if retry_failed:
        # What is kept of a partition is read by way of the index, which is up to date now.
        work = left(found, before, roots=roots, retry=True)
    cluster = dask.Cluster(workers=workers or _workers(device), scheduler=scheduler, slurm=slurm)

    def run(tasks: Iterable[Task], report: Report) -> Iterator[Done]:
        if executor == "serial":
            return serial.run(job, tasks, report)
        return dask.run(job, tasks, report, cluster, tracker.dashboard)

    with _sealed(writers):
        outcome = _work(work, run, writers, tracker)
    seconds = time.perf_counter() - began
    return summarise(work, before, held(found), device, outcome, seconds=seconds)


# --- work ---------------------------------------------------------------------------------------


def _work(
    work: Work,
    run: Callable[[Iterable[Task], Report], Iterator[Done]],
    writers: Mapping[str, StoreWriter],
    tracker: Tracker,
) -> Outcome:
    """Run until every partition asked for is finished, by this run or by another."""
    frames, copied = 0, set[str]()
    shares: Counter[str] = Counter()
    tracker.begin(*work.size())
    pending = work.groups()
    while pending:
        busy: dict[str, tuple[str, ...]] = {}
        for done in run(map(work.task, pending), tracker.advance):
            frames += done.frames
            copied |= done.copied
            shares.update(done.seconds)
            if done.busy:
                busy[done.task] = done.busy
        pending = [
            replace(group, streams=busy[group.name]) for group in pending if group.name in busy
        ]
        _wait(pending, writers, tracker)
    return Outcome(frames, copied, dict(shares))


def _wait(groups: Sequence[Group], writers: Mapping[str, StoreWriter], tracker: Tracker) -> None:
    """Wait, and say for whom, until one of the partitions is not claimed any more."""
    claimed = {(name, str(group.partition)) for group in groups for name in group.streams}
    while claimed:
        live = {name: writers[name].leases.live() for name in {name for name, _ in claimed}}
        holders = [live[name].get(partition) for name, partition in claimed]
        if None in holders:
            for name in live:
                writers[name].sweep()  # or its owner is dead: this process has seen that
            break
        tracker.waiting(set(map(str, holders)))
        time.sleep(_BUSY_SECONDS)


def _writers(
    work: Work, store_root: Path, spec: CacheSpec, manifest: Manifest
) -> dict[str, StoreWriter]:
    """Writers of the stores of this root; of one that lacks nothing only if it can be written."""
    found, writers = work.found, dict[str, StoreWriter]()
    known, snapshot = CORPORA.get(manifest.corpus), manifest.to_bytes()
    for name, stream in found.streams.items():
        if stream.foreign:
            continue
        try:
            writer = StoreWriter.open(
                store_root,
                corpus=found.corpus,
                stream=name,
                identity=stream.identity,
                weights=stream.weights,
                keys=found.keys,
                slots=stream.places.slots(found.clips),
                width=stream.width,
                dtype=spec.store.dtype,
                chunk_rows=stream.chunk_rows,
                shard_rows=stream.shard_rows,
                terms="" if known is None else known.terms,
                manifest=snapshot,
            )
            writer.sweep()
            # Tells before anything is computed that the store can be written, too.
            writer.commit_index()
        except (StoreError, OSError):
            if work.missing[name]:
                raise
        else:
            writers[name] = writer
    return writers


@contextmanager
def _sealed(writers: Mapping[str, StoreWriter]) -> Iterator[None]:
    """Bring the indexes up to date with what was finished, however the block is left."""
    try:
        yield
    except BaseException:
        # What went wrong first is what the user has to know: a full disk refuses the index too.
        for writer in writers.values():
            with suppress(StoreError):
                writer.commit_index()
        raise
    for writer in writers.values():
        writer.commit_index()


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
    # On a GPU one thread gathers and copies while the other's kernels run.
    threads = max(1, cores // (workers or 1)) if on_cpu else 2
    return Job(
        root=root.absolute(),
        base=base,
        streams={
            name: StreamJob(
                spec.streams[name], stream.store.absolute(), stream.identity.weights_sha256
            )
            for name, stream in found.streams.items()
            if isinstance(stream.store, Path)
        },
        resize=spec.frames.resize,
        reader=spec.frames.reader,
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
