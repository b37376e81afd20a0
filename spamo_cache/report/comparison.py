"""Several runs beside one another, then each one's own parts."""

from __future__ import annotations

from collections.abc import Sequence

from spamo_cache.report import scores
from spamo_cache.report.confusions import Frames
from spamo_cache.report.learning import learning
from spamo_cache.report.markup import Child, Markup, join, number, tag
from spamo_cache.report.metrics import metric_name
from spamo_cache.report.parts import cell, section, table
from spamo_cache.report.runs import Run
from spamo_cache.report.single import banners, folded, page_header, run_parts

_COMPARED = ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l")


def compared_runs(runs: Sequence[Run], title: str, frames: Frames | None) -> Markup:
    """The whole page of several runs."""
    questions = tag(
        "dl",
        *(join(tag("dt", run.name), tag("dd", run.pipeline.question)) for run in runs),
        class_="questions",
    )
    top = page_header(f"{len(runs)} runs compared", title, None, banners(runs), questions)
    each = []
    for run in runs:
        parts = run_parts(run, frames)
        del parts["Learning curves"]  # those of all runs stand above
        each.append(folded(run, [scores.cards(run), *parts.values()]))
    return join(top, tag("main", _comparison(runs), learning(runs, "all"), *each))


def _comparison(runs: Sequence[Run]) -> Markup:
    keys = [
        key
        for key in _COMPARED
        if any(run.headline and key in run.headline.metrics for run in runs)
    ]
    rows: list[list[Child]] = []
    for run in runs:
        shown = run.headline
        metrics = shown.metrics if shown else {}
        bounds = shown.intervals.get("bleu4") if shown else None
        spread = f"{number(bounds[0], 1)} to {number(bounds[1], 1)}" if bounds else "–"
        clips = cell(shown.n, digits=0) if shown else "–"
        values = [cell(metrics.get(key)) for key in keys]
        name = tag("a", run.name, href=f"#{run.anchor}")
        rows.append([name, shown.name if shown else "–", *values, spread, clips])
    head = ["run", "split", *map(metric_name, keys), "BLEU-4, 95 %", "n"]
    lead = "Intervals that overlap are no proof of a difference; a single seed is no proof either."
    return section("all", "Comparison", lead, table("Runs compared", head, rows, numeric=2))
