"""``spamo-cache reproduce --all``: every experiment of a corpus, from features to one page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spamo_cache import human, io
from spamo_cache.analysis.shapley import of_experiments
from spamo_cache.config import Experiment
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError
from spamo_cache.runs.folder import exclusive
from spamo_cache.workflow import resolve
from spamo_cache.workflow.experiments.context import (
    ExperimentContext,
    ExperimentFeatures,
    extract_features,
)
from spamo_cache.workflow.experiments.index import RunIndex, key_of
from spamo_cache.workflow.experiments.plan import FOLDER, Plan, listed, plan_experiments
from spamo_cache.workflow.experiments.processes import ProcessPool, worker_envs
from spamo_cache.workflow.experiments.results import Results
from spamo_cache.workflow.experiments.scheduler import RunOutcome, Scheduler
from spamo_cache.workflow.report import report
from spamo_cache.workflow.reproduce import Source, check_source, prepare
from spamo_cache.workflow.resolve import Names
from spamo_cache.workflow.timings import StageTimings
from spamo_cache.workflow.watcher import QUIET, Watcher

ANALYSED = (("streams", "both"), ("align", "both"), ("align", "none"))
"""Experiments and variants that the report looks into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRequest:
    """Which experiments, under how many seeds, by how many processes at a time.

    Attributes:
        only: names of experiments; None is all.
        seeds: runs of each variant; None is what each experiment says.
        jobs: runs at a time; None is one per GPU, or as many as the cores allow.
    """

    only: Names | None = None
    seeds: int | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentsSummary:
    """What came out of experiments.

    Attributes:
        folder: holds the results and the runs.
        report: the page.
        document: ``results.json``.
        failed: clips without features and variants that came to nothing, with the reason.
    """

    folder: Path
    report: Path
    document: Mapping[str, Any]
    failed: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Preview:
    """What experiments would take.

    Attributes:
        extractions: each in words -> clips it would compute or copy, or why it could not be done.
        runs: experiment, variant, seed, name of the run, and how far that has come.
    """

    extractions: Mapping[str, int | str]
    runs: Sequence[tuple[str, str, int, str, str]]


def reproduce_experiments(
    source: Source, request: ExperimentRequest, watcher: Watcher = QUIET
) -> ExperimentsSummary:
    """Do what is left of a corpus's experiments, from features to one page.

    Equal runs of several experiments are trained once, several at a time, each in a process of its
    own. A variant that fails keeps no other from its run.

    Raises:
        UsageError: an unknown experiment, or another process is at work on these.
        ConfigError: a pipeline, spec or experiment that cannot be used.
    """

    pipeline, path = source.load_pipeline()
    check_source(source, pipeline, path.parent)
    _names(listed(path.parent), request)
    stages = StageTimings(source.out / FOLDER / "stages.json", watcher)
    context = _context(source, path, *prepare(source, stages, watcher), watcher)
    io.make_folders(context.folder)
    with exclusive(context.folder / "lock"):
        return _run(context, request, stages)


def preview_experiments(
    source: Source, request: ExperimentRequest, watcher: Watcher = QUIET
) -> Preview:
    """What :func:`reproduce_experiments` would do: features to compute, runs to train."""
    _, path = source.load_pipeline()
    _names(listed(path.parent), request)
    context = _context(source, path, *source.load_manifest(watcher), watcher)
    _, _, plan = _planned(context, request)
    features = extract_features(context, plan, dry_run=True)
    return Preview(features.extractions, _states(context, plan, features))


def _context(
    source: Source, pipeline: Path, table: Manifest, root: Path, watcher: Watcher
) -> ExperimentContext:

    return ExperimentContext(
        pipeline=pipeline,
        overrides=resolve.changes(source.set),
        out=source.out,
        table=table,
        corpus_root=root,
        store=source.store,
        device=source.device,
        extraction={"workers": source.workers, "executor": source.executor},
        size=source.size,
        watcher=watcher,
    )


def _planned(
    context: ExperimentContext, request: ExperimentRequest
) -> tuple[list[Experiment], list[str], Plan]:
    """All experiments, the names of those asked for, and what these come to.

    Raises:
        UsageError: no experiment of a name asked for.
        ConfigError: a file that is no experiment.
    """

    experiments = listed(context.pipeline.parent)
    names = _names(experiments, request)
    seeds = _seeds(context, request, experiments)
    whole = plan_experiments(experiments, context.load, context.load_spec, seeds)
    return experiments, names, whole.only(names)


def _names(experiments: Sequence[Experiment], request: ExperimentRequest) -> list[str]:
    """The names of those asked for; raises UsageError for one that there is not."""
    known = [experiment.name for experiment in experiments]
    names = resolve.names(request.only) or known
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no experiment {unknown[0]!r}", remedy=f"choose among {', '.join(known)}")
    return names


def _seeds(
    context: ExperimentContext, request: ExperimentRequest, experiments: Sequence[Experiment]
) -> dict[str, Sequence[int]]:
    """The seeds of each experiment, from the pipeline's own on."""
    first = context.load().seed
    return {one.name: range(first, first + (request.seeds or one.seeds)) for one in experiments}


def _run(
    context: ExperimentContext, request: ExperimentRequest, stages: StageTimings
) -> ExperimentsSummary:

    experiments, names, plan = _planned(context, request)
    base = context.load()
    results = Results(
        context.folder,
        experiments,
        names,
        corpus=base.corpus,
        base=context.digest(base),
        seeds=_seeds(context, request, experiments),
        set=list(context.overrides),
    )
    with stages.stage("extract") as stage:
        features = extract_features(context, plan)
        stage.reused = not any(features.extractions.values())
    envs = worker_envs(request.jobs, base.threads, context.device)
    context.watcher.notice(f"{human.count(len(plan.runs), 'run')}, {len(envs)} at a time")
    with stages.stage("experiments"):
        asyncio.run(_work(context, plan, features, results, envs))
    _contributions(context)
    with stages.stage("report"):
        page = report(context.folder, context.folder / "report.html", root=context.corpus_root)
    return ExperimentsSummary(
        folder=context.folder,
        report=page,
        document=results.document(),
        failed=[*features.failed.items(), *results.failed],
    )


async def _work(
    context: ExperimentContext,
    plan: Plan,
    features: ExperimentFeatures,
    results: Results,
    envs: Sequence[Mapping[str, str]],
) -> None:
    for trial in plan.trials:
        if trial.run is None:
            results.add(trial, None, error=trial.error)
    async with ProcessPool(envs) as pool:
        index = RunIndex(context, features)
        scheduler = Scheduler(index, pool, context.device, context.watcher, context.store)
        outcomes = await scheduler.train(plan.runs, lambda outcome: _note(plan, results, outcome))
        looked_at: dict[tuple[str, str], Path] = {}
        for trial in plan.trials:
            folder = outcomes[trial.run].folder if trial.run is not None else None
            if folder is not None and (trial.experiment, trial.variant) in ANALYSED:
                looked_at.setdefault((trial.experiment, trial.variant), folder)
        await scheduler.analyze(looked_at.values(), context.corpus_root)


def _note(plan: Plan, results: Results, outcome: RunOutcome) -> str:
    """Write down how the trials of a run ended; in words its scores, or what went wrong."""
    location, scores = outcome.location, {}
    for trial in plan.trials:
        if trial.run == outcome.run.key:
            key = key_of(trial.test)
            fault = outcome.error or outcome.faults.get(key)
            card = location.card(trial.test) if location and fault is None else None
            folder = None if location is None else location.folder
            results.add(trial, folder, evaluation=card.name if card else None, error=fault)
            if card is not None:
                scores[key] = f"{card.metrics['bleu4']:.2f}"
    if fault := outcome.error or next(iter(outcome.faults.values()), None):
        return fault
    return f"BLEU-4 {', '.join(scores.values())}" if scores else "trained"


def _states(
    context: ExperimentContext, plan: Plan, features: ExperimentFeatures
) -> list[tuple[str, str, int, str, str]]:
    """Each trial with its run, and how far that has come."""
    index, rows, seen = RunIndex(context, features), [], set[str]()
    for trial in plan.trials:
        if trial.run is None:
            name, state = "", trial.error or ""
        else:
            run = plan.runs[trial.run]
            name, state = run.name, "as above" if run.key in seen else index.state(run)
            seen.add(run.key)
        rows.append((trial.experiment, trial.variant, trial.seed, name, state))
    return rows


def _contributions(context: ExperimentContext) -> None:
    """What each part of the method contributes, where the experiments that tell it are there."""
    try:
        of_experiments(context.folder)
    except UsageError as error:
        context.watcher.notice(f"no contributions of the parts: {error.what}")
