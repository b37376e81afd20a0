"""Where a run comes from: stores, terms, times, settings, and its departures from the paper."""

from __future__ import annotations

import yaml
from markupsafe import Markup

from spamo_cache.datasets.registry import CORPORA
from spamo_cache.human import duration, size
from spamo_cache.report import figures
from spamo_cache.report.receipt import departures, receipt
from spamo_cache.report.runs import RunView
from spamo_cache.report.templating import render
from spamo_cache.runs.stages import StageTiming


def provenance(run: RunView) -> Markup:
    """From which stores, on what terms, and how long each stage took."""
    corpora = (CORPORA.get(name) for name in (run.pipeline.corpus, *run.pipeline.others))
    return render(
        "provenance.html",
        place=run.anchor,
        stores=run.stores,
        corpora=run.about.corpora,
        stages=_stage_times(run),
        effort=_effort(run),
        terms={known.title: known.terms for known in corpora if known is not None},
    )


def _stage_times(run: RunView) -> Markup | None:
    stages = run.stages
    if not stages and run.done is not None and run.done.seconds:
        stages = (StageTiming(name="train", seconds=run.done.seconds, bytes=0),)
    if not stages:
        return None
    return figures.shares(
        {stage.name: stage.seconds for stage in stages},
        {
            stage.name: duration(stage.seconds) + (f" · {size(stage.bytes)}" if stage.bytes else "")
            for stage in stages
        },
        title="Wall time of each stage, and what it left on disk",
    )


def _effort(run: RunView) -> list[str]:
    """What a step of training took, as far as it is known."""
    known, done = [], run.done
    if done is not None and done.step_seconds:
        known.append(f"{1000 * done.step_seconds:,.0f} ms a step")
    if done is not None and done.waiting is not None:
        known.append(f"{done.waiting:.1%} of it waiting for features")
    if done is not None and done.peak_bytes:
        known.append(f"{size(done.peak_bytes)} of memory at most")
    if done is not None and done.checkpointing:
        known.append("activations computed anew to save memory")
    return known


def reproduction_receipt(run: RunView) -> Markup:
    """Where the run departs from the paper, point by point, and what was run."""
    points = receipt(run)
    lead = (
        f"{departures(points)} of {len(points)} points depart from the paper or its release. Some "
        "are this project's corrections, with the reason given; all are listed."
    )
    stores = ", ".join(f"{store.stream} {store.fingerprint[:12]}" for store in run.stores)
    made_by = {
        "made by": ", ".join(f"{name} {version}" for name, version in run.about.versions.items()),
        "identity of the run": run.about.identity[:12],
        "stores": stores,
        "seed": str(run.pipeline.seed),
    }
    return render("receipt.html", place=run.anchor, lead=lead, points=points, made_by=made_by)


def differences(run: RunView, main: RunView) -> Markup:
    """Where a run's receipt differs from that of the run that a page shows in full."""
    usual = {point.topic: point.here for point in receipt(main)}
    differing = [point for point in receipt(run) if usual.get(point.topic) != point.here]
    return render("differences.html", run=run, main=main, usual=usual, differing=differing)


def configuration(run: RunView) -> Markup:
    """The resolved configuration, as it can be run again."""
    written = yaml.safe_dump(
        run.pipeline.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )
    return render("configuration.html", place=run.anchor, written=written)
