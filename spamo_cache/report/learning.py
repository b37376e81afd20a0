"""Learning curves of one run or several."""

from __future__ import annotations

from collections.abc import Sequence

from spamo_cache.report import figures
from spamo_cache.report.figures import Point, Series
from spamo_cache.report.markup import Markup, tag
from spamo_cache.report.parts import card, colour, legend, section
from spamo_cache.report.runs import Run

_LOSSES = (
    ("Aligning: VT-Align loss", (("align", "align"), ("loss", "align"))),
    ("Translating: cross-entropy, nats a token", (("lm", "translate"), ("loss", "translate"))),
)
_SCORE = (("dev_bleu", "translate"),)
"""Its key, whichever split weights are chosen on."""


def learning(runs: Sequence[Run], place: str) -> Markup:
    """Align loss, translation loss and dev BLEU over steps, a line for each run."""
    drawn = []
    split = " and ".join(dict.fromkeys(run.chosen_on for run in runs))
    scored = (f"Translating: BLEU-4 on {split}", _SCORE)
    for title, sources in (*_LOSSES, scored):
        series = [Series(run.name, _first(run, sources), colour(i)) for i, run in enumerate(runs)]
        drawn.append(card(title, figures.curves(series, title=title, best=sources is _SCORE)))
    lead = (
        "First the sign adapter learns to place clips beside their sentences, then the translator "
        f"learns to write. The weights kept are those of the best BLEU-4 on {split}."
    )
    names = legend([run.name for run in runs])
    return section(place, "Learning curves", lead, names, tag("div", *drawn, class_="grid three"))


def _first(run: Run, sources: Sequence[tuple[str, str | None]]) -> Sequence[Point]:
    return next((points for key, stage in sources if (points := run.curve(key, stage))), [])
