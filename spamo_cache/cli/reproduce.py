"""``spamo-cache reproduce``: every stage, from video files to a translated test set.

Calls what the single commands call: doing the stages by hand gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache import human, workflow
from spamo_cache.cli import display, options, scores
from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.experiments.context import FOLDER, ExperimentContext
from spamo_cache.workflow.experiments.run import ExperimentRequest, preview, run_experiments
from spamo_cache.workflow.timings import StageTiming, StageTimings, size_of

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.records import Scorecard, ScoredClip

SHOWN = 10
"""Translations printed at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What came out of all stages."""

    run: Path
    report: Path
    card: Scorecard
    failed: Sequence[tuple[str, str]]
    stages: StageTimings


def reproduce(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="Corpus by name.")
    ] = resolve.EMBEDDED,
    *,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    size: options.Size = None,
    limit: options.Limit = None,
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", metavar="FILE", help="Pipeline [default: CORPUS/default.yaml]"),
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
        str | None, typer.Option("--only", metavar="A,B", help="With --all: just these.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="With --all: runs of each variant.")
    ] = 1,
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
    as_json: options.Json = False,
) -> None:
    """Run all stages: corpus, manifest, extract, train, evaluate, report.

    What is done already is reused, so the command can be stopped and given again at any time.
    With --all, every experiment in pipelines/experiments is run in place of the default pipeline.

    Example:

        spamo-cache reproduce signed-weather
    """
    if manifest is None:
        resolve.check_corpus(corpus)
    sized = corpus if size is None else f"{corpus}-{size}"
    common: dict[str, Any] = {
        "source": {"manifest": manifest, "root": root, "size": size, "limit": limit},
        "pipeline": (pipeline or corpus, overrides or []),
        "store": store,
        "device": device,
        "workers": workers,
        "executor": executor,
    }
    out = output or Path("runs") / sized
    if everything:
        asked = ExperimentRequest(resolve.names(only), seeds, jobs)
        _all(corpus, out, asked, dry_run=dry_run, as_json=as_json, **common)
        return
    if only or jobs or dry_run or seeds > 1:
        raise UsageError("--only, --seeds, --jobs and --dry-run are for experiments: add --all")
    found = _run(corpus, out, **common)
    if as_json:
        display.as_json(_document(found))
    else:
        _show(found)
    display.failures(found.failed)
    if found.failed:
        raise typer.Exit(1)


def _all(
    corpus: str,
    out: Path,
    asked: ExperimentRequest,
    *,
    source: dict[str, Any],
    pipeline: tuple[str, list[str]],
    store: str | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    **work: Any,
) -> None:
    """Every experiment, or with ``dry_run`` what they would take."""
    _, path = resolve.load_pipeline(*pipeline)
    if dry_run:
        table, root = resolve.load_manifest(
            corpus,
            source["manifest"],
            source["root"],
            size=source["size"],
            limit=source["limit"],
            watcher=display.TERMINAL,
        )
    else:
        stages = StageTimings(out / FOLDER / "stages.json")
        table, root = _sentences(corpus, out, stages, source)
    setting = ExperimentContext(
        pipeline=path,
        overrides=pipeline[1],
        out=out,
        table=table,
        corpus_root=root,
        store=store,
        device=device,
        work=work,
    )
    if dry_run:
        preview(setting, asked)
    elif not run_experiments(setting, asked, stages, as_json=as_json):
        raise typer.Exit(1)


def _run(
    corpus: str,
    out: Path,
    *,
    source: dict[str, Any],
    pipeline: tuple[str, list[str]],
    store: str | None,
    device: str,
    **work: Any,
) -> Reproduction:
    from spamo_cache.model.llm import check_llm
    from spamo_cache.model.weights import locate

    loaded, path = resolve.load_pipeline(*pipeline)
    stages = StageTimings(out / "stages.json")
    table, root = _sentences(corpus, out, stages, source)
    # Extraction may take days: what would stop training after it is told now.
    check_llm(locate(loaded.llm.weights, path.parent), loaded.llm)
    with stages.stage("extract") as stage:
        _, spec = resolve.spec_used(loaded, path.parent)
        extracted = workflow.extract(
            manifest=table,
            root=root,
            spec=spec,
            store=store,
            set=loaded.spec_set,
            streams=loaded.streams,
            device=device,
            watcher=display.TERMINAL,
            **work,
        )
        stage.reused = extracted.done == 0
        local = (path for path in extracted.stores.values() if isinstance(path, Path))
        stage.bytes = sum(map(size_of, local))
    with stages.stage("train") as stage:
        run = out / loaded.name
        trained = workflow.train(
            pipeline[0],
            set=pipeline[1],
            store=store,
            output=run,
            features=extracted.stores,
            device=device,
            watcher=display.TERMINAL,
        )
        stage.reused, stage.bytes = trained.reused, size_of(run / "model.safetensors")
    with stages.stage("evaluate") as stage:
        before = _written(run / "evaluation" / "test.json")
        card = workflow.evaluate(run, device=device, store=store, watcher=display.TERMINAL)
        stage.reused = before == _written(run / "evaluation" / "test.json")
        stage.bytes = size_of(run / "evaluation")
    with stages.stage("report") as stage:
        page = workflow.report(run, out / "report.html", root=root)
        stage.bytes = size_of(page)
    return Reproduction(run=run, report=page, card=card, failed=extracted.failed, stages=stages)


def _sentences(
    corpus: str, out: Path, stages: StageTimings, source: dict[str, Any]
) -> tuple[Manifest, Path]:
    """The manifest, kept in ``out``, and the folder of the raw corpus."""
    with stages.stage("corpus") as stage:
        table, root = _corpus(corpus, stage, **source)
    with stages.stage("manifest") as stage:
        stage.bytes = size_of(table.write(out / "manifest.parquet"))
    return table, root


def _corpus(
    name: str,
    stage: StageTiming,
    *,
    manifest: Path | None,
    root: Path | None,
    size: int | None,
    limit: int | None,
) -> tuple[Manifest, Path]:
    stage.reused = manifest is not None or resolve.is_there(name, root, size)
    table, base = resolve.load_manifest(
        name, manifest, root, size=size, limit=limit, watcher=display.TERMINAL
    )
    # Only what this project draws: walking through a real corpus would take longer than reading it.
    stage.bytes = size_of(base) if name == resolve.EMBEDDED else 0
    return table, base


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _document(found: Reproduction) -> dict[str, Any]:
    return {
        "run": found.run,
        "report": found.report,
        "scores": display.as_dict(found.card),
        "failed": dict(found.failed),
        "stages": [asdict(stage) for stage in found.stages.all.values()],
    }


def _show(found: Reproduction) -> None:
    scores.show(found.card)
    display.table(
        ("clip", "translation", "reference"),
        [(line.id, line.hypothesis, line.reference) for line in _sample(found.run)],
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
            for stage in found.stages.all.values()
        ],
        title="StageTimings",
    )
    display.line(f"report: {found.report.resolve()}")


def _sample(run: Path) -> list[ScoredClip]:
    """Translations spread evenly over the test set."""
    from spamo_cache.runs.records import read_lines

    lines = read_lines(run, "test")
    return lines[:: max(1, len(lines) // SHOWN)][:SHOWN]
