"""All experiments in one table: what each is held against, and how far the others lie from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spamo_cache.report.experiments import Experiment, Variant
from spamo_cache.report.markup import Child, Markup, join, number, signed, tag
from spamo_cache.report.outcomes import place_of
from spamo_cache.report.parts import cell, section, table


def overview(experiments: Sequence[Experiment]) -> Markup:
    """A row for each experiment, with a link to it."""
    lead = (
        "BLEU-4 on test of the variant that all are held against, and how far the lowest and the "
        "highest of the others lie from it. Extremes are chosen by the very score that is shown, "
        "which flatters; the tables below have every variant with its interval."
    )
    head = ["experiment", "question", "held against", "lowest other", "highest other", "runs"]
    rows = [_row(one) for one in experiments]
    listed = table("Experiments", head, rows, numeric=2, class_="overview")
    return section("page", "Overview", lead, listed)


def _row(one: Experiment) -> list[Child]:
    link = tag("a", one.name, href=f"#{place_of(one)}")
    held, base = one.base.mean("bleu4"), one.base
    others = sorted((v for v in one.variants if one.gain(v) is not None), key=_gain(one))
    ends = (others[0] if len(others) > 1 else None, others[-1] if others else None)
    shown = (_told(one.gain(v), signed(one.gain(v)), v) if v else cell(None) for v in ends)
    return [link, one.question, _told(held, number(held, 1), base), *shown, _runs(one)]


def _gain(one: Experiment) -> Callable[[Variant], float]:
    return lambda variant: one.gain(variant) or 0.0


def _told(value: float | None, shown: str, variant: Variant) -> Markup:
    return join(cell(value, shown), tag("small", variant.name))


def _runs(one: Experiment) -> Markup:
    done = sum(len(variant.scored) for variant in one.variants)
    missing = sum(variant.waiting + len(variant.errors) for variant in one.variants)
    return cell(done, f"{done} of {done + missing}")
