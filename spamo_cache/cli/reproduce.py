"""``spamo-cache reproduce``: every stage of a corpus, as one run or as all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache import human
from spamo_cache.cli import completion, display, options, scores, watching
from spamo_cache.errors import UsageError
from spamo_cache.workflow import EMBEDDED

if TYPE_CHECKING:
    from spamo_cache.report.experiments import Experiment, Variant
    from spamo_cache.runs.records import ScoredClip
    from spamo_cache.workflow.experiments.run import ExperimentRequest, ExperimentsSummary
    from spamo_cache.workflow.reproduce import Reproduction, Source

SHOWN = 10
"""Translations printed at the end."""


def reproduce(
    corpus: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS",
            help=f"Corpus by name [default: {EMBEDDED}]",
            autocompletion=completion.corpora,
        ),
    ] = None,
    *,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="D",
            help="The same as CORPUS.",
            autocompletion=completion.corpora,
        ),
    ] = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    size: options.Size = None,
    limit: options.Limit = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="FILE",
            help="Pipeline [default: CORPUS/default.yaml]",
            autocompletion=completion.pipelines,
        ),
    ] = None,
    overrides: options.Overrides = None,
    store: options.Store = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Run and report [default: runs/CORPUS]"),
    ] = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    executor: options.Executor = "dask",
    everything: Annotated[
        bool, typer.Option("--all", help="Every experiment of the paper, and a page of them.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="A,B",
            help="With --all: just these.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            help="With --all: runs of each variant [default: 3, or what an experiment says]",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --all: one run of each variant.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            help="With --all: runs at a time [default: one per GPU, or as many as cores allow]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --all: say what is there and what is not.")
    ] = False,
    json: options.JsonLines = False,
) -> None:
    """Run all stages: corpus, manifest, extract, train, evaluate, report.

    Finished work is reused: rerun it after an interruption, and it resumes. With --all, every
    experiment in pipelines/experiments is run in place of the default pipeline.

    Example:

        spamo-cache reproduce signed-weather
    """
    from spamo_cache.workflow import resolve
    from spamo_cache.workflow.reproduce import Source, corpus_of, reproduce_source

    if corpus and dataset:
        raise UsageError("the corpus is named twice", remedy="leave --dataset out")
    name = corpus_of(corpus or dataset, manifest, pipeline, overrides or ())
    if manifest is None:
        resolve.check_corpus(name)
    source = Source(
        corpus=name,
        root=root,
        manifest=manifest,
        size=size,
        limit=limit,
        pipeline=pipeline,
        set=overrides or (),
        store=store,
        output=output,
        device=device,
        workers=workers,
        executor=executor,
    )
    if everything:
        from spamo_cache.workflow.experiments.run import ExperimentRequest

        if quick and seeds is not None:
            raise UsageError("--quick is one seed", remedy="give --quick or --seeds, not both")
        request = ExperimentRequest(only=only, seeds=1 if quick else seeds, jobs=jobs)
        failed, sources = _experiments(source, request, dry_run=dry_run, json=json), None
    elif only or jobs or dry_run or seeds or quick:
        raise UsageError(
            "--only, --seeds, --quick, --jobs and --dry-run are for experiments: add --all"
        )
    else:
        done = reproduce_source(source, watching.watcher(json=json))
        if json:
            display.as_line({"event": "summary", **_document(done)})
        else:
            _show(done)
        failed, sources = done.failed, done.failed_sources
    display.failures(failed, sources=sources)
    if failed:
        raise typer.Exit(1)


def _experiments(
    source: Source, request: ExperimentRequest, *, dry_run: bool, json: bool
) -> Sequence[tuple[str, str]]:
    """Every experiment, or with ``dry_run`` what they would take; what failed."""
    from spamo_cache.workflow.experiments.run import preview_experiments, reproduce_experiments

    if dry_run:
        preview = preview_experiments(source, request, watching.watcher())
        heads = ("features", "clips to compute or copy")
        display.table(heads, list(preview.extractions.items()))
        display.table(("experiment", "variant", "seed", "run", ""), preview.runs)
        return ()
    done = reproduce_experiments(source, request, watching.watcher(json=json))
    if json:
        display.as_line({"event": "summary", **done.document})
    else:
        _show_experiments(done)
    return done.failed


def _show_experiments(done: ExperimentsSummary) -> None:
    from spamo_cache.report.experiments import read_results

    results = read_results(done.folder)
    rows = [
        (experiment.name, variant.name, variant.label, *_scores(experiment, variant))
        for experiment in results.experiments
        for variant in experiment.variants
    ]
    heads = ("experiment", "variant", "", "runs", "mean", "deviation", "p")
    display.table(heads, rows, title=f"{results.corpus}: BLEU-4 on test")
    display.line(
        "  p: against what the report holds a variant against, over the clips and seeds that both "
        "have; of one seed, over clips alone"
    )
    display.line(f"report: {done.report.resolve()}")


def _scores(experiment: Experiment, variant: Variant) -> tuple[object, ...]:
    from statistics import fmean, stdev

    from spamo_cache.report.formats import chance

    bleu, test = variant.scores("bleu4"), experiment.tests.get(variant.name)
    if not bleu:
        return 0, "", "failed" if variant.trials else "not run", ""
    spread = stdev(bleu) if len(bleu) > 1 else ""
    return len(bleu), fmean(bleu), spread, chance(test.p) if test else ""


def _document(done: Reproduction) -> dict[str, Any]:
    return {
        "run": done.path,
        "report": done.report,
        "scores": display.as_dict(done.card),
        "expected_bleu4": done.expected,
        "failed": dict(done.failed),
        "stages": [asdict(stage) for stage in done.stages.all.values()],
    }


def _show(done: Reproduction) -> None:
    scores.show(done.path, done.card)
    if done.expected is not None:
        lowest, highest = done.expected
        display.line(
            f"  to expect: BLEU-4 from {lowest:.2f} to {highest:.2f}, as measured with three seeds"
            " and on three kinds of CPU"
        )
    display.table(
        ("clip", "translation", "reference"),
        [(line.id, line.hypothesis, line.reference) for line in _sample(done.path)],
        title="Some of the test set",
    )
    display.table(
        ("stage", "took", "on disk", ""),
        [
            (
                stage.name,
                human.duration(stage.seconds),
                human.size(stage.bytes) if stage.bytes else "",
                "reused" if stage.reused else "",
            )
            for stage in done.stages.all.values()
        ],
        title="Stages",
    )
    display.line(f"report: {done.report.resolve()}")


def _sample(run: Path) -> list[ScoredClip]:
    """Translations spread evenly over the test set."""
    from spamo_cache.runs.records import read_lines

    lines = read_lines(run, "test")
    return lines[:: max(1, len(lines) // SHOWN)][:SHOWN]
