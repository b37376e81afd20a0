"""What experiments come to: runs, each of which may serve several of them. Decides, does nothing.

Two variants with equal settings are one run, under whichever names experiments have them: the
default is `streams`' both streams and `tuning`'s LoRA alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from spamo_cache import config
from spamo_cache.config import CacheSpec, Experiment, Pipeline, Variant
from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.runs.folder import identity
from spamo_cache.store.layout import canonical, stream_spec
from spamo_cache.train.run import settings

FOLDER = "experiments"
"""Holds a corpus's experiments, in ``pipelines/`` and ``runs/`` alike."""
ORDER = (
    *("streams", "regions", "align", "tuning", "stride", "scales"),
    *("llm", "data", "pretraining", "pretraining-data", "pairs", "signers", "official", "encoders"),
)
"""As the paper's questions come; others follow by name."""
TEST = "test"
"""The split that experiments are scored on."""
DEFAULT = "default"
"""As what to start from: the base pipeline's own run."""

Load = Callable[[Sequence[str]], Pipeline]
"""The base pipeline with further ``key=value`` over it."""
LoadSpec = Callable[[Pipeline], CacheSpec]
"""The cache spec of a pipeline, with the pipeline's changes to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run to train.

    Attributes:
        key: equal for equal runs; stores, sentences and weights left aside.
        name: for its folder, not unique among other settings of the base.
        pipeline: what is trained, but for where it starts from.
        init_from: the run whose weights it begins with.
        tests: the changes to the cache spec under which it is tested.
    """

    key: str
    name: str
    pipeline: Pipeline
    init_from: Planned | None = None
    tests: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One seed of a variant: the key of its run, or why there can be none, and a test of it."""

    experiment: str
    variant: str
    seed: int
    run: str | None
    test: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All trials in the order of the experiments, and the runs behind them by key."""

    trials: Sequence[Trial]
    runs: Mapping[str, Planned]

    def only(self, experiments: Sequence[str]) -> Plan:
        """What these experiments need; runs keep the names that the whole plan gives them."""
        trials = [trial for trial in self.trials if trial.experiment in experiments]
        needed = (self.runs[trial.run] for trial in trials if trial.run is not None)
        return Plan(trials, _tested(needed, trials))


def listed(beside: Path) -> list[Experiment]:
    """The experiments for every corpus; one of that name in a folder ``beside`` comes first."""
    folders = (config.shipped("pipelines") / FOLDER, beside / FOLDER)
    files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    ranks = {name: rank for rank, name in enumerate(ORDER)}
    order = sorted(files, key=lambda name: (ranks.get(name, len(ORDER)), name))
    return [config.load(files[name], Experiment) for name in order]


def swept(pipeline: Pipeline, load: Load, seeds: int | None) -> dict[str, list[Planned]]:
    """Each combination of ``pipeline.sweep`` under each seed; without a sweep the pipeline alone.

    Args:
        pipeline: as ``load`` gives it without changes.
        load: loads it.
        seeds: count of seeds, from the pipeline's own on; None is that alone.

    Returns:
        Names as ``default-lr-0.0001`` -> runs, whose names end in the seed if there are several.

    Raises:
        ConfigError: the sweep has an unknown key, or a value that does not fit.
    """
    numbers = [None] if seeds is None else list(range(pipeline.seed, pipeline.seed + seeds))
    variants = {}
    for values in product(*pipeline.sweep.values()):
        changes = dict(zip(pipeline.sweep, values, strict=True))
        words = [f"{key.rpartition('.')[2]}-{_spelt(value)}" for key, value in changes.items()]
        name = "-".join([pipeline.name, *words])
        changes |= {"sweep": {}, "name": name}
        variants[name] = [_run(changes, seed, None, load) for seed in numbers]
    return variants


def _spelt(value: Any) -> str:
    """A value as part of a file name."""
    text = "-".join(map(_spelt, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")


def plan_experiments(
    experiments: Sequence[Experiment],
    load: Load,
    load_spec: LoadSpec,
    seeds: Mapping[str, Sequence[int]],
) -> Plan:
    """The runs of ``experiments`` under each of their seeds, every distinct one once.

    A variant that does not fit the base or its spec becomes trials with an error; others stay.

    Args:
        seeds: name of an experiment -> its seeds.
    """
    runs: dict[str, Planned] = {}
    trials = []
    for experiment in experiments:
        for name, variant in experiment.variants.items():
            for seed in seeds[experiment.name]:
                key, error = None, None
                try:
                    run = _planned(experiment, name, seed, load)
                    stream_keys(changed(run.pipeline, variant.eval_spec_set), load_spec)
                    key = runs.setdefault(run.key, run).key
                except UsageError as fault:
                    error = fault.what
                trials.append(
                    Trial(
                        experiment=experiment.name,
                        variant=name,
                        seed=seed,
                        run=key,
                        test=variant.eval_spec_set,
                        error=error,
                    )
                )
    return Plan(trials, _tested(runs.values(), trials))


def _planned(experiment: Experiment, name: str, seed: int, load: Load) -> Planned:
    """The run of a variant; ``init_from`` names the variant whose weights it begins with.

    Raises:
        ConfigError: the variant does not fit the base.
    """
    variant = _variant(experiment, name)
    changes = dict(variant.set)
    first = changes.pop("init_from", None)
    start = None if first is None else _first(experiment, str(first), seed, load)
    if variant.set:
        changes["name"] = f"{experiment.name}-{name}"
        changes["question"] = f"{experiment.question} Here: {variant.label}"
    return _run(changes, seed, start, load)


def _run(
    changes: Mapping[str, Any], seed: int | None, start: Planned | None, load: Load
) -> Planned:
    """The base with changes; ``seed`` None is its own, and left out of the run's name."""
    pipeline = load(config.overrides({**changes, **({} if seed is None else {"seed": seed})}))
    if pipeline.sweep:
        raise ConfigError("sweep: the variants of an experiment are single runs")
    before = pipeline.init_from if start is None else start.key
    return Planned(
        key=identity({"settings": settings(pipeline), "init_from": before}),
        name=pipeline.name if seed is None else f"{pipeline.name}-{seed}",
        pipeline=pipeline,
        init_from=start,
    )


def _first(experiment: Experiment, name: str, seed: int, load: Load) -> Planned:
    if "init_from" in _variant(experiment, name).set:
        raise ConfigError(f"init_from: {experiment.name}'s {name!r} starts from another run itself")
    return _planned(experiment, name, seed, load)


def _variant(experiment: Experiment, name: str) -> Variant:
    """A variant by name; ``default`` is the base as it stands."""
    variants = {DEFAULT: Variant(label="the base"), **experiment.variants}
    if name not in variants:
        raise ConfigError(f"init_from: {experiment.name} has no variant {name!r}")
    return variants[name]


def _tested(runs: Iterable[Planned], trials: Sequence[Trial]) -> dict[str, Planned]:
    """By key, each with the tests that trials ask for, in the order in which to train them.

    Those that others start from come before these. All runs of the first seed come before any of
    the second: what is interrupted has an answer to every question, if a rougher one.
    """
    tests: dict[str, dict[bytes, Mapping[str, Any]]] = {}
    for trial in trials:
        if trial.run is not None:
            tests.setdefault(trial.run, {})[canonical(dict(trial.test))] = trial.test
    ordered: dict[str, Planned] = {}
    for run in sorted(runs, key=lambda run: run.pipeline.seed):
        for one in (run.init_from, run):
            if one is not None:
                own = tuple(tests.get(one.key, {}).values())
                ordered.setdefault(one.key, replace(one, tests=own))
    return ordered


# --- features -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Streams to be there before runs can be trained, or tested, from them.

    Attributes:
        pipeline: whose spec, with the changes to it, says how.
        streams: stream -> what tells its features from others, see :func:`stream_keys`.
        tested: nobody trains from them: the test split is enough.
    """

    pipeline: Pipeline
    streams: Mapping[str, str]
    tested: bool


def changed(pipeline: Pipeline, test: Mapping[str, Any]) -> Pipeline:
    """The pipeline over a cache spec with further changes."""
    return pipeline.model_copy(update={"spec_set": {**pipeline.spec_set, **test}})


def stream_keys(pipeline: Pipeline, load_spec: LoadSpec) -> dict[str, str]:
    """Stream of a pipeline -> a key that is equal for equal features of one corpus.

    Raises:
        UsageError: a change that does not fit the spec, or a stream that it does not have.
    """
    spec = load_spec(pipeline)
    return {
        stream: identity(
            {
                "corpus": pipeline.corpus,
                "spec": stream_spec(spec, stream),
                "weights": spec.streams[stream].model_dump(include={"weights", "key_map"}),
                **({"poses": spec.poses} if spec.streams[stream].uses_poses else {}),
            }
        )
        for stream in pipeline.streams
    }


def elsewhere(pipeline: Pipeline) -> list[Pipeline]:
    """The pipeline on each of the other corpora that it trains on, alone."""
    return [pipeline.model_copy(update={"corpus": name, "corpora": ()}) for name in pipeline.others]


def extractions(runs: Iterable[Planned], load_spec: LoadSpec) -> list[Extraction]:
    """What ``runs`` need, every stream once: what is trained from first."""
    listed = list(runs)
    uses = [(one, False) for run in listed for one in (run.pipeline, *elsewhere(run.pipeline))]
    uses += [(changed(run.pipeline, test), True) for run in listed for test in run.tests if test]
    needed: list[Extraction] = []
    known: set[str] = set()
    for pipeline, tested in uses:
        keys = stream_keys(pipeline, load_spec)
        new = {stream: key for stream, key in keys.items() if key not in known}
        known.update(new.values())
        if new:
            needed.append(Extraction(pipeline=pipeline, streams=new, tested=tested))
    return needed
