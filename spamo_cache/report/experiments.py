"""The experiments of a corpus as a report sees them: ``results.json`` and the runs it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from spamo_cache import human
from spamo_cache.config import Axis
from spamo_cache.errors import UsageError
from spamo_cache.metrics import Measure, SeedsDifference, bleu4_measure, seeds_difference
from spamo_cache.report.formats import slug
from spamo_cache.report.runs import RunView, read_run, with_distinct_names
from spamo_cache.runs import results as results_file
from spamo_cache.runs.contributions import DOCUMENT, Contributions, read_contributions
from spamo_cache.runs.records import Evaluation
from spamo_cache.runs.results import RESULTS, ExperimentResult, TrialResult, VariantResult

_TRIALS = 1000
"""Tosses behind a p-value of single seeds: a page has many of them."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One seed of a variant; without ``run`` it was not trained, and ``error`` may say why."""

    seed: int
    error: str | None
    run: RunView | None
    evaluation: Evaluation | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One point of an experiment."""

    name: str
    label: str
    x: float | None
    set: Mapping[str, Any]
    eval_spec_set: Mapping[str, Any]
    trials: tuple[Trial, ...]
    group: str = ""
    against: str | None = None
    """Of the variants that it is summed up with, as the folds of a corpus."""

    @cached_property
    def scored(self) -> list[tuple[RunView, Evaluation]]:
        """The seeds that have a score."""
        return [(t.run, t.evaluation) for t in self.trials if t.run and t.evaluation]

    @cached_property
    def measured(self) -> dict[int, tuple[tuple[str, ...], Measure]]:
        """Seed -> the clips scored, and BLEU-4 of them."""
        cards = {trial.seed: trial.evaluation for trial in self.trials if trial.evaluation}
        return {seed: _measured(card) for seed, card in cards.items() if card.lines}

    @property
    def rouge(self) -> str:
        """The ROUGE-L that its scorecards quote: a key of their metrics."""
        return self.scored[0][1].rouge if self.scored else "rouge_l"

    @property
    def errors(self) -> list[str]:
        """Why seeds failed, each reason once."""
        return list(dict.fromkeys(trial.error for trial in self.trials if trial.error))

    @property
    def waiting(self) -> int:
        """Seeds without a score that did not fail; one where none has begun."""
        open_ = [trial for trial in self.trials if trial.evaluation is None and not trial.error]
        return len(open_) if self.trials else 1

    def scores(self, key: str) -> list[float]:
        """A metric of every seed that has it."""
        return [e.metrics[key] for _, e in self.scored if key in e.metrics]

    def mean(self, key: str) -> float | None:
        """A metric's mean over the seeds."""
        scores = self.scores(key)
        return fmean(scores) if scores else None

    def half(self, key: str) -> float | None:
        """Standard deviation over seeds; half the 95 % interval where there is one seed."""
        scores = self.scores(key)
        if len(scores) > 1:
            return stdev(scores)
        bounds = self._interval(key)
        return (bounds[1] - bounds[0]) / 2 if bounds else None

    def bounds(self, key: str) -> tuple[float, float] | None:
        """Mean less and plus the standard deviation, or the 95 % interval of the one seed."""
        scores = self.scores(key)
        if len(scores) > 1:
            middle, half = fmean(scores), stdev(scores)
            return middle - half, middle + half
        return self._interval(key)

    def _interval(self, key: str) -> tuple[float, float] | None:
        return self.scored[0][1].intervals.get(key) if self.scored else None

    @property
    def dev_bleu(self) -> float | None:
        """BLEU-4 on dev of the weights kept; None where test chose them."""
        return self.training("best_bleu", lambda run: run.chosen_on == "dev")

    def training(self, key: str, fits: Callable[[RunView], bool] = lambda _: True) -> float | None:
        """A number of training, its mean over the seeds; None where nothing was trained."""
        runs = [run for run, _ in self.scored if run.learnt and fits(run)]
        numbers = [getattr(run.done, key, None) for run in runs]
        known = [float(number) for number in numbers if number is not None]
        return fmean(known) if known else None

    @property
    def runs(self) -> dict[str, int]:
        """Place of each of its runs on the page -> seed."""
        return {trial.run.anchor: trial.seed for trial in self.trials if trial.run}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question and the variants that answer it."""

    name: str
    question: str
    paper: str
    axis: Axis | None
    variants: tuple[Variant, ...]

    @property
    def anchor(self) -> str:
        """Its place on a page."""
        return f"experiment-{slug(self.name)}"

    @property
    def base(self) -> Variant:
        """What all are held against: the pipeline as it stands, else the first variant."""
        plain = (v for v in self.variants if not v.set and not v.eval_spec_set)
        return next(plain, self.variants[0])

    @cached_property
    def members(self) -> dict[str, list[Variant]]:
        """Group -> its variants that have a score; those on an axis are curves instead."""
        found: dict[str, list[Variant]] = {}
        for variant in self.variants:
            if variant.group and variant.scored and variant.x is None:
                found.setdefault(variant.group, []).append(variant)
        return found

    @cached_property
    def groups(self) -> list[Variant]:
        """Each group of variants as one, whose seeds are all of theirs."""
        return [
            Variant(
                name=name,
                label=f"mean and standard deviation of {_counted(listed)}",
                x=None,
                set={},
                eval_spec_set={},
                trials=tuple(trial for variant in listed for trial in variant.trials),
            )
            for name, listed in self.members.items()
        ]

    @property
    def elsewhere(self) -> list[str]:
        """Variants that were tested on other splits than what they are held against."""
        held = {card.resplit for _, card in self.base.scored}
        return [
            variant.name
            for variant in self.variants
            if held and {card.resplit for _, card in variant.scored} - held
        ]

    def held(self, variant: Variant) -> Variant:
        """What a variant is held against: the base, or the variant that it names."""
        named = (one for one in self.variants if one.name == variant.against)
        return next(named, self.base)

    def gain(self, variant: Variant) -> float | None:
        """What its BLEU-4 has more than that of what it is held against; None for the base."""
        held = self.held(variant)
        value, other = variant.mean("bleu4"), held.mean("bleu4")
        if value is None or other is None or variant is held:
            return None
        return value - other

    @cached_property
    def tests(self) -> dict[str, SeedsDifference]:
        """Variant -> whether its BLEU-4 differs by more than chance from what it is held against.

        By the seeds that both have; those that share none, or were not scored on the same clips,
        are left out.
        """
        pairs = [(variant, self.held(variant)) for variant in self.variants]
        found = ((one.name, _tested(one, held)) for one, held in pairs if one is not held)
        return {name: test for name, test in found if test is not None}

    def verdict(self, *, told: bool) -> list[str]:
        """Variants that are told apart from what they are held against, or those that are not."""
        return [name for name, test in self.tests.items() if test.significant is told]

    @property
    def against(self) -> dict[str, str]:
        """Variant -> what it is held against, where that is not the base."""
        return {one.name: one.against for one in self.variants if one.against is not None}

    @property
    def extremes(self) -> tuple[Variant | None, Variant | None]:
        """Of the variants beside the base, the one with the lowest score and with the highest."""
        beside = [v for v in self.variants if v.against is None]
        gains = [(gain, v) for v in beside if (gain := self.gain(v)) is not None]
        ranked = [variant for _, variant in sorted(gains, key=lambda pair: pair[0])]
        return (ranked[0] if len(ranked) > 1 else None, ranked[-1] if ranked else None)

    @property
    def seeds(self) -> int:
        """The most seeds that any variant has a score of."""
        return max(len(variant.scored) for variant in self.variants)

    @property
    def done(self) -> int:
        """Runs with a score."""
        return sum(len(variant.scored) for variant in self.variants)

    @property
    def planned(self) -> int:
        """Runs with a score, those that failed, and those still to come."""
        missing = sum(variant.waiting + len(variant.errors) for variant in self.variants)
        return self.done + missing

    def shared(self, variant: Variant) -> str:
        """That a variant's run, or the weights of it, are not this variant's alone."""
        return next((self._shared(variant, run) for run, _ in variant.scored), "")

    def _shared(self, variant: Variant, run: RunView) -> str:
        if run.begun is not None:
            return f"goes on from run {run.begun}" if run.learnt else f"weights of run {run.begun}"
        own = f"{self.name}-{variant.name}"
        return "" if run.pipeline.name == own else f"run {run.name}"


def _counted(variants: Sequence[Variant]) -> str:
    runs, words = sum(len(one.scored) for one in variants), human.count(len(variants), "variant")
    return words if runs == len(variants) else f"{words}, {human.count(runs, 'run')}"


def _measured(card: Evaluation) -> tuple[tuple[str, ...], Measure]:
    clips = tuple(line.id for line in card.lines)
    hypotheses = [line.hypothesis for line in card.lines]
    references = [line.reference for line in card.lines]
    return clips, bleu4_measure(hypotheses, references, tokenize=card.headline["tokenize"])


def _tested(variant: Variant, base: Variant) -> SeedsDifference | None:
    seeds = [seed for seed in variant.measured if seed in base.measured]
    pairs = [(variant.measured[seed], base.measured[seed]) for seed in seeds]
    clips = {clips for pair in pairs for clips, _ in pair}
    if len(clips) != 1 or len(clips.pop()) < 2:
        return None
    owns, helds = [own for (_, own), _ in pairs], [held for _, (_, held) in pairs]
    return seeds_difference(owns, helds, trials=_TRIALS)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that ``reproduce --all`` has finished so far."""

    corpus: str
    set: tuple[str, ...]
    seeds: tuple[int, ...]
    experiments: tuple[Experiment, ...]
    runs: tuple[RunView, ...]
    """Every run once, in the order in which experiments name them."""
    shapley: Contributions | None
    """What SE, ME and VT-Align contribute; None where it was not divided."""


def holds_experiments(folder: Path) -> bool:
    """Whether a folder is one of experiments and not of a run."""
    return (folder / RESULTS).is_file()


def read_results(folder: Path, roots: Sequence[str] | None = None) -> Results:
    """Read ``results.json``, every run that it names, and ``shapley.json`` where it is.

    Args:
        roots: to look for the runs' stores in; None is SPAMO_CACHE's.

    Raises:
        SpamoError: a file is damaged.
    """
    results = results_file.read_results(folder / RESULTS)
    shapley = folder / DOCUMENT
    runs = _runs(folder, results.experiments, roots)
    return Results(
        corpus=results.corpus,
        set=tuple(results.set),
        seeds=tuple(results.seeds),
        experiments=tuple(_experiment(one, folder, runs) for one in results.experiments),
        runs=tuple(runs.values()),
        shapley=read_contributions(shapley) if shapley.exists() else None,
    )


def _runs(
    folder: Path, experiments: Sequence[ExperimentResult], roots: Sequence[str] | None
) -> dict[Path, RunView]:
    """Resolved folder -> run; those that do not lie there yet are left out."""
    runs: dict[Path, RunView] = {}
    trials = (trial for one in experiments for variant in one.variants for trial in variant.runs)
    for trial in trials:
        path = _run_path(folder, trial)
        if path is not None and path not in runs:
            with suppress(UsageError):
                runs[path] = read_run(path, roots)
    return dict(zip(runs, with_distinct_names(list(runs.values())), strict=True))


def _run_path(folder: Path, trial: TrialResult) -> Path | None:
    return (folder / trial.path).resolve() if trial.path else None


def _experiment(result: ExperimentResult, folder: Path, runs: Mapping[Path, RunView]) -> Experiment:
    return Experiment(
        name=result.name,
        question=result.question,
        paper=result.paper,
        axis=result.axis,
        variants=tuple(_variant(one, folder, runs) for one in result.variants),
    )


def _variant(result: VariantResult, folder: Path, runs: Mapping[Path, RunView]) -> Variant:
    return Variant(
        name=result.name,
        label=result.label,
        x=result.x,
        set=result.set,
        eval_spec_set=result.eval_spec_set,
        trials=tuple(_trial(one, folder, runs) for one in result.runs),
        group=result.group,
        against=result.against,
    )


def _trial(result: TrialResult, folder: Path, runs: Mapping[Path, RunView]) -> Trial:
    path = _run_path(folder, result)
    run = runs.get(path) if path is not None else None
    cards = run.evaluations if run is not None else ()
    return Trial(
        seed=result.seed,
        error=result.error,
        run=run,
        evaluation=next((card for card in cards if card.name == result.evaluation), None),
    )
