"""The scorecard: every evaluation, every convention, published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spamo_cache.evaluate.conventions import Convention
from spamo_cache.evaluate.published import Published
from spamo_cache.report import figures
from spamo_cache.report.evaluations import Evaluation
from spamo_cache.report.markup import Child, Markup, join, millions, number, signed, tag
from spamo_cache.report.metrics import METRICS, NOTES, metric_name
from spamo_cache.report.parts import banner, card, cell, plus_minus, section, table
from spamo_cache.report.runs import Run

_DRAWN = ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l", "bleurt")


def cards(run: Run) -> Markup:
    """The few numbers that a reader takes home."""
    shown = run.headline
    found: list[tuple[str, str, str]] = []
    if shown is not None:
        found += [
            (metric_name(key), number(shown.metrics[key], 1), _interval(shown, key))
            for key in ("bleu4", "chrf", shown.rouge)
            if key in shown.metrics
        ]
        failed = f"{len(shown.failed):,} without features" if shown.failed else "every one scored"
        found.append((f"clips of {shown.name}", f"{shown.n:,}", failed))
    done = run.done
    if done is not None and done.recall is not None:
        found.append(("recall@1", f"{100 * done.recall:.0f} %", f"{run.chosen_on}, after VT-Align"))
    if done is not None and run.learnt and done.trained:
        found.append(("trained", millions(done.trained), _tuned(run)))
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="note"))
            for name, value, note in found
        ),
        class_="cards",
    )


def warnings(runs: Sequence[Run]) -> Markup | None:
    """What would mislead, grave things first; what several runs share is said once."""
    told: dict[tuple[bool, str], list[str]] = {}
    for run in runs:
        for warned in run.headline.warnings if run.headline else ():
            told.setdefault((not warned.grave, warned.words), []).append(run.name)
    notes = [
        banner("Careful:" if not mild else "Note:", _whose(words, names, runs), grave=not mild)
        for (mild, words), names in sorted(told.items(), key=lambda item: item[0][0])
    ]
    return join(*notes) if notes else None


def _whose(words: str, names: Sequence[str], runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return words
    whose = ", ".join(names) if len(names) <= 3 else f"{len(names)} of {len(runs)} runs"
    return f"{words} ({whose})"


def scores(run: Run) -> Markup:
    """Every evaluation of the run with its intervals, and the headline drawn."""
    shown = run.headline
    if shown is None:
        return section(run.anchor, "Scores", "This run has not been evaluated yet.")
    lead = (
        "Points of 100, with 95 % bootstrap intervals. A clip without features counts as an empty "
        "sentence unless the protocol says otherwise; n is what was scored."
    )
    return section(
        run.anchor,
        "Scores",
        lead,
        table_of(run),
        _figures(shown),
        _conventions(shown),
        _beside_published(shown),
        _details(shown),
    )


def table_of(run: Run) -> Markup:
    """Every evaluation of a run, the headline first."""
    keys = [key for key in METRICS if any(key in e.metrics for e in run.evaluations)]
    rows: list[list[Child]] = [
        [_named(e), *(_cell(e, key) for key in keys), cell(e.n, digits=0), len(e.failed)]
        for e in sorted(run.evaluations, key=lambda e: e is not run.headline)
    ]
    head = ["split", *map(metric_name, keys), "n", "failed"]
    return join(table(f"Scores of {run.name}", head, rows), _notes(keys))


def _figures(shown: Evaluation) -> Markup:
    drawn = [
        (metric_name(k), shown.metrics[k], shown.intervals.get(k))
        for k in _DRAWN
        if k in shown.metrics
    ]
    title = f"Scores on {shown.name} with 95 % intervals"
    spread = [line.chrf for line in shown.lines]
    spread_drawn = (
        figures.histogram(spread, title="chrF of single clips")
        if spread
        else tag("p", "No translations were kept.", class_="empty")
    )
    return tag(
        "div",
        card(title, figures.intervals(drawn, title)) if drawn else None,
        card("chrF of single clips", spread_drawn),
        class_="grid",
    )


def _notes(keys: Sequence[str]) -> Markup | None:
    told = [f"{metric_name(key)}: {NOTES[key]}" for key in keys if key in NOTES]
    return tag("p", "; ".join(told) + ".", class_="aside") if told else None


def _conventions(shown: Evaluation) -> Markup | None:
    if not shown.conventions:
        return None
    own = next((one.bleu4 for one in shown.conventions if one.headline), None)
    rows: list[list[Child]] = [
        [_convention(one), cell(one.bleu4), _difference(one.bleu4, own)]
        for one in shown.conventions
    ]
    head = ["convention", "BLEU-4", "to the headline"]
    return join(
        tag("h3", "One set of hypotheses, every convention"),
        tag(
            "p",
            "The same translations scored as different papers score them. Figures of two papers "
            "can be compared only along one line of this table.",
            class_="aside",
        ),
        table("BLEU-4 under every convention", head, rows, class_="narrow"),
    )


def _convention(one: Convention) -> Child:
    mark = tag("b", "headline", class_="mark same") if one.headline else None
    return join(one.name, " ", mark)


def _difference(value: float, own: float | None) -> Child:
    return cell(None) if own is None else cell(value - own, signed(value - own, 2))


def _beside_published(shown: Evaluation) -> Markup | None:
    if not shown.published:
        return None
    known = {key for one in shown.published for key in one.metrics}
    keys = [key for key in METRICS if key in known]
    ours: list[Child] = [f"this run, {shown.name}", *(cell(shown.metrics.get(k)) for k in keys), ""]
    rows = [ours, *(_published(one, keys) for one in shown.published)]
    head = ["system", *map(metric_name, keys), "what differs"]
    return join(
        tag("h3", "Beside published figures"),
        tag(
            "p",
            "As printed by their authors, under their protocol. A difference of protocol can weigh "
            "more than a difference of method.",
            class_="aside",
        ),
        table("Published figures", head, rows, class_="published"),
    )


def _published(one: Published, keys: Sequence[str]) -> list[Child]:
    source = tag("small", one.source + ("" if one.certain else ", second-hand"))
    system = join(one.system, " ", source)
    return [system, *(cell(one.metrics.get(key)) for key in keys), one.protocol or "–"]


def _details(shown: Evaluation) -> Markup:
    signatures = tag(
        "dl",
        *(
            join(tag("dt", metric_name(k)), tag("dd", tag("code", v)))
            for k, v in shown.signatures.items()
        ),
    )
    return join(
        tag("details", tag("summary", "Signatures of the metrics"), signatures),
        _failed(shown.failed),
    )


def _failed(failed: Mapping[str, str]) -> Markup | None:
    if not failed:
        return None
    listed = (join(tag("dt", tag("code", k)), tag("dd", v)) for k, v in list(failed.items())[:200])
    return tag(
        "details",
        tag("summary", f"{len(failed):,} clips without features, and why"),
        tag("dl", *listed),
    )


def _named(evaluation: Evaluation) -> Child:
    if not evaluation.changed:
        return evaluation.name
    told = ", ".join(f"{key} = {value}" for key, value in evaluation.changed.items())
    split = evaluation.name.partition("@")[0]
    return join(split, tag("small", f" tested with {told}", class_="why"))


def _cell(evaluation: Evaluation, key: str) -> Markup:
    value = evaluation.metrics.get(key)
    bounds = evaluation.intervals.get(key)
    if value is None:
        return cell(None)
    return plus_minus(value, (bounds[1] - bounds[0]) / 2 if bounds else None)


def _interval(evaluation: Evaluation, key: str) -> str:
    bounds = evaluation.intervals.get(key)
    return f"95 %: {number(bounds[0], 1)} to {number(bounds[1], 1)}" if bounds else "no interval"


def _tuned(run: Run) -> str:
    return "parameters, encoders too" if run.pipeline.encoders else "parameters"
