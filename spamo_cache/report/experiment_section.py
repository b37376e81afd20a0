"""One experiment on the page: a curve or rows with their intervals, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from statistics import fmean
from typing import Literal

from markupsafe import Markup

from spamo_cache.report import figures
from spamo_cache.report.analysis import compare_alignment
from spamo_cache.report.experiments import Experiment, Variant
from spamo_cache.report.figures import Measured, Row
from spamo_cache.report.templating import render

LEAST = 3
"""Points below which a law of two numbers says nothing."""


def experiment_section(experiment: Experiment) -> Markup:
    """Question, what the paper says, the figure, the table, and what failed."""
    base, variants = experiment.base, experiment.variants
    others = [v for v in variants if v is not base and v.scored]
    trained = [variant for variant in variants if not variant.eval_spec_set]
    return render(
        "experiment.html",
        experiment=experiment,
        figure=_figure(experiment),
        any_memory=any(variant.training("peak_bytes") for variant in variants),
        # A difference of nothing there is no finding.
        unmoved=[v.name for v in others if _quoted(v) == _quoted(base) and not v.against],
        failures=[(v.name, reason) for v in variants for reason in v.errors],
        waiting=[variant.name for variant in variants if variant.waiting],
        aligned=compare_alignment({v.name: run for v in trained for run, _ in v.scored[:1]}),
    )


def _quoted(variant: Variant) -> list[tuple[Mapping[str, float], str]]:
    return [(shown.metrics, shown.rouge) for _, shown in variant.scored]


@dataclass(frozen=True)
class _Figure:
    drawing: Markup
    note: str
    groups: Sequence[str] = ()
    """Names of its colours."""


def _figure(experiment: Experiment) -> _Figure | None:
    scored = [variant for variant in experiment.variants if variant.mean("bleu4") is not None]
    placed = [variant for variant in scored if variant.x is not None]
    if experiment.axis is not None and len({variant.x for variant in placed}) > 1:
        return _curve(experiment, placed)
    return _rows(experiment, scored) if scored else None


def _curve(experiment: Experiment, placed: Sequence[Variant]) -> _Figure:
    """Scores along the axis; variants changed at the test alone, and groups, are curves."""
    axis = experiment.axis
    trained = [variant for variant in placed if not variant.eval_spec_set]
    groups: dict[str, list[Variant]] = {}
    for variant in trained:
        groups.setdefault(variant.group or "trained and tested so", []).append(variant)
    groups |= _tested(placed)
    shown = {name: [_measured(v) for v in group] for name, group in groups.items() if group}
    fit = _scaling(trained)
    drawing = figures.against(
        list(shown.values()),
        title="BLEU-4 on test",
        axis=axis.label if axis else "",
        log=bool(axis and axis.log),
        fit=fit,
    )
    note = _spread_note(experiment, "Bars")
    if fit and axis:
        note += f" Dashed: {fit.words}; x is the {axis.label}."
    return _Figure(drawing, note, list(shown))


def _rows(experiment: Experiment, scored: Sequence[Variant]) -> _Figure:
    base, rows = experiment.base, []
    for variant in (*scored, *experiment.groups):
        seeds = variant.scores("bleu4")
        shown = tuple(seeds) if len(seeds) > 1 else ()
        rows.append(Row(variant.name, fmean(seeds), variant.bounds("bleu4"), seeds=shown))
    score = base.mean("bleu4")
    beside = None if score is None else (base.name, score)
    note = _spread_note(experiment, "Bands") + (f" Dashed: “{base.name}”." if beside else "")
    for group in experiment.groups:
        note += f" Of “{group.name}”: standard deviation over its variants."
    return _Figure(figures.ranges(rows, "BLEU-4 on test", beside=beside, broad=True), note)


def _spread_note(experiment: Experiment, mark: str) -> str:
    """What bands or bars of a figure are: it may be shown without its table."""
    if experiment.seeds < 2:
        return f"{mark}: 95 % interval over clips of one seed."
    return f"{mark}: standard deviation over up to {experiment.seeds} seeds."


def _tested(placed: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Under its name, what is changed at the test alone; tests of the base begin with it."""
    tested = [variant for variant in placed if variant.eval_spec_set]
    base = [variant for variant in placed if not variant.eval_spec_set and not variant.set]
    if not base or any(variant.set for variant in tested):
        return {"changed for the test only": tested}
    return {f"“{base[0].name}” tested so": [*base, *tested]} if tested else {}


def _measured(variant: Variant) -> Measured:
    score, bounds = variant.mean("bleu4") or 0.0, variant.bounds("bleu4")
    return Measured(variant.name, variant.x or 0.0, score, bounds)


def _scaling(trained: Sequence[Variant]) -> Fit | None:
    """The law of scaling, where it is the amount of training data that is turned."""
    one = len({variant.group for variant in trained}) == 1
    if not one or not any("train_fraction" in variant.set for variant in trained):
        return None
    return fitted(
        [(variant.x or 0.0, score) for variant in trained for score in variant.scores("bleu4")]
    )


@dataclass(frozen=True)
class Fit:
    """``y = a + b ln x``, or ``y = a x^b``; ``residual`` is the standard error of the points.

    It divides by the degrees of freedom (points less the two numbers fitted), so that three
    points do not look better than ten.
    """

    law: Literal["logarithm", "power"]
    a: float
    b: float
    residual: float
    points: int

    def __call__(self, x: float) -> float:
        return self.a + self.b * log(x) if self.law == "logarithm" else self.a * x**self.b

    @property
    def words(self) -> str:
        """The law in words of its field: what a doubling brings."""
        spread = f"residual standard error {self.residual:.2f}, {self.points} runs"
        if self.law == "logarithm":
            doubling = f"{self.b * log(2):+.1f}".replace("-", "−")
            return f"y = {self.a:.1f} + {self.b:.2f} ln x: {doubling} for each doubling; {spread}"
        return f"y = {self.a:.1f} x^{self.b:.3f}: times {2**self.b:.2f} for each doubling; {spread}"


def fitted(points: Sequence[tuple[float, float]]) -> Fit | None:
    """The law that leaves the smaller residual; None below :data:`LEAST` different places.

    A power law is fitted in logarithms, which takes scores above 0; both are judged by what they
    leave in points of the score.
    """
    if len({x for x, _ in points}) < LEAST or any(x <= 0 for x, _ in points):
        return None
    xs, ys = [log(x) for x, _ in points], [y for _, y in points]
    laws: list[tuple[Literal["logarithm", "power"], float, float]] = []
    laws.append(("logarithm", *_line(xs, ys)))
    if min(ys) > 0:
        start, slope = _line(xs, [log(y) for y in ys])
        laws.append(("power", exp(start), slope))
    return min((_judged(*law, points) for law in laws), key=lambda fit: fit.residual)


def _judged(
    law: Literal["logarithm", "power"], a: float, b: float, points: Sequence[tuple[float, float]]
) -> Fit:
    fit = Fit(law, a, b, 0.0, len(points))
    squares = sum((y - fit(x)) ** 2 for x, y in points)
    return replace(fit, residual=sqrt(squares / (len(points) - 2)))


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Start and slope of the line of least squares."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    slope = over / sum((x - x_mean) ** 2 for x in xs)
    return y_mean - slope * x_mean, slope
