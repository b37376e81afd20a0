"""Learning curves of one run or several."""

from __future__ import annotations

from collections.abc import Sequence

from spamo_cache.report import figures
from spamo_cache.report.figures import Point, Series
from spamo_cache.report.markup import Markup, tag
from spamo_cache.report.parts import card, colour, legend, section
from spamo_cache.report.runs import Run

_CURVES = (
    ("Aligning: VT-Align loss", (("align", "align"), ("loss", "align")), False),
    ("Translating: cross-entropy", (("lm", "translate"), ("loss", "translate")), False),
    ("Translating: BLEU-4 on dev", (("dev_bleu", "translate"),), True),
)


def learning(runs: Sequence[Run], place: str) -> Markup:
    """Align loss, translation loss and dev BLEU over steps, a line for each run."""
    drawn = []
    for title, sources, best in _CURVES:
        series = [Series(run.name, _first(run, sources), colour(i)) for i, run in enumerate(runs)]
        drawn.append(card(title, figures.curves(series, title=title, best=best)))
    lead = (
        "First the sign adapter learns to place clips beside their sentences, then the translator "
        "learns to write. The weights kept are those of the best dev BLEU."
    )
    names = legend([run.name for run in runs])
    return section(place, "Learning curves", lead, names, tag("div", *drawn, class_="grid three"))


def _first(run: Run, sources: Sequence[tuple[str, str | None]]) -> Sequence[Point]:
    return next((points for key, stage in sources if (points := run.curve(key, stage))), [])
