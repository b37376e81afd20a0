"""One experiment's answer: a curve or rows with their intervals, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from spamo_cache.report import figures
from spamo_cache.report.alignment import alignments
from spamo_cache.report.experiments import Experiment, Variant
from spamo_cache.report.figures import Measured, Row
from spamo_cache.report.fit import Fit, fitted
from spamo_cache.report.markup import Markup, join, slug, tag
from spamo_cache.report.parts import card, legend
from spamo_cache.report.variants import variants


def place_of(experiment: Experiment) -> str:
    """Where an experiment stands on the page."""
    return f"experiment-{slug(experiment.name)}"


def answer(experiment: Experiment) -> Markup:
    """Question, what the paper says, the figure, the table, and what failed."""
    place = place_of(experiment)
    trained = [variant for variant in experiment.variants if not variant.eval_spec_set]
    paper = join(tag("strong", "The paper: "), experiment.paper) if experiment.paper else None
    return tag(
        "section",
        tag("p", experiment.name, class_="eyebrow"),
        tag("h2", experiment.question, id=place),
        tag("p", paper, class_="lead") if paper else None,
        _figure(experiment),
        variants(experiment),
        _plus_minus(experiment),
        _unmoved(experiment),
        _failed(experiment),
        alignments({v.name: run for v in trained for run, _ in v.scored[:1]}),
        aria_labelledby=place,
        class_="experiment",
    )


def _seeds(experiment: Experiment) -> int:
    return max(len(variant.scored) for variant in experiment.variants)


def _plus_minus(experiment: Experiment) -> Markup | None:
    seeds = _seeds(experiment)
    if not seeds:
        return None
    if seeds > 1:
        told = f"Means of up to {seeds} seeds; ± is their standard deviation"
        told += ", for a single one half the 95 % interval."
    else:
        told = "One seed each; ± is half the 95 % bootstrap interval over clips, and knows "
        told += "nothing of what another seed would give."
    return tag("p", f"{told} Δ is to “{experiment.base.name}”.", class_="aside")


def _unmoved(experiment: Experiment) -> Markup | None:
    """Variants that scored the very same: a difference of nothing there is no finding."""
    base = experiment.base
    others = [v for v in experiment.variants if v is not base and v.scored]
    same = [v.name for v in others if _quoted(v) == _quoted(base)]
    words = f"Equal to “{base.name}” in every score, so that these runs tell nothing of them"
    return tag("p", f"{words}: {', '.join(same)}.", class_="aside") if same else None


def _quoted(variant: Variant) -> list[tuple[Mapping[str, float], str]]:
    return [(shown.metrics, shown.rouge) for _, shown in variant.scored]


def _drawn_spread(experiment: Experiment, mark: str) -> str:
    """What bands or bars of a figure are: it may be shown without its table."""
    over = "95 % interval over clips of one seed"
    seeds = _seeds(experiment)
    return f"{mark}: {over if seeds < 2 else f'standard deviation over up to {seeds} seeds'}."


def _figure(experiment: Experiment) -> Markup | None:
    scored = [variant for variant in experiment.variants if variant.mean("bleu4") is not None]
    placed = [variant for variant in scored if variant.x is not None]
    if experiment.axis is not None and len({variant.x for variant in placed}) > 1:
        return _curve(experiment, placed)
    return _rows(experiment, scored) if scored else None


def _curve(experiment: Experiment, placed: Sequence[Variant]) -> Markup:
    """Scores along the axis; variants changed at the test alone are a curve of their own."""
    axis = experiment.axis
    trained = [variant for variant in placed if not variant.eval_spec_set]
    groups = {"trained and tested so": trained} | _tested(placed)
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
    told = _drawn_spread(experiment, "Bars")
    if fit and axis:
        told += f" Dashed: {fit.words}; x is the {axis.label}."
    note = tag("p", told, class_="aside")
    return tag("div", card(title, drawn, legend(list(shown)), note), class_="grid wide")


def _tested(placed: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Under its name, what is changed at the test alone; tests of the base begin with it."""
    tested = [variant for variant in placed if variant.eval_spec_set]
    base = [variant for variant in placed if not variant.eval_spec_set and not variant.set]
    if not base or any(variant.set for variant in tested):
        return {"changed for the test only": tested}
    return {f"“{base[0].name}” tested so": [*base, *tested]} if tested else {}


def _measured(variant: Variant) -> Measured:
    return Measured(
        variant.name, variant.x or 0.0, variant.mean("bleu4") or 0.0, variant.bounds("bleu4")
    )


def _scaling(trained: Sequence[Variant]) -> Fit | None:
    """The law of scaling, where it is the amount of training data that is turned."""
    if not any("train_fraction" in variant.set for variant in trained):
        return None
    return fitted(
        [(variant.x or 0.0, score) for variant in trained for score in variant.scores("bleu4")]
    )


def _rows(experiment: Experiment, scored: Sequence[Variant]) -> Markup:
    base = experiment.base
    rows = []
    for variant in scored:
        seeds = variant.scores("bleu4")
        shown = tuple(seeds) if len(seeds) > 1 else ()
        rows.append(Row(variant.name, fmean(seeds), variant.bounds("bleu4"), seeds=shown))
    held = base.mean("bleu4")
    beside = None if held is None else (base.name, held)
    title = "BLEU-4 on test"
    drawn = figures.ranges(rows, title, beside=beside)
    told = _drawn_spread(experiment, "Bands")
    told += f" Dashed: “{base.name}”." if beside else ""
    note = tag("p", told, class_="aside")
    return tag("div", card(title, drawn, note), class_="grid wide")


def _failed(experiment: Experiment) -> Markup:
    """What failed and why, and what is still to come."""
    reasons = [(v.name, reason) for v in experiment.variants for reason in v.errors]
    items = [tag("li", tag("strong", f"{name}:"), " ", reason) for name, reason in reasons]
    waiting = [variant.name for variant in experiment.variants if variant.waiting]
    return join(
        tag("ul", *items, class_="failures", aria_label="What failed") if items else None,
        tag("p", f"Not finished yet: {', '.join(waiting)}.", class_="aside") if waiting else None,
    )
