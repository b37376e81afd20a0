"""The sections of a run's page."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report import figures
from spamo_cache.report.figures import Series
from spamo_cache.report.markup import Child, Markup, join, number, seconds, size, tag
from spamo_cache.report.parts import card, section, table
from spamo_cache.report.receipt import departures, receipt
from spamo_cache.report.runs import Evaluation, Run, Stage
from spamo_cache.report.translations import ranked_lines

_METRICS = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "bleurt": "BLEURT",
}
_PUBLISHED = {
    "phoenix14t": ("SpaMo, as published (PHOENIX14T test)", 24.32),
    "csl-daily": ("SpaMo, as published (CSL-Daily test)", 20.55),
    "how2sign": ("SpaMo, as published (How2Sign test)", 10.11),
}
_CURVES = (
    ("Aligning: VT-Align loss", (("align", "align"), ("loss", "align")), False),
    ("Translating: cross-entropy", (("lm", "translate"), ("loss", "translate")), False),
    ("Translating: BLEU-4 on dev", (("dev_bleu", "translate"),), True),
)

_MEASURES = (
    ("recall_at_1", "recall@1: a clip's own sentence is the nearest", 3),
    ("chance_at_1", "… by chance", 3),
    ("recall_at_5", "recall@5: it is among the five nearest", 3),
    ("chance_at_5", "… by chance", 3),
    ("median_rank", "median rank of a clip's own sentence", 1),
    ("own_cosine", "mean cosine with the own sentence", 3),
    ("other_cosine", "mean cosine with all other sentences", 3),
    ("modality_gap", "modality gap: distance of the two means", 3),
    ("clips", "clips", 0),
    ("sentences", "distinct sentences", 0),
)


def metric_name(key: str) -> str:
    """A metric's name as papers print it."""
    return _METRICS.get(key, key)


def cards(run: Run) -> Markup:
    """The few numbers that a reader takes home."""
    shown = run.headline
    found: list[tuple[str, str, str]] = []
    if shown is not None:
        found += [
            (metric_name(key), number(shown.metrics[key], 1), _interval(shown, key))
            for key in ("bleu4", "chrf")
            if key in shown.metrics
        ]
        failed = f"{len(shown.failed):,} without features" if shown.failed else "every one scored"
        found.append((f"clips of {shown.name}", f"{shown.n:,}", failed))
    recall = run.done.get("recall")
    if recall is not None:
        found.append(
            ("recall@1 after VT-Align", f"{100 * recall:.0f} %", "dev clip finds its sentence")
        )
    if trained := run.done.get("trained"):
        found.append(("trained parameters", _millions(trained), "encoders stay frozen"))
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="note"))
            for name, value, note in found
        ),
        class_="cards",
    )


def scores(run: Run) -> Markup:
    """Every evaluation of the run with its intervals, and the headline drawn."""
    shown = run.headline
    if shown is None:
        return section(run.name, "Scores", "This run has not been evaluated yet.")
    keys = [key for key in _METRICS if any(key in e.metrics for e in run.evaluations)]
    rows: list[list[Child]] = [
        [e.name, *(_cell(e, key) for key in keys), f"{e.n:,}", f"{len(e.failed):,}"]
        for e in sorted(run.evaluations, key=lambda e: e is not shown)
    ]
    if run.pipeline.corpus in _PUBLISHED:
        name, bleu = _PUBLISHED[run.pipeline.corpus]
        rows.append([name, *(number(bleu) if key == "bleu4" else "–" for key in keys), "–", "–"])
    drawn = [
        (metric_name(k), shown.metrics[k], shown.intervals.get(k))
        for k in keys
        if k in shown.metrics
    ]
    title = f"Scores on {shown.name} with 95 % intervals"
    signatures = tag(
        "dl",
        *(
            join(tag("dt", metric_name(k)), tag("dd", tag("code", v)))
            for k, v in shown.signatures.items()
        ),
    )
    lead = (
        "Points of 100, with 95 % bootstrap intervals. A clip without features counts as an empty "
        "sentence, so n is all of the split."
    )
    return section(
        run.name,
        "Scores",
        lead,
        table(f"Scores of {run.name}", ["split", *map(metric_name, keys), "n", "failed"], rows),
        tag(
            "div",
            card(title, figures.intervals(drawn, title)),
            card("How translations are spread", _spread(shown)),
            class_="grid",
        ),
        tag("details", tag("summary", "Signatures of the metrics"), signatures),
    )


def learning(runs: Sequence[Run], name: str) -> Markup:
    """Align loss, translation loss and dev BLEU over steps, a line for each run."""
    drawn = []
    for title, sources, best in _CURVES:
        series = [
            Series(run.name, _first_curve(run, sources), index % 6 + 1)
            for index, run in enumerate(runs)
        ]
        drawn.append(card(title, figures.curves(series, title=title, best=best)))
    lead = (
        "First the sign adapter learns to place clips beside their sentences, then the translator "
        "learns to write. The weights kept are those of the best dev BLEU."
    )
    return section(
        name, "Learning curves", lead, legend(runs), tag("div", *drawn, class_="grid three")
    )


def legend(runs: Sequence[Run]) -> Markup | None:
    """Which colour is which run; nothing for a single one."""
    if len(runs) < 2:
        return None
    items = (
        tag("li", tag("i", class_=f"swatch c{index % 6 + 1}", aria_hidden="true"), run.name)
        for index, run in enumerate(runs)
    )
    return tag("ul", *items, class_="legend")


def provenance(run: Run) -> Markup:
    """From which stores, on what terms, and how long each stage took."""
    rows = []
    for store in run.stores:
        known = store.attributes
        rows.append(
            [
                store.stream,
                tag("code", store.fingerprint[:12], title=store.fingerprint),
                str(known.get("weights", "out of reach")),
                tag("code", str(known.get("weights_sha256", "–"))[:12]),
                f"{known['width']:,}" if "width" in known else "–",
                f"{known['clips']:,}" if "clips" in known else "–",
            ]
        )
    head = ["stream", "fingerprint", "encoder weights", "their sha256", "width", "clips"]
    stages = run.stages
    if not stages and run.done.get("seconds"):
        stages = (Stage(name="train", seconds=float(run.done["seconds"]), bytes=0),)
    timed = None
    if stages:
        title = "Wall time of each stage, and what it left on disk"
        values = {stage.name: stage.seconds for stage in stages}
        told = {stage.name: _took(stage) for stage in stages}
        drawn = figures.shares(values, told, title=title)
        timed = tag("div", card(title, drawn), class_="grid narrow")
    known_corpus = CORPORA.get(run.pipeline.corpus)
    terms = None
    if known_corpus is not None:
        terms = tag("p", tag("strong", "Terms of use. "), known_corpus.terms, class_="terms")
    lead = (
        "A fingerprint is the hash of everything that decides a feature: clips, encoder weights "
        "and settings. Whoever has the same has the same features."
    )
    return section(
        run.name,
        "Provenance",
        lead,
        table("Feature stores", head, rows, numeric=4) if rows else None,
        timed,
        terms,
    )


def receipt_of(run: Run) -> Markup:
    """Where the run departs from the paper, point by point."""
    points = receipt(run)
    marks = {
        True: ("same", "as in the paper"),
        False: ("departs", "departs"),
        None: ("unknown", "unknown"),
    }
    rows: list[list[Child]] = []
    for point in points:
        kind, words = marks[point.same]
        here = join(point.here, tag("span", point.why, class_="why") if point.why else None)
        rows.append([point.topic, point.paper, here, tag("span", words, class_=f"mark {kind}")])
    count = departures(points)
    lead = (
        f"{count} of {len(points)} points depart from the paper or its release. Some are this "
        "project's corrections, with the reason given; all are listed."
    )
    head = ["setting", "paper and release", "this run", "verdict"]
    listed = table("Settings against the paper", head, rows, numeric=9)
    return section(run.name, "Reproduction receipt", lead, tag("div", listed, class_="receipt"))


def settings(run: Run) -> Markup:
    """The resolved configuration, as it can be run again."""
    written = yaml.safe_dump(
        run.pipeline.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )
    versions = ", ".join(f"{k} {v}" for k, v in dict(run.about.get("versions", {})).items())
    return section(
        run.name,
        "Configuration",
        join(
            "Resolved: every default is spelled out. ", f"Versions: {versions}." if versions else ""
        ),
        tag("details", tag("summary", "config.yaml"), tag("pre", tag("code", written))),
    )


def alignment(run: Run) -> Markup | None:
    """What ``analyze`` measured, where it was run."""
    found = run.analysis
    rows = [
        [name, number(found[key], digits)]
        for key, name, digits in _MEASURES
        if found.get(key) is not None
    ]
    if not rows:
        return None
    lead = (
        f"Where clips of {found.get('split', 'the split')} and their sentences lie to one another "
        "in the LLM's embedding space, pooled as VT-Align pools them."
    )
    return section(
        run.name, "Alignment", lead, table("Measures of alignment", ["measure", "value"], rows)
    )


def _first_curve(run: Run, sources: Sequence[tuple[str, str | None]]) -> Sequence[figures.Point]:
    return next((points for key, stage in sources if (points := run.curve(key, stage))), [])


def _spread(evaluation: Evaluation) -> Markup:
    values = [score for score, _ in ranked_lines(evaluation)]
    if not values:
        return tag("p", "No translations were kept.", class_="empty")
    return figures.histogram(values, title="chrF of single clips")


def _interval(evaluation: Evaluation, key: str) -> str:
    bounds = evaluation.intervals.get(key)
    return f"95 %: {number(bounds[0], 1)} to {number(bounds[1], 1)}" if bounds else "no interval"


def _cell(evaluation: Evaluation, key: str) -> Markup | str:
    value = evaluation.metrics.get(key)
    bounds = evaluation.intervals.get(key)
    if value is None or bounds is None:
        return number(value)
    return join(number(value), tag("small", f" ±{number((bounds[1] - bounds[0]) / 2, 1)}"))


def _took(stage: Stage) -> str:
    return seconds(stage.seconds) + (f" · {size(stage.bytes)}" if stage.bytes else "")


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"
