"""``spamo-cache reproduce --all``: every experiment of a corpus, from features to one page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from spamo_cache import config
from spamo_cache.cli import display
from spamo_cache.config import Experiment
from spamo_cache.errors import UsageError
from spamo_cache.workflow.experiments import processes
from spamo_cache.workflow.experiments.context import FOLDER, ExperimentContext, extract
from spamo_cache.workflow.experiments.index import RunIndex
from spamo_cache.workflow.experiments.results import Results
from spamo_cache.workflow.experiments.scheduler import Scheduler
from spamo_cache.workflow.report import report
from spamo_cache.workflow.timings import StageTimings

if TYPE_CHECKING:
    from spamo_cache.workflow.experiments.plan import Plan

ORDER = (
    *("streams", "align", "tuning", "stride", "scales"),
    *("llm", "data", "pairs", "official", "encoders"),
)
"""As the paper's questions come; others follow by name."""
ANALYSED = (("streams", "both"), ("align", "both"), ("align", "none"))
"""Experiments and variants that the report looks into."""


@dataclass(frozen=True, slots=True)
class ExperimentRequest:
    """Which experiments, under how many seeds, by how many processes at a time."""

    only: Sequence[str] | None
    seeds: int
    jobs: int | None


def run_experiments(
    setting: ExperimentContext, asked: ExperimentRequest, stages: StageTimings, *, as_json: bool
) -> bool:
    """Do what is left of the experiments, then write the page; whether nothing failed.

    Raises:
        UsageError: an unknown experiment, or another process is at work on these.
    """
    from spamo_cache.runs.folder import exclusive

    setting.folder.mkdir(parents=True, exist_ok=True)
    with exclusive(setting.folder / "lock"):
        return _run(setting, asked, stages, as_json=as_json)


def _run(
    setting: ExperimentContext, asked: ExperimentRequest, stages: StageTimings, *, as_json: bool
) -> bool:
    experiments, names, plan = planned(setting, asked)
    base = setting.load()
    results = Results(
        setting.folder,
        experiments,
        names,
        corpus=base.corpus,
        base=setting.digest(base),
        set=list(setting.overrides),
        seeds=_seeds(setting, asked),
    )
    with stages.stage("extract") as stage:
        features = extract(setting, plan)
        stage.reused = not any(features.told.values())
    places = processes.worker_envs(asked.jobs, base.threads, setting.device)
    display.say(f"{len(plan.runs)} runs, {len(places)} at a time")
    with stages.stage("experiments"), processes.started(places) as pool:
        asyncio.run(_work(Scheduler(setting, plan, RunIndex(setting, features), results, pool)))
    _divide(setting.folder)
    with stages.stage("report"):
        page = report(setting.folder, setting.folder / "report.html", root=setting.corpus_root)
    if as_json:
        display.as_json(results.document())
    else:
        _show(results.document(), setting.folder)
        display.line(f"report: {page.resolve()}")
    failed = [*features.failed.items(), *results.failed]
    display.failures(failed)
    return not failed


async def _work(runner: Scheduler) -> None:
    await runner.train()
    await runner.analyse(ANALYSED)


def _divide(folder: Path) -> None:
    """What each part of the method contributes, where the experiments that tell it are there."""
    from spamo_cache.analysis.shapley import of_experiments

    try:
        of_experiments(folder)
    except UsageError as error:
        display.say(f"no contributions of the parts: {error.what}")


def planned(
    setting: ExperimentContext, asked: ExperimentRequest
) -> tuple[list[Experiment], list[str], Plan]:
    """All experiments, the names of those asked for, and what these come to.

    Raises:
        UsageError: no experiment of a name asked for.
        ConfigError: a file that is no experiment.
    """
    from spamo_cache.workflow.experiments.plan import plan

    experiments = listed(setting.pipeline.parent)
    known = [experiment.name for experiment in experiments]
    names = known if asked.only is None else list(asked.only)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no experiment {unknown[0]!r}", remedy=f"choose among {', '.join(known)}")
    whole = plan(experiments, setting.load, setting.load_spec, _seeds(setting, asked))
    return experiments, names, whole.only(names)


def listed(beside: Path) -> list[Experiment]:
    """The experiments for every corpus; one of that name in a folder ``beside`` comes first."""
    folders = (config.shipped("pipelines") / FOLDER, beside / FOLDER)
    files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    places = {name: place for place, name in enumerate(ORDER)}
    order = sorted(files, key=lambda name: (places.get(name, len(ORDER)), name))
    return [config.load(files[name], Experiment) for name in order]


def _seeds(setting: ExperimentContext, asked: ExperimentRequest) -> list[int]:
    first = setting.load().seed
    return list(range(first, first + asked.seeds))


def preview(setting: ExperimentContext, asked: ExperimentRequest) -> None:
    """Print what `run` would do: features to compute, runs to train."""
    _, _, plan = planned(setting, asked)
    features = extract(setting, plan, dry_run=True)
    index = RunIndex(setting, features)
    display.table(("features", "clips to compute or copy"), list(features.told.items()))
    display.table(("experiment", "variant", "seed", "run", ""), _previewed(plan, index))


def _previewed(plan: Plan, index: RunIndex) -> Iterator[tuple[object, ...]]:
    seen = set[str]()
    for trial in plan.trials:
        common = (trial.experiment, trial.variant, trial.seed)
        if trial.run is None:
            yield (*common, "", trial.error)
        elif trial.run in seen:
            yield (*common, plan.runs[trial.run].name, "as above")
        else:
            seen.add(trial.run)
            yield (*common, plan.runs[trial.run].name, index.state(plan.runs[trial.run]))


def _show(document: Mapping[str, Any], folder: Path) -> None:
    rows = [
        (experiment["name"], variant["name"], variant["label"], *_scores(variant, folder))
        for experiment in document["experiments"]
        for variant in experiment["variants"]
    ]
    title = f"{document['corpus']}: BLEU-4 on test"
    display.table(("experiment", "variant", "", "runs", "mean", "deviation"), rows, title=title)


def _scores(variant: Mapping[str, Any], folder: Path) -> tuple[object, ...]:
    from spamo_cache.runs.records import read_card

    cards = [
        read_card(folder / run["path"] / "evaluation" / f"{run['evaluation']}.json")
        for run in variant["runs"]
        if run["evaluation"] is not None
    ]
    bleu = [card.metrics["bleu4"] for card in cards]
    if not bleu:
        return 0, "", "failed" if variant["runs"] else "not run"
    return len(bleu), fmean(bleu), stdev(bleu) if len(bleu) > 1 else ""
