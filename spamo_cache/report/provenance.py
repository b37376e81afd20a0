"""Where a run comes from: stores, terms, times, settings, and its departures from the paper."""

from __future__ import annotations

import yaml

from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report import figures
from spamo_cache.report.markup import Child, Markup, join, seconds, size, tag
from spamo_cache.report.parts import card, cell, section, table
from spamo_cache.report.receipt import departures, encoder_of, receipt
from spamo_cache.report.runs import Run, Stage, StoreFacts

_MARKS = {
    True: ("same", "as in the paper"),
    False: ("departs", "departs"),
    None: ("unknown", "unknown"),
}


def provenance(run: Run) -> Markup:
    """From which stores, on what terms, and how long each stage took."""
    head = ["stream", "fingerprint", "encoder", "weights", "their sha256", "width", "clips", "held"]
    rows = [_store(store) for store in run.stores]
    known = CORPORA.get(run.pipeline.corpus)
    lead = (
        "A fingerprint is the hash of everything that decides a feature: clips, encoder weights "
        "and settings. Whoever has the same has the same features. Held: clips with features in "
        "the store that was found here."
    )
    return section(
        run.anchor,
        "Provenance",
        lead,
        table("Feature stores", head, rows, numeric=5) if rows else None,
        _times(run),
        _effort(run),
        tag("p", tag("strong", "Terms of use. "), known.terms, class_="terms") if known else None,
    )


def _store(store: StoreFacts) -> list[Child]:
    about, short = store.about, tag("code", store.fingerprint[:12], title=store.fingerprint)
    if about is None:
        return [store.stream, short, "held in memory", "–", "–", *[cell(None)] * 3]
    held = None if store.counts is None else store.counts["ok"]
    return [
        store.stream,
        short,
        encoder_of(about),
        about.weights,
        tag("code", about.weights_sha256[:12], title=about.weights_sha256),
        *(cell(value, digits=0) for value in (about.width, about.clips, held)),
    ]


def _times(run: Run) -> Markup | None:
    stages = run.stages
    if not stages and run.done is not None and run.done.seconds:
        stages = (Stage(name="train", seconds=run.done.seconds, bytes=0),)
    if not stages:
        return None
    title = "Wall time of each stage, and what it left on disk"
    values = {stage.name: stage.seconds for stage in stages}
    told = {stage.name: _took(stage) for stage in stages}
    drawn = figures.shares(values, told, title=title)
    return tag("div", card(title, drawn), class_="grid narrow")


def _effort(run: Run) -> Markup | None:
    done = run.done
    if done is None:
        return None
    known = [
        f"{1000 * done.step_seconds:,.0f} ms a step" if done.step_seconds else "",
        f"{size(done.peak_bytes)} of memory at most" if done.peak_bytes else "",
    ]
    told = ", ".join(filter(None, known))
    return tag("p", f"Training took {told}.", class_="aside") if told else None


def receipt_of(run: Run) -> Markup:
    """Where the run departs from the paper, point by point."""
    points = receipt(run)
    rows: list[list[Child]] = []
    for point in points:
        kind, words = _MARKS[point.same]
        here = join(point.here, tag("span", point.why, class_="why") if point.why else None)
        rows.append([point.topic, point.paper, here, tag("span", words, class_=f"mark {kind}")])
    lead = (
        f"{departures(points)} of {len(points)} points depart from the paper or its release. Some "
        "are this project's corrections, with the reason given; all are listed."
    )
    head = ["setting", "paper and release", "this run", "verdict"]
    listed = table("Settings against the paper", head, rows, numeric=9)
    return section(
        run.anchor,
        "Reproduction receipt",
        lead,
        tag("div", listed, class_="receipt"),
        _made_by(run),
    )


def _made_by(run: Run) -> Markup:
    """What was run: versions, and the one hash behind the weights."""
    versions = ", ".join(f"{k} {v}" for k, v in run.about.versions.items())
    stores = ", ".join(f"{store.stream} {store.fingerprint[:12]}" for store in run.stores)
    facts = {
        "made by": versions,
        "identity of the run": run.about.identity[:12],
        "stores": stores,
        "seed": str(run.pipeline.seed),
    }
    items = (join(tag("dt", k), tag("dd", tag("code", v))) for k, v in facts.items() if v)
    return tag("dl", *items, class_="facts")


def settings(run: Run) -> Markup:
    """The resolved configuration, as it can be run again."""
    written = yaml.safe_dump(
        run.pipeline.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )
    return section(
        run.anchor,
        "Configuration",
        "Resolved: every default is spelled out.",
        tag("details", tag("summary", "config.yaml"), tag("pre", tag("code", written))),
    )


def _took(stage: Stage) -> str:
    return seconds(stage.seconds) + (f" · {size(stage.bytes)}" if stage.bytes else "")
