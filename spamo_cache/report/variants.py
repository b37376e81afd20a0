"""The table of an experiment: a row for each variant, with the run that stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean

from spamo_cache.report.experiments import Experiment, Variant
from spamo_cache.report.markup import Markup, join, millions, seconds, signed, size, tag
from spamo_cache.report.metrics import metric_name
from spamo_cache.report.parts import cell, plus_minus, table
from spamo_cache.report.runs import Run

_Column = tuple[str, Callable[[Variant], Markup]]


def variants(experiment: Experiment) -> Markup:
    """Scores, and what training took, of every variant."""
    rows = [
        [_named(experiment, variant), *(of(variant) for _, of in _columns(experiment))]
        for variant in experiment.variants
    ]
    head = ["variant", *(name for name, _ in _columns(experiment))]
    return table(f"Experiment {experiment.name}", head, rows, class_="variants")


def _columns(experiment: Experiment) -> Iterator[_Column]:
    if any(variant.scored for variant in experiment.variants):
        yield "BLEU-4", lambda v: _score(v, "bleu4")
        yield "Δ BLEU-4", lambda v: _difference(experiment.gain(v))
        yield "chrF", lambda v: _score(v, "chrf")
        yield "ROUGE-L", _rouge
        yield "BLEU-4 on dev", lambda v: cell(_mean(v, "best_bleu", _chosen_on_dev), digits=1)
    yield "trained parameters", lambda v: _told(_mean(v, "trained"), millions)
    yield "training time", lambda v: _told(_mean(v, "seconds"), seconds)
    if any(_mean(variant, "peak_bytes") for variant in experiment.variants):
        yield "peak memory", lambda v: _told(_mean(v, "peak_bytes"), size)
    yield "test clips", lambda v: cell(v.scored[0][1].n if v.scored else None, digits=0)


def _difference(gain: float | None) -> Markup:
    return cell(gain, signed(gain))


def _score(variant: Variant, key: str) -> Markup:
    value = variant.mean(key)
    return cell(None) if value is None else plus_minus(value, variant.half(key))


def _rouge(variant: Variant) -> Markup:
    """The ROUGE-L that the scorecard quotes; one of another kind says so."""
    kind = metric_name(variant.rouge).partition(", ")[2]
    return join(_score(variant, variant.rouge), tag("small", kind) if kind else None)


def _named(experiment: Experiment, variant: Variant) -> Markup:
    """Its name, with a link to every seed's run; what it is; whose run or weights it shares."""
    places = {trial.run.anchor: trial.seed for trial in variant.trials if trial.run}
    (first, *others) = places or [""]
    name = tag("a", variant.name, href=f"#{first}") if first else variant.name
    seeds = (join(" ", tag("a", f"seed {places[one]}", href=f"#{one}")) for one in others)
    shared = next((_shared(experiment, variant, run) for run, _ in variant.scored), "")
    told = (tag("span", words, class_="why") for words in (variant.label, shared) if words)
    return join(name, *seeds, *told)


def _shared(experiment: Experiment, variant: Variant, run: Run) -> str:
    """That its run, or the weights of it, are not this variant's alone."""
    if run.begun is not None:
        return f"goes on from run {run.begun}" if run.learnt else f"weights of run {run.begun}"
    own = f"{experiment.name}-{variant.name}"
    return "" if run.pipeline.name == own else f"run {run.name}"


def _chosen_on_dev(run: Run) -> bool:
    return run.chosen_on == "dev"


def _mean(variant: Variant, key: str, fits: Callable[[Run], bool] = lambda _: True) -> float | None:
    """A number of training, over the seeds; of none where nothing was trained."""
    runs = [run for run, _ in variant.scored if run.learnt and fits(run)]
    numbers = [getattr(run.done, key, None) for run in runs]
    known = [float(number) for number in numbers if number is not None]
    return fmean(known) if known else None


def _told(value: float | None, words: Callable[[float], str]) -> Markup:
    return cell(None) if value is None else cell(value, words(value))
