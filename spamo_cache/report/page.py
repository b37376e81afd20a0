"""The page as a whole: its head, its foot, and which of three bodies stands between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import spamo_cache
from spamo_cache import io
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.report.comparison import compared_runs
from spamo_cache.report.confusions import Frames
from spamo_cache.report.experiments import holds_experiments, read_results
from spamo_cache.report.lab import experiments_page
from spamo_cache.report.markup import Markup, tag
from spamo_cache.report.runs import read_run, told_apart
from spamo_cache.report.single import single_run

_HERE = Path(__file__).parent
# Nothing is fetched, whatever a corpus's texts may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    frames: Frames | None = None,
    roots: Sequence[str] | None = None,
) -> Path:
    """Write one self-contained HTML page.

    Args:
        runs: run folders; with several, a comparison stands before each one's own part. Or the
            one folder of a corpus's experiments.
        out: the page's file; replaced whole.
        frames: gives pictures of clips; None: none are shown.
        roots: to look for the runs' stores in; None is SPAMO_CACHE's.

    Raises:
        UsageError: no run given, or a folder that holds none.
        SpamoError: a damaged file of a run, or ``out`` cannot be written.
    """
    page = render(runs, frames, roots)
    try:
        io.write_atomic(out, page.encode("utf-8", "replace"))
    except OSError as error:
        told = error.strerror or str(error)
        raise SpamoError(
            f"the report cannot be written: {told}",
            where=out,
            remedy="choose another place with -o",
        ) from error
    return out


def render(
    paths: Sequence[Path], frames: Frames | None = None, roots: Sequence[str] | None = None
) -> str:
    """The page's HTML; the same runs give the same bytes."""
    title, content = _content(paths, frames, roots)
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
    body = tag("body", content, _footer(), tag("script", Markup(_asset("script.js"))), id="top")
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _content(
    paths: Sequence[Path], frames: Frames | None, roots: Sequence[str] | None
) -> tuple[str, Markup]:
    if not paths:
        raise UsageError("no run was given", remedy="name one or more run folders")
    if any(map(holds_experiments, paths)):
        if len(paths) > 1:
            raise UsageError(
                "experiments have a page of their own",
                where=next(filter(holds_experiments, paths)),
                remedy="name their folder alone",
            )
        results = read_results(paths[0], roots)
        title = f"Experiments on {corpus_title(results.corpus)}"
        return title, experiments_page(results, title, frames)
    runs = told_apart([read_run(path, roots) for path in paths])
    titles = list(dict.fromkeys(corpus_title(run.pipeline.corpus) for run in runs))
    if len(runs) == 1:
        title = f"{runs[0].name} on {titles[0]}"
        return title, single_run(runs[0], title, frames)
    title = " and ".join(titles)
    return title, compared_runs(runs, title, frames)


def _footer() -> Markup:
    return tag(
        "footer",
        tag(
            "p",
            f"Made by spamo-cache {spamo_cache.__version__}. Method: SpaMo, arXiv 2408.10593.",
        ),
        tag("p", "This page is complete in itself and fetches nothing."),
    )


def corpus_title(corpus: str) -> str:
    """A corpus's name as a heading has it."""
    known = CORPORA.get(corpus)
    return known.title.removesuffix(" (synthetic)") if known else corpus


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
