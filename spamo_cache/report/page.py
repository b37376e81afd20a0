"""The page as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import spamo_cache
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.report import sections
from spamo_cache.report.markup import Child, Markup, join, number, tag
from spamo_cache.report.parts import anchor, section, table
from spamo_cache.report.runs import Run, read_run
from spamo_cache.report.translations import translations
from spamo_cache.store import files

_HERE = Path(__file__).parent
# Nothing is fetched, whatever a corpus's texts may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained HTML page about one run or several.

    Args:
        runs: run folders; with several, a comparison stands before each one's own part.
        out: the page's file; replaced whole.

    Raises:
        UsageError: no run given, or a folder that holds none.
        SpamoError: a damaged file of a run, or ``out`` cannot be written.
    """
    if not runs:
        raise UsageError("no run was given", remedy="name one or more run folders")
    page = render([read_run(path) for path in runs])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.aside(out.parent) as work:
            files.replace(out, page.encode("utf-8"), work)
    except OSError as error:
        told = error.strerror or str(error)
        raise SpamoError(
            f"the report cannot be written: {told}",
            where=out,
            remedy="choose another place with -o",
        ) from error
    return out


def render(runs: Sequence[Run]) -> str:
    """The page's HTML; the same runs give the same bytes."""
    first = runs[0]
    title = f"{first.name} on {_corpus_title(first)}" if len(runs) == 1 else _comparison_title(runs)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title} · spamo-cache"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(_asset("style.css"))),
    )
    body = tag(
        "body",
        _single(first, title) if len(runs) == 1 else _several(runs, title),
        _footer(),
        tag("script", Markup(_asset("script.js"))),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _single(run: Run, title: str) -> Markup:
    top = _header("Run report", title, run.pipeline.question, _banner([run]), sections.cards(run))
    return join(top, _contents(run, _parts(run)), tag("main", *_parts(run)))


def _parts(run: Run) -> list[Child]:
    return [
        sections.scores(run),
        sections.learning([run], run.name),
        translations(run),
        sections.alignment(run),
        sections.provenance(run),
        sections.receipt_of(run),
        sections.settings(run),
    ]


def _several(runs: Sequence[Run], title: str) -> Markup:
    questions = tag(
        "dl",
        *(join(tag("dt", run.name), tag("dd", run.pipeline.question)) for run in runs),
        class_="questions",
    )
    top = _header(f"{len(runs)} runs compared", title, None, _banner(runs), questions)
    each = [
        tag(
            "details",
            tag("summary", tag("h2", run.name), tag("span", run.pipeline.question)),
            *(part for part in (sections.cards(run), *_parts(run)[2:])),
            class_="run",
        )
        for run in runs
    ]
    return join(top, tag("main", _comparison(runs), sections.learning(runs, "all"), *each))


def _comparison(runs: Sequence[Run]) -> Markup:
    keys = ("bleu1", "bleu2", "bleu3", "bleu4", "chrf")
    rows: list[list[Child]] = []
    for run in runs:
        shown = run.headline
        metrics = shown.metrics if shown else {}
        bounds = shown.intervals.get("bleu4") if shown else None
        spread = f"{number(bounds[0], 1)} to {number(bounds[1], 1)}" if bounds else "–"
        scores = [number(metrics.get(key)) for key in keys]
        rows.append(
            [run.name, shown.name if shown else "–", *scores, spread, shown.n if shown else "–"]
        )
    head = ["run", "split", *map(sections.metric_name, keys), "BLEU-4, 95 %", "n"]
    lead = "Intervals that overlap are no proof of a difference; a single seed is no proof either."
    return section("all", "Comparison", lead, table("Runs compared", head, rows, numeric=2))


def _header(eyebrow: str, title: str, question: str | None, *children: Child) -> Markup:
    return tag(
        "header",
        tag("p", "spamo-cache", tag("span", eyebrow), class_="eyebrow"),
        tag("h1", title),
        tag("p", question, class_="question") if question else None,
        *children,
    )


def _banner(runs: Sequence[Run]) -> Markup | None:
    notes: list[Markup] = []
    for name in dict.fromkeys(run.pipeline.corpus for run in runs):
        known = CORPORA.get(name)
        if known is not None and known.synthetic:
            words = (
                f" {known.name} is drawn by a program and its signs are invented. Scores here say "
                "that the method works end to end, nothing about any sign language."
            )
            notes.append(tag("p", tag("strong", "Synthetic corpus."), words, class_="banner"))
    for run in runs:
        if not run.done:
            words = f" Training of {run.name} has not ended; numbers may still change."
            notes.append(tag("p", tag("strong", "Unfinished run."), words, class_="banner"))
        if run.pipeline.shuffle_features:
            words = f" {run.name} gives every clip another clip's features, on purpose."
            notes.append(tag("p", tag("strong", "A floor, not a result."), words, class_="banner"))
    return join(*notes) if notes else None


def _contents(run: Run, parts: Sequence[Child]) -> Markup:
    titles = (
        "Scores", "Learning curves", "Translations", "Alignment", "Provenance",
        "Reproduction receipt", "Configuration",
    )  # fmt: skip
    links = [
        tag("a", title, href=f"#{anchor(run.name, title)}")
        for title, part in zip(titles, parts, strict=True)
        if part is not None
    ]
    return tag("nav", *links, aria_label="Contents")


def _footer() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            f"Made by spamo-cache {spamo_cache.__version__}. Method: SpaMo, arXiv 2408.10593.",
        ),
        tag("p", "This page is complete in itself and fetches nothing."),
    )


def _corpus_title(run: Run) -> str:
    known = CORPORA.get(run.pipeline.corpus)
    return known.title.removesuffix(" (synthetic)") if known else run.pipeline.corpus


def _comparison_title(runs: Sequence[Run]) -> str:
    titles = dict.fromkeys(_corpus_title(run) for run in runs)
    return " and ".join(titles)


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
