"""The page as a whole: of one run, of several compared, or of a corpus's experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

import spamo_cache
from spamo_cache import io
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.errors import UsageError
from spamo_cache.report.analysis import alignment, attributions, shapley, tokens
from spamo_cache.report.experiment_section import experiment_section
from spamo_cache.report.experiments import Results, holds_experiments, read_results
from spamo_cache.report.formats import anchor
from spamo_cache.report.provenance import (
    configuration,
    differences,
    provenance,
    reproduction_receipt,
)
from spamo_cache.report.runs import RunView, read_run, with_distinct_names
from spamo_cache.report.scores import Banner, banners, cards, learning, score_table, scores
from spamo_cache.report.templating import render
from spamo_cache.report.translations import Frames, confusions, translations

_COMPARED = ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l")


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    frames: Frames | None = None,
    roots: Sequence[str] | None = None,
) -> Path:
    """Write one self-contained HTML page about runs.

    Args:
        runs: run folders; with several, a comparison stands before each one's own sections. Or
            the one folder of a corpus's experiments.
        out: the page's file; replaced whole.
        frames: gives pictures of clips; None: none are shown.
        roots: to look for the runs' stores in; None is SPAMO_CACHE's.

    Returns:
        ``out``.

    Raises:
        UsageError: no run given, or a folder that holds none.
        SpamoError: a damaged file of a run, or ``out`` cannot be written.
    """
    page = page_html(runs, frames, roots)
    io.write_output(out, page.encode("utf-8", "replace"), "the report")
    return out


def page_html(
    folders: Sequence[Path], frames: Frames | None = None, roots: Sequence[str] | None = None
) -> str:
    """The page's HTML; the same runs give the same bytes."""
    if not folders:
        raise UsageError("no run was given", remedy="name one or more run folders")
    if any(map(holds_experiments, folders)):
        if len(folders) > 1:
            raise UsageError(
                "experiments have a page of their own",
                where=next(filter(holds_experiments, folders)),
                remedy="name their folder alone",
            )
        return _experiments_page(read_results(folders[0], roots), frames)
    runs = with_distinct_names([read_run(folder, roots) for folder in folders])
    return _run_page(runs[0], frames) if len(runs) == 1 else _comparison_page(runs, frames)


def _page(template: str, title: str, **variables: object) -> str:
    return render(template, title=title, version=spamo_cache.__version__, **variables)


def _corpus_title(corpus: str) -> str:
    """A corpus's name as a heading has it."""
    known = CORPORA.get(corpus)
    return known.title.removesuffix(" (synthetic)") if known else corpus


def _run_page(run: RunView, frames: Frames | None) -> str:
    sections = _sections(run, frames)
    return _page(
        "run.html",
        f"{run.name} on {_corpus_title(run.pipeline.corpus)}",
        eyebrow="Run report",
        banners=banners([run]),
        contents={title: anchor(run.anchor, title) for title in sections},
        run=run,
        cards=cards(run),
        sections=sections,
    )


def _sections(run: RunView, frames: Frames | None) -> dict[str, Markup]:
    """Title -> section, in reading order; a run that has nothing for a section has none."""
    sections = {
        "Scores": scores(run),
        "Learning curves": learning([run], run.anchor),
        "Translations": translations(run, frames),
        "Confusions": confusions(run, frames),
        "Attribution over time": attributions(run),
        "Alignment": alignment(run),
        "Visual tokens": tokens(run),
        "Provenance": provenance(run),
        "Reproduction receipt": reproduction_receipt(run),
        "Configuration": configuration(run),
    }
    return {title: section for title, section in sections.items() if section is not None}


def _comparison_page(runs: Sequence[RunView], frames: Frames | None) -> str:
    sections = {run.name: _sections(run, frames) for run in runs}
    for own in sections.values():
        del own["Learning curves"]  # those of all runs stand above
    scored = [run.headline.metrics for run in runs if run.headline]
    return _page(
        "comparison.html",
        " and ".join(dict.fromkeys(_corpus_title(run.pipeline.corpus) for run in runs)),
        eyebrow=f"{len(runs)} runs compared",
        banners=banners(runs),
        contents={},
        runs=runs,
        keys=[key for key in _COMPARED if any(key in metrics for metrics in scored)],
        learning=learning(runs, "all"),
        cards={run.name: cards(run) for run in runs},
        sections=sections,
    )


def _experiments_page(results: Results, frames: Frames | None) -> str:
    main = _main_run(results)
    runs = [main, *(run for run in results.runs if run is not main)] if main else []
    shares = shapley(results.shapley)
    contents = {"Overview": "page.overview"}
    contents |= {experiment.name: experiment.anchor for experiment in results.experiments}
    contents |= {"Shapley values": "page.contribution-of-streams-and-vt-align"} if shares else {}
    contents |= {"Runs": "page.runs"} if main else {}
    return _page(
        "experiments.html",
        f"Experiments on {_corpus_title(results.corpus)}",
        eyebrow=f"{len(results.experiments)} experiments · {len(results.runs)} finished runs",
        banners=banners(results.runs) + _one_seed(results),
        contents=contents,
        settings={
            "settings changed for all runs": ", ".join(results.set),
            "seeds": ", ".join(map(str, results.seeds)),
        },
        experiments=results.experiments,
        sections=[experiment_section(experiment) for experiment in results.experiments],
        shapley=shares,
        main=main,
        runs=runs,
        variants=_variants_of(results),
        cards={run.name: cards(run) for run in runs},
        run_sections={run.name: _run_sections(run, main, frames) for run in runs if main},
    )


def _main_run(results: Results) -> RunView | None:
    """The run shown in full: ``default``, else what the first experiment is held against."""
    named = [run for run in results.runs if run.pipeline.name == "default"]
    bases = [run for experiment in results.experiments for run, _ in experiment.base.scored]
    return next(iter((*named, *bases, *results.runs)), None)


def _run_sections(run: RunView, main: RunView, frames: Frames | None) -> list[Markup]:
    """All sections of the run that is shown in full; of others what is their own."""
    if run is main:
        return list(_sections(run, frames).values())
    curves = [learning([run], run.anchor)] if run.learnt else []
    return [differences(run, main), score_table(run), *curves]


def _one_seed(results: Results) -> list[Banner]:
    if len(results.seeds) != 1:
        return []
    words = (
        "Every run was trained once. Intervals are over test clips and know nothing of what "
        "another seed would give: of two variants near to each other either may be the better."
    )
    return [Banner("One seed.", words, severe=False)]


def _variants_of(results: Results) -> dict[str, list[str]]:
    """Run -> the variants that it stands behind."""
    variants: dict[str, list[str]] = {}
    for experiment in results.experiments:
        for variant in experiment.variants:
            for run, _ in variant.scored:
                variants.setdefault(run.name, []).append(f"{experiment.name}/{variant.name}")
    return variants
