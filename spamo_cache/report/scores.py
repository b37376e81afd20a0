"""What a run scored and how it learnt: its figures, warnings, scorecard and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report import figures
from spamo_cache.report.figures import Point, Series
from spamo_cache.report.formats import METRICS, metric_name, millions, number
from spamo_cache.report.runs import RunView
from spamo_cache.report.templating import colour, render, template_filter
from spamo_cache.runs.records import Evaluation, Group, LanguagePrior, Scorecard

_DRAWN = ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l", "bleurt")
_NOTES = {
    "ter": "edits per 100 words of the reference: lower is better",
    "rouge_l": "F1 of the longest common subsequence, words of any script",
    "rouge_l_official": "the release's: a-z and 0-9 alone, English endings taken off",
    "rouge_l_coco": "MSCOCO's: recall weighs 1.2 times as much",
    "bleurt": "a learned metric",
}
_MAX_NAMES = 3
"""Runs, or wordings of one warning, that are listed one by one."""
_GROUPS = 50
"""Groups of a column that a page shows; all are in the scorecard."""
_Sources = Sequence[tuple[str, str]]
"""(key of the metrics, stage): the first that was logged counts."""
_ALIGN: _Sources = (("align", "align"), ("loss", "align"))
_LM: _Sources = (("lm", "translate"), ("loss", "translate"))
_BLEU: _Sources = (("dev_bleu", "translate"),)


@dataclass(frozen=True)
class Card:
    """One of the few numbers that a reader takes home."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Banner:
    """Something to be read before any number."""

    title: str
    words: str
    severe: bool = True


def cards(run: RunView) -> list[Card]:
    """The headline's scores, its clips, retrieval and the size of what was trained."""
    shown, done = run.headline, run.done
    listed: list[Card] = []
    if shown is not None:
        listed += [
            Card(metric_name(key), number(shown.metrics[key], 1), _interval(shown, key))
            for key in ("bleu4", "chrf", shown.rouge)
            if key in shown.metrics
        ]
        failed = f"{len(shown.failed):,} without features" if shown.failed else "every one scored"
        listed.append(Card(f"clips of {shown.name}", f"{shown.n:,}", failed))
    if done is not None and done.recall is not None:
        note = f"{run.chosen_on}, after VT-Align"
        listed.append(Card("recall@1", f"{100 * done.recall:.0f} %", note))
    if done is not None and run.learnt and done.trained:
        note = "parameters, encoders too" if run.pipeline.encoders else "parameters"
        if done.adapter is not None:
            note += f", {millions(done.adapter)} in the adapter"
        listed.append(Card("trained", millions(done.trained), note))
    return listed


def _interval(shown: Evaluation, key: str) -> str:
    bounds = shown.intervals.get(key)
    return f"95 %: {number(bounds[0], 1)} to {number(bounds[1], 1)}" if bounds else "no interval"


def banners(runs: Sequence[RunView]) -> list[Banner]:
    """What must be known before any number is read."""
    notes = []
    for name in dict.fromkeys(run.pipeline.corpus for run in runs):
        corpus = CORPORA.get(name)
        if corpus is not None and corpus.synthetic:
            words = (
                f"{corpus.name} is drawn by a program and its signs are invented. Scores here say "
                "that the method works end to end, nothing about any sign language."
            )
            notes.append(Banner("Synthetic corpus.", words))
    if unfinished := [run.name for run in runs if run.done is None]:
        words = f"Training of {', '.join(unfinished)} has not ended; numbers may still change."
        notes.append(Banner("Unfinished.", words))
    if floors := [run.name for run in runs if run.pipeline.shuffle_features]:
        words = f"{', '.join(floors)}: every clip has another clip's features, on purpose."
        notes.append(Banner("A floor, not a result.", words))
    return notes + _warnings(runs)


def _warnings(runs: Sequence[RunView]) -> list[Banner]:
    """What would mislead, severe warnings first; what several runs share is said once."""
    kinds: dict[tuple[bool, str], dict[str, list[str]]] = {}
    for run in runs:
        for warning in run.headline.warnings if run.headline else ():
            kind = kinds.setdefault((warning.severity == "warning", warning.kind), {})
            kind.setdefault(warning.words, []).append(run.name)
    ranked = sorted(kinds.items(), key=lambda item: not item[0][0])
    return [
        Banner("Careful:" if severe else "Note:", words, severe)
        for (severe, _), names_of in ranked
        for words in _of_runs(names_of, len(runs))
    ]


def _of_runs(names_of: Mapping[str, Sequence[str]], runs: int) -> list[str]:
    """The words of a kind of warning, and whose they are; those of many runs by their first."""
    if runs == 1:
        return list(names_of)
    if len(names_of) > _MAX_NAMES:
        (words, (first, *_)), *_ = names_of.items()
        count = sum(map(len, names_of.values()))
        others = f"much the same holds for {count - 1} more of {runs} runs"
        return [f"{words} ({first}; {others})"]
    return [
        f"{words} ({', '.join(names)})"
        if len(names) <= _MAX_NAMES
        else f"{words} ({len(names)} of {runs} runs)"
        for words, names in names_of.items()
    ]


def scores(run: RunView) -> Markup:
    """Every evaluation of the run with its intervals, and the headline drawn."""
    shown = run.headline
    if shown is None:
        return render("scores.html", run=run, shown=None)
    published = {key for system in shown.published for key in system.metrics}
    return render(
        "scores.html",
        run=run,
        shown=shown,
        table=score_table(run),
        intervals=_intervals(shown),
        histogram=_histogram(shown),
        headline_bleu=next((one.bleu4 for one in shown.conventions if one.headline), None),
        published_keys=[key for key in METRICS if key in published],
        group_keys=[
            key for key in ("bleu4", "chrf", shown.rouge, "bleurt") if key in shown.metrics
        ],
        grouped={column: groups[:_GROUPS] for column, groups in shown.groups.items()},
        left_out={column: groups[_GROUPS:] for column, groups in shown.groups.items()},
    )


def score_table(run: RunView) -> Markup:
    """Every evaluation of a run, the headline first."""
    keys = [key for key in METRICS if any(key in e.metrics for e in run.evaluations)]
    return render(
        "score_table.html",
        run=run,
        keys=keys,
        evaluations=sorted(run.evaluations, key=lambda e: e is not run.headline),
        notes={key: _NOTES[key] for key in keys if key in _NOTES},
    )


@template_filter
def half_width(card: Scorecard | Group | LanguagePrior, key: str) -> float | None:
    """Half the width of a metric's interval; None where it has none."""
    bounds = card.intervals.get(key)
    return (bounds[1] - bounds[0]) / 2 if bounds else None


def _intervals(shown: Evaluation) -> Markup | None:
    drawn = [
        (metric_name(key), shown.metrics[key], shown.intervals.get(key))
        for key in _DRAWN
        if key in shown.metrics
    ]
    title = f"Scores on {shown.name} with 95 % intervals"
    return figures.intervals(drawn, title) if drawn else None


def _histogram(shown: Evaluation) -> Markup:
    if not shown.lines:
        return Markup('<p class="empty">No translations were kept.</p>')
    return figures.histogram([line.chrf for line in shown.lines], title="chrF of single clips")


class Curves(NamedTuple):
    """A figure of the learning curves, and what has to be known to read it."""

    drawing: Markup
    note: str = ""


def learning(runs: Sequence[RunView], place: str) -> Markup:
    """Align loss, translation loss and BLEU on the split of choice, a line for each run."""
    split = " and ".join(dict.fromkeys(run.chosen_on for run in runs))
    # Keys of the metrics are the same, whichever split weights are chosen on.
    drawn = {
        "Aligning: VT-Align loss": _curves(runs, "VT-Align loss", _ALIGN),
        "Translating: cross-entropy, nats a token": _losses(runs, split),
        f"Translating: BLEU-4 on {split}": _curves(runs, f"BLEU-4 on {split}", _BLEU, best=True),
    }
    return render(
        "learning.html", place=place, split=split, drawn=drawn, names=[run.name for run in runs]
    )


def _curves(
    runs: Sequence[RunView], title: str, sources: _Sources, *, best: bool = False
) -> Curves:
    series = [Series(run.name, _curve(run, sources), colour(i)) for i, run in enumerate(runs)]
    return Curves(figures.curves(series, title=title, best=best))


def _losses(runs: Sequence[RunView], split: str) -> Curves:
    """The loss of training batches and, where it was logged, that of the split of choice."""
    series = [Series(run.name, _curve(run, _LM), colour(i)) for i, run in enumerate(runs)]
    chosen = [
        Series(f"{run.name} on {run.chosen_on}", points, colour(i), dashed=True)
        for i, run in enumerate(runs)
        if (points := run.curve("dev_loss", "translate"))
    ]
    drawing = figures.curves([*series, *chosen], title="Cross-entropy, nats a token")
    return Curves(drawing, f"Solid: training batches. Dashed: all of {split}." if chosen else "")


def _curve(run: RunView, sources: _Sources) -> Sequence[Point]:
    """The first of some metrics that was logged."""
    return next((points for key, stage in sources if (points := run.curve(key, stage))), [])
