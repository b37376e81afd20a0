"""One run: the top of its page, and the parts below."""

from __future__ import annotations

from collections.abc import Sequence

from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report import scores
from spamo_cache.report.alignment import alignment
from spamo_cache.report.confusions import Frames, confusions
from spamo_cache.report.contributions import attributions
from spamo_cache.report.learning import learning
from spamo_cache.report.markup import Child, Markup, join, tag
from spamo_cache.report.parts import anchor, banner
from spamo_cache.report.provenance import provenance, receipt_of, settings
from spamo_cache.report.runs import Run
from spamo_cache.report.tokens import tokens
from spamo_cache.report.translations import translations


def single_run(run: Run, title: str, frames: Frames | None) -> Markup:
    """The whole page of one run."""
    parts = run_parts(run, frames)
    top = page_header("Run report", title, run.pipeline.question, banners([run]), scores.cards(run))
    links = {name: anchor(run.anchor, name) for name, part in parts.items() if part is not None}
    return join(top, contents(links), tag("main", *parts.values()))


def run_parts(run: Run, frames: Frames | None) -> dict[str, Markup | None]:
    """Title -> section, in reading order; None where a run has nothing to tell."""
    return {
        "Scores": scores.scores(run),
        "Learning curves": learning([run], run.anchor),
        "Translations": translations(run),
        "Confusions": confusions(run, frames),
        "Attribution over time": attributions(run),
        "Alignment": alignment(run),
        "Visual tokens": tokens(run),
        "Provenance": provenance(run),
        "Reproduction receipt": receipt_of(run),
        "Configuration": settings(run),
    }


def folded(run: Run, parts: Sequence[Child], *, open_: bool = False) -> Markup:
    """A run's parts under its name, folded."""
    return tag(
        "details",
        tag("summary", tag("h2", run.name), tag("span", run.pipeline.question)),
        *parts,
        class_="run",
        id=run.anchor,
        open=open_,
    )


def page_header(eyebrow: str, title: str, question: str | None, *children: Child) -> Markup:
    """The top of a page."""
    return tag(
        "header",
        tag("p", "spamo-cache", tag("span", eyebrow), class_="eyebrow"),
        tag("h1", title),
        tag("p", question, class_="question") if question else None,
        *children,
    )


def contents(links: dict[str, str]) -> Markup:
    """Links to the parts of a page: title -> place."""
    return tag(
        "nav",
        *(tag("a", title, href=f"#{place}") for title, place in links.items()),
        aria_label="Contents",
    )


def banners(runs: Sequence[Run]) -> Markup | None:
    """What must be known before any number is read."""
    notes: list[Child] = []
    for name in dict.fromkeys(run.pipeline.corpus for run in runs):
        known = CORPORA.get(name)
        if known is not None and known.synthetic:
            words = (
                f"{known.name} is drawn by a program and its signs are invented. Scores here say "
                "that the method works end to end, nothing about any sign language."
            )
            notes.append(banner("Synthetic corpus.", words))
    if unfinished := [run.name for run in runs if run.done is None]:
        words = f"Training of {', '.join(unfinished)} has not ended; numbers may still change."
        notes.append(banner("Unfinished.", words))
    if floors := [run.name for run in runs if run.pipeline.shuffle_features]:
        words = f"{', '.join(floors)}: every clip has another clip's features, on purpose."
        notes.append(banner("A floor, not a result.", words))
    notes.append(scores.warnings(runs))
    return join(*notes) or None
