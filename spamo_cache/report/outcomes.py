"""One experiment's answer: its table, and a curve or rows with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from spamo_cache.report import figures
from spamo_cache.report.experiments import Experiment, Variant
from spamo_cache.report.figures import Measured, Row
from spamo_cache.report.fit import Fit, fitted
from spamo_cache.report.markup import (
    Markup,
    join,
    millions,
    seconds,
    signed,
    size,
    slug,
    tag,
)
from spamo_cache.report.metrics import metric_name
from spamo_cache.report.parts import card, cell, legend, plus_minus, table

_SCORES = ("bleu4", "chrf", "rouge_l")


def place_of(experiment: Experiment) -> str:
    """Where an experiment stands on the page."""
    return f"experiment-{slug(experiment.name)}"


def answer(experiment: Experiment) -> Markup:
    """Question, what the paper says, the figure, the table, and what failed."""
    place = place_of(experiment)
    paper = join(tag("strong", "The paper: "), experiment.paper) if experiment.paper else None
    return tag(
        "section",
        tag("p", experiment.name, class_="eyebrow"),
        tag("h2", experiment.question, id=place),
        tag("p", paper, class_="lead") if paper else None,
        _figure(experiment),
        _table(experiment),
        _plus_minus(experiment),
        _failed(experiment),
        aria_labelledby=place,
        class_="experiment",
    )


def _plus_minus(experiment: Experiment) -> Markup | None:
    seeds = max(len(variant.scored) for variant in experiment.variants)
    if not seeds:
        return None
    if seeds > 1:
        told = f"Means of up to {seeds} seeds; ± is their standard deviation"
        told += ", for a single one half the 95 % interval."
    else:
        told = "One seed each; ± is half the 95 % bootstrap interval over clips, and knows "
        told += "nothing of what another seed would give."
    return tag("p", f"{told} Differences are to {experiment.first.name}.", class_="aside")


def _figure(experiment: Experiment) -> Markup | None:
    scored = [variant for variant in experiment.variants if variant.mean("bleu4") is not None]
    placed = [variant for variant in scored if variant.at is not None]
    if experiment.axis is not None and len({variant.at for variant in placed}) > 1:
        return _curve(experiment, placed)
    return _rows(experiment, scored) if scored else None


def _curve(experiment: Experiment, placed: Sequence[Variant]) -> Markup:
    """Scores along the axis; variants changed at the test alone are a curve of their own."""
    axis = experiment.axis
    trained = [variant for variant in placed if not variant.test]
    tested = [variant for variant in placed if variant.test]
    groups = {"trained and tested so": trained, "changed for the test only": tested}
    shown = {name: [_measured(v) for v in group] for name, group in groups.items() if group}
    fit = _scaling(trained)
    title = "BLEU-4 on test"
    drawn = figures.against(
        list(shown.values()),
        title=title,
        axis=axis.label if axis else "",
        log=bool(axis and axis.log),
        fit=fit,
    )
    words = tag("p", f"Dashed: {fit.words}.", class_="aside") if fit else None
    names = legend(list(shown))
    return tag("div", card(title, drawn, names, words), class_="grid wide")


def _measured(variant: Variant) -> Measured:
    return Measured(
        variant.name, variant.at or 0.0, variant.mean("bleu4") or 0.0, variant.bounds("bleu4")
    )


def _scaling(trained: Sequence[Variant]) -> Fit | None:
    """The law of scaling, where it is the amount of training data that is turned."""
    if not any("train_share" in variant.set for variant in trained):
        return None
    return fitted(
        [(variant.at or 0.0, score) for variant in trained for score in variant.scores("bleu4")]
    )


def _rows(experiment: Experiment, scored: Sequence[Variant]) -> Markup:
    first = experiment.first
    rows = []
    for variant in scored:
        seeds = variant.scores("bleu4")
        shown = tuple(seeds) if len(seeds) > 1 else ()
        rows.append(Row(variant.name, fmean(seeds), variant.bounds("bleu4"), seeds=shown))
    held = first.mean("bleu4")
    beside = None if held is None else (first.name, held)
    title = "BLEU-4 on test"
    drawn = figures.ranges(rows, title, beside=beside)
    return tag("div", card(title, drawn), class_="grid wide")


_Column = tuple[str, Callable[[Variant], Markup]]


def _table(experiment: Experiment) -> Markup:
    shown = [key for key in _SCORES if any(v.scores(key) for v in experiment.variants)]
    columns: list[_Column] = [(metric_name(key), _score(key)) for key in shown]
    if "bleu4" in shown:
        columns.insert(1, ("Δ BLEU-4", _difference(experiment.first)))
    columns += [
        ("dev BLEU", lambda v: cell(_mean(v, "best_bleu"), digits=1)),
        ("trained", lambda v: _told(_mean(v, "trained"), millions)),
        ("training", lambda v: _told(_mean(v, "seconds"), seconds)),
    ]
    if any(_mean(variant, "peak_bytes") for variant in experiment.variants):
        columns.append(("memory", lambda v: _told(_mean(v, "peak_bytes"), size)))
    columns.append(("n", lambda v: cell(v.scored[0][1].n if v.scored else None, digits=0)))
    rows = [[_named(v), *(of(v) for _, of in columns)] for v in experiment.variants]
    head = ["variant", *(name for name, _ in columns)]
    return table(f"Experiment {experiment.name}", head, rows, class_="variants")


def _score(key: str) -> Callable[[Variant], Markup]:
    def shown(variant: Variant) -> Markup:
        value = variant.mean(key)
        return cell(None) if value is None else plus_minus(value, variant.half(key))

    return shown


def _difference(first: Variant) -> Callable[[Variant], Markup]:
    held = first.mean("bleu4")

    def shown(variant: Variant) -> Markup:
        value = variant.mean("bleu4")
        if value is None or held is None or variant is first:
            return cell(None)
        return cell(value - held, signed(value - held))

    return shown


def _named(variant: Variant) -> Markup:
    """Its name, with a link to every seed's run."""
    places = {trial.run.anchor: trial.seed for trial in variant.trials if trial.run}
    (first, *others) = places or [""]
    name = tag("a", variant.name, href=f"#{first}") if first else variant.name
    seeds = (join(" ", tag("a", f"seed {places[one]}", href=f"#{one}")) for one in others)
    return join(name, *seeds, tag("span", variant.tells, class_="why"))


def _mean(variant: Variant, key: str) -> float | None:
    known = [float(run.done[key]) for run, _ in variant.scored if run.done.get(key) is not None]
    return fmean(known) if known else None


def _told(value: float | None, words: Callable[[float], str]) -> Markup:
    return cell(None) if value is None else cell(value, words(value))


def _failed(experiment: Experiment) -> Markup:
    """What failed and why, and what is still to come."""
    reasons = [(v.name, reason) for v in experiment.variants for reason in v.errors]
    items = [tag("li", tag("strong", f"{name}:"), " ", reason) for name, reason in reasons]
    waiting = [variant.name for variant in experiment.variants if variant.waiting]
    return join(
        tag("ul", *items, class_="failures", aria_label="What failed") if items else None,
        tag("p", f"Not finished yet: {', '.join(waiting)}.", class_="aside") if waiting else None,
    )
