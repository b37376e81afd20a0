"""Stage 1, from a manifest to finished stores: plan, copy, compute, index, summarise."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from spamo_cache import config, devices, extras
from spamo_cache.config import CacheSpec, StreamSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import MissingLibraryError, StoreError, UsageError
from spamo_cache.extract import executors, worker
from spamo_cache.extract.decoding import DecodeConfig
from spamo_cache.extract.estimate import measured_rate, usual_rate
from spamo_cache.extract.executors import Executor
from spamo_cache.extract.planning import (
    ExtractionPlan,
    PartitionGroup,
    RemainingWork,
    StreamPlan,
    check_names,
    plan_extraction,
    remaining_work,
)
from spamo_cache.extract.progress import Progress, Tracker
from spamo_cache.extract.summary import Summary, WorkerTotals, summarise, summarise_plan
from spamo_cache.extract.worker import (
    Compile,
    PartitionResult,
    PartitionTask,
    StreamTarget,
    WorkerConfig,
    shortages_explained,
)
from spamo_cache.store.writer import StoreWriter
from spamo_cache.video import decord_backend

_PAYS_SECONDS = 240.0
"""On a GPU, from which compiling a network pays: it takes a minute and saves a quarter."""
_BUSY_SECONDS = 1.0
"""Pause before looking again at partitions that somebody else is computing."""


def check(
    spec: CacheSpec,
    *,
    streams: Sequence[str] | None,
    executor: Executor,
    workers: int | None,
    scheduler: str | None,
    slurm: Path | None,
    device: str,
    compile: Compile = "auto",  # noqa: A002 (the option's name)
    dry_run: bool,
    calibrate: bool,
) -> str:
    """Raise whatever is wrong with a request and can be seen without its corpus.

    Returns:
        The device to compute on.

    Raises:
        UsageError: a stream, device, reader, scheduler, number of workers or combination that
            cannot be.
        ConfigError: an unusable Slurm file.
    """
    check_names(streams, list(spec.streams), "stream")
    if compile not in get_args(Compile):
        raise UsageError(f"compile: no {compile!r}", remedy="use auto, on or off")
    if workers is not None and workers < 1:
        raise UsageError(f"workers: {workers} is not a positive number")
    if calibrate and not dry_run:
        raise UsageError("only a dry run can be calibrated", remedy="add --dry-run")
    executors.check(executor, scheduler, slurm)
    if scheduler is not None and not dry_run:
        executors.check_scheduler(scheduler)
    if spec.frames.reader == "decord" and not decord_backend.is_installed():
        raise MissingLibraryError(
            "decord is not installed, or does not load",
            remedy=f"{extras.how_to_install('decord')}, or leave --reader out",
        )
    return devices.resolve(device)


@shortages_explained()
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
    compile: Compile = "auto",  # noqa: A002 (the option's name)
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
        slurm: YAML of a Slurm cluster instead, see :func:`executors.slurm_options`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        compile: ``auto`` compiles on a GPU the networks of streams that take it minutes, if they
            can be compiled; ``on`` compiles all.
        dry_run: decide everything, write nothing; needs no weights.
        calibrate: in a dry run, benchmark for 20 seconds to calibrate the estimate.
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
        compile=compile,
        dry_run=dry_run,
        calibrate=calibrate,
    )
    base = spec_base.absolute()
    # What an earlier extraction has loaded may have changed on disk since.
    worker.load_encoder.cache_clear()

    def load(stream: StreamSpec) -> Encoder:
        if dry_run and not calibrate:
            outline = registry.without_weights(stream, base)
            if outline is not None:
                return outline
        if executor == "serial" or calibrate:
            return worker.load_encoder(stream, base, spec.compute, device)
        # Processes of their own will compute: this one only looks at sizes and hashes, and is not
        # to hold the weights in memory beside them.
        return registry.build(stream, base, "float32").outline()

    tracker = Tracker(progress, len(manifest))
    plan = plan_extraction(
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
    worker_config = _worker_config(
        plan,
        spec,
        root=root,
        base=base,
        device=device,
        compile=compile,
        workers=workers,
        remote=bool(scheduler or slurm),
    )
    roots: list[str | Path] = [store_root, *config.roots()]
    before = plan.statuses()
    work = remaining_work(plan, before, roots=roots, retry=retry_failed)
    if dry_run:
        rate = measured_rate(worker_config, work) if calibrate else usual_rate(device)
        return summarise_plan(work, before, device, rate)
    writers = _open_writers(work, store_root, spec, manifest)
    if retry_failed:
        # What is kept of a partition is read by way of the index, which is up to date now.
        work = remaining_work(plan, before, roots=roots, retry=True)

    def execute(tasks: Iterable[PartitionTask]) -> Iterator[PartitionResult]:
        if executor == "serial":
            return executors.run_serial(worker_config, tasks, tracker.advance)
        cluster = executors.Cluster(
            workers=workers or _default_workers(device), scheduler=scheduler, slurm=slurm
        )
        return executors.run_dask(worker_config, tasks, tracker.advance, cluster, tracker.cluster)

    with _indexed(writers):
        totals = _finish(work, execute, writers, tracker)
    seconds = time.perf_counter() - began
    return summarise(work, before, plan.statuses(), device, totals, seconds=seconds)


def _finish(
    work: RemainingWork,
    execute: Callable[[Iterable[PartitionTask]], Iterator[PartitionResult]],
    writers: Mapping[str, StoreWriter],
    tracker: Tracker,
) -> WorkerTotals:
    """Go on until every requested partition is finished, here or by somebody else."""
    frames, copied, compile_seconds = 0, set[str](), 0.0
    seconds: Counter[str] = Counter()
    notes: dict[str, None] = {}
    tracker.begin(*work.size())
    pending = work.groups()
    while pending:
        busy: dict[str, tuple[str, ...]] = {}
        for result in execute(map(work.task, pending)):
            frames += result.frames
            copied |= result.copied
            seconds.update(result.seconds)
            compile_seconds = max(compile_seconds, result.compile_seconds)
            notes.update(dict.fromkeys(result.notes))
            if result.busy:
                busy[result.task] = result.busy
        pending = [
            replace(group, streams=busy[group.name]) for group in pending if group.name in busy
        ]
        _wait(pending, writers, tracker)
    return WorkerTotals(frames, copied, dict(seconds), compile_seconds, tuple(notes))


def _wait(
    groups: Sequence[PartitionGroup], writers: Mapping[str, StoreWriter], tracker: Tracker
) -> None:
    """Wait, and report for whom, until one of the partitions is free."""
    while groups:
        names = {name for group in groups for name in group.streams}
        live = {name: writers[name].leases.live() for name in names}
        holders = [
            {live[name].get(str(group.partition)) for name in group.streams} - {None}
            for group in groups
        ]
        if not all(holders):
            for name in live:
                writers[name].sweep()  # or its owner is dead: this process has seen that
            break
        tracker.waiting(set(map(str, set().union(*holders))))
        time.sleep(_BUSY_SECONDS)


def _open_writers(
    work: RemainingWork, store_root: Path, spec: CacheSpec, manifest: Manifest
) -> dict[str, StoreWriter]:
    """Writers of the stores in this root; of a complete store only if it can be written."""
    plan, writers = work.plan, dict[str, StoreWriter]()
    corpus, snapshot = CORPORA.get(manifest.corpus), manifest.to_bytes()
    for name, stream in plan.streams.items():
        if stream.elsewhere:
            continue
        try:
            writer = StoreWriter.open(
                store_root,
                corpus=plan.corpus,
                stream=name,
                identity=stream.identity,
                weights=stream.weights,
                keys=stream.keys,
                slots=stream.placement.slots(plan.clips),
                width=stream.width,
                dtype=spec.store.dtype,
                chunk_rows=stream.chunk_rows,
                shard_rows=stream.shard_rows,
                validity=stream.uses_poses,
                poses=spec.poses if stream.uses_poses else "",
                terms="" if corpus is None else corpus.terms,
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
def _indexed(writers: Mapping[str, StoreWriter]) -> Iterator[None]:
    """Bring the indexes up to date with what was finished, however the block is left."""
    try:
        with ExitStack() as present:
            for writer in writers.values():
                present.enter_context(writer.presence())
            yield
    except BaseException:
        # What went wrong first is what the user has to know: a full disk refuses the index too.
        for writer in writers.values():
            with suppress(StoreError):
                writer.commit_index()
        raise
    for writer in writers.values():
        writer.commit_index()


def _worker_config(
    plan: ExtractionPlan,
    spec: CacheSpec,
    *,
    root: Path,
    base: Path,
    device: str,
    compile: Compile,  # noqa: A002 (the option's name)
    workers: int | None,
    remote: bool,
) -> WorkerConfig:
    cores = devices.cpu_cores()
    on_cpu = device == "cpu"
    # On a GPU two threads gather and copy while a third one's kernels run.
    threads = max(1, cores // (workers or 1)) if on_cpu else 3
    return WorkerConfig(
        decoding=DecodeConfig(
            root=root.absolute(),
            resize=spec.frames.resize,
            reader=spec.frames.reader,
            decoders=max(1, threads // 2) if on_cpu else min(16, cores),
        ),
        spec_base=base,
        streams={
            name: StreamTarget(
                spec.streams[name],
                stream.store.absolute(),
                stream.identity.weights_sha256,
                _compile(compile, stream, device),
            )
            for name, stream in plan.streams.items()
            if isinstance(stream.store, Path)
        },
        compute=spec.compute,
        device=device,
        dtype=spec.store.dtype,
        threads=0 if remote and on_cpu else threads,
    )


def _compile(asked: Compile, stream: StreamPlan, device: str) -> Compile:
    """Whether a stream's network is to be compiled.

    ``auto`` goes by the whole corpus, not by what is left of it: an extraction that is begun again
    computes the same bits.
    """
    if asked != "auto":
        return asked
    flops = stream.flops_per_row * float(stream.placement.rows.sum())
    pays = flops / usual_rate(device).flops > _PAYS_SECONDS
    return "auto" if pays and torch.device(device).type == "cuda" else "off"


def _default_workers(device: str) -> int:
    if device != "cuda":
        return 1
    return torch.cuda.device_count()
