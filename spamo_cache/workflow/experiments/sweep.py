"""The runs of a pipeline's sweep and of several seeds: one experiment, trained and not tested."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spamo_cache import config
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import SpamoError
from spamo_cache.metrics import Spread, spread
from spamo_cache.model.weights import digest, locate
from spamo_cache.runs.folder import RunFolder, RunSummary
from spamo_cache.train import Features
from spamo_cache.train.data import selected
from spamo_cache.train.run import describe
from spamo_cache.workflow import EMBEDDED, resolve
from spamo_cache.workflow.experiments.index import RunLocation
from spamo_cache.workflow.experiments.plan import Planned, swept
from spamo_cache.workflow.experiments.processes import ProcessPool, worker_envs
from spamo_cache.workflow.experiments.scheduler import RunOutcome, Scheduler
from spamo_cache.workflow.experiments.tasks import TrainTask
from spamo_cache.workflow.resolve import Assignments, Changes
from spamo_cache.workflow.stores import pipeline_stores, with_corpora
from spamo_cache.workflow.train import report_splits, run_folder, train_pipeline
from spamo_cache.workflow.watcher import QUIET, Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSummary:
    """What the runs of a sweep came to.

    Attributes:
        spreads: mean and deviation of the best BLEU-4 on dev, of every combination.
        runs: summaries of the runs that are trained.
        failed: names of the others, with the reason.
    """

    spreads: Sequence[Spread]
    runs: Sequence[RunSummary]
    failed: Sequence[tuple[str, str]]


def train_sweep(
    pipeline: str | Path = EMBEDDED,
    *,
    seeds: int | None = None,
    jobs: int | None = None,
    set: Changes = (),  # noqa: A002 (the option's name)
    manifest: Path | str | None = None,
    features: Assignments = (),
    store: str | Path | None = None,
    root: Path | str | None = None,
    output: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> SweepSummary:
    """Train each combination of a pipeline's ``sweep`` under each of several seeds.

    Runs are trained beside each other, each in a process of its own; reruns resume, and finished
    runs are reused. One that fails keeps no other from its end. Processes that a launcher started
    (torchrun, accelerate) train each run together, one after the other.

    Args:
        pipeline: file of the pipeline, or a folder of ``pipelines/`` by name.
        seeds: count of seeds, from the pipeline's own on; None is that alone.
        jobs: runs at a time; None is one per GPU, or as many as the cores allow.
        set: changes to the pipeline, as ``{"translate.lr": 1e-4}``.
        manifest: sentences to train on; None takes those that were extracted last.
        features: stream -> store to read it from; the other streams' stores are found.
        store: root to look for feature stores in before those of ``SPAMO_CACHE``.
        root: folder of the raw corpus, for a pipeline that tunes its encoders.
        output: folder of the runs; None is ``runs/CORPUS``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: is told of progress and notices.

    Raises:
        UsageError: features that do not exist yet.
        ConfigError: a pipeline that cannot be used, a sweep over what it has not.
    """
    overrides = resolve.changes(set)
    loaded, path = resolve.named_pipeline(str(pipeline), overrides)

    def load(changes: Sequence[str]) -> Pipeline:
        return config.load(path, Pipeline, [*overrides, *changes])

    variants = swept(loaded, load, seeds)
    sources: dict[str, Any] = {
        "manifest": manifest,
        "features": features,
        "store": store,
        "root": root,
        "output": output,
    }
    runs = {run.key: run for listed in variants.values() for run in listed}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        outcomes = _together(runs, path.parent, sources, device, watcher)
    else:
        index = SweepIndex(runs, path.parent, sources, watcher)
        envs = worker_envs(jobs, loaded.threads, device)
        outcomes = asyncio.run(_train(runs, index, envs, device, watcher))
    return _summary(variants, outcomes)


async def _train(
    runs: Mapping[str, Planned],
    index: SweepIndex,
    envs: Sequence[Mapping[str, str]],
    device: str,
    watcher: Watcher,
) -> dict[str, RunOutcome]:
    async with ProcessPool(envs) as pool:
        return await Scheduler(index, pool, device, watcher).train(runs, _in_words)


class SweepIndex:
    """Knows where the runs of a sweep lie: beside each other, by their names.

    Raises:
        UsageError: the features of a run do not exist.
        StoreError: a store that cannot be opened or copied.
    """

    def __init__(
        self, runs: Mapping[str, Planned], base: Path, sources: Mapping[str, Any], watcher: Watcher
    ) -> None:
        self._base, self._sources = base, sources
        named = {key: sources[key] for key in ("manifest", "features", "store")}
        self._found: dict[str, tuple[Manifest, Mapping[str, Features]]] = {}
        for key, run in runs.items():
            table, stores = pipeline_stores(run.pipeline, base, **named, watcher=watcher)
            self._found[key] = with_corpora(
                run.pipeline, base, table, stores, store=sources["store"], watcher=watcher
            )
        if sources["manifest"] is None:
            report_splits(table, watcher)

    def locate(self, run: Planned, start: Path | None) -> RunLocation:
        """Where a run lies or will lie.

        Raises:
            UsageError: another one lies there.
        """
        del start
        folder = location_of(run, self._sources["output"])
        location = RunLocation(folder)
        if location.begun:
            table, stores = self._found[run.key]
            pipeline = run.pipeline
            table = selected(pipeline, table)
            llm = digest(locate(pipeline.llm.weights, self._base))
            record = describe(pipeline, self._base, table, stores, llm)
            RunFolder(folder).begin(pipeline, record, table)
        return location

    def train_task(self, run: Planned, start: Path | None, folder: Path, device: str) -> TrainTask:
        """What a process has to know to train a run into ``folder``."""
        del start
        manifest, store = self._sources["manifest"], self._sources["store"]
        return TrainTask(
            pipeline=run.pipeline,
            base=self._base,
            output=folder,
            manifest=None if manifest is None else Path(manifest),
            features={name: str(one.path) for name, one in self._found[run.key][1].items()},
            store=None if store is None else str(store),
            root=self.frames_root(run),
            device=device,
        )

    def frames_root(self, run: Planned) -> Path | None:
        """Where a run that tunes its encoders finds the frames."""
        root = self._sources["root"]
        return None if root is None or run.pipeline.encoders is None else Path(root)


def location_of(run: Planned, output: Path | str | None) -> Path:
    """The folder of a run: by its name in ``output``, else in ``runs/CORPUS``."""
    parent = run_folder(run.pipeline).parent if output is None else Path(output)
    return parent / run.name


def _together(
    runs: Mapping[str, Planned],
    base: Path,
    sources: Mapping[str, Any],
    device: str,
    watcher: Watcher,
) -> dict[str, RunOutcome]:
    """Train runs one after the other in this process, which is one of several."""
    outcomes = {}
    for key, run in runs.items():
        location = RunLocation(location_of(run, sources["output"]))
        given = {**sources, "output": location.folder}
        error, reused = None, False
        try:
            reused = train_pipeline(
                run.pipeline, base, **given, device=device, watcher=watcher
            ).reused
        except SpamoError as fault:
            error = fault.what
        outcomes[key] = RunOutcome(run, location, reused=reused, error=error)
    return outcomes


def _in_words(outcome: RunOutcome) -> str:
    if outcome.folder is None:
        return outcome.error or ""
    summary = RunFolder(outcome.folder).summary()
    bleu = None if summary is None else summary.best_bleu
    return "trained" if bleu is None else f"best BLEU-4 on dev {bleu:.2f}"


def _summary(
    variants: Mapping[str, Sequence[Planned]], outcomes: Mapping[str, RunOutcome]
) -> SweepSummary:
    spreads, summaries, failed = [], [], []
    for name, listed in variants.items():
        scores = []
        for run in listed:
            outcome = outcomes[run.key]
            summary = None if outcome.folder is None else RunFolder(outcome.folder).summary()
            if outcome.folder is None or summary is None:
                failed.append((run.name, outcome.error or "is not trained"))
                continue
            seconds = 0.0 if outcome.reused else summary.seconds
            summaries.append(
                replace(summary, path=outcome.folder, reused=outcome.reused, seconds=seconds)
            )
            scores += [] if summary.best_bleu is None else [summary.best_bleu]
        spreads += [spread(name, scores)] if scores else []
    return SweepSummary(spreads=spreads, runs=summaries, failed=failed)
