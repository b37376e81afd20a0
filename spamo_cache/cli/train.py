"""``spamo-cache train``: features and sentences -> a translator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache.cli import display, options
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import input_streams
from spamo_cache.workflow.stores import pipeline_stores

if TYPE_CHECKING:
    from spamo_cache.config import Pipeline
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.train import Features, RunSummary, Spread


def train(
    pipeline: options.Pipeline = resolve.EMBEDDED,
    *,
    overrides: options.Overrides = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Sentences to train on [default: as extracted]"
        ),
    ] = None,
    stores: Annotated[
        list[str] | None,
        typer.Option(
            "--features", metavar="STREAM=STORE", help="Read a stream from here [default: found]"
        ),
    ] = None,
    store: options.Search = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Raw corpus, to tune encoders from its frames."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="RUN", help="Folder of the run [default: runs/CORPUS/NAME]"
        ),
    ] = None,
    import_official: Annotated[
        Path | None,
        typer.Option(
            "--import-official",
            metavar="FILE",
            help="Train nothing: take the weights of this checkpoint of the official release.",
        ),
    ] = None,
    export_official: Annotated[
        Path | None,
        typer.Option(
            "--export-official",
            metavar="FILE",
            help="Train nothing: write the run's weights as the official release names them.",
        ),
    ] = None,
    device: options.Device = "auto",
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="N", min=1, help="A run for each of N seeds."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Train a translator from the features that were extracted last; VT-Align, then translation.

    After an interruption the same command resumes; a finished run is reused. A pipeline with a
    sweep, or with --seeds, is several runs.

    Example:

        spamo-cache train pipelines/phoenix14t/default.yaml --set translate.lr=1e-4 -o runs/lr
    """
    if export_official is not None:
        _export(pipeline, overrides or [], output, export_official)
        return
    loaded, path = resolve.load_pipeline(pipeline, overrides or [])
    needs = Needs(path.parent, store, manifest, stores or (), root, device)
    if import_official is None and (loaded.sweep or seeds is not None):
        _show_all(loaded, needs, seeds, output, json=json)
        return
    out = output or _folder(loaded)
    summary = train_one(loaded, needs, out, checkpoint=import_official)
    if not _leads():
        return
    if json:
        display.as_json(asdict(summary))
    else:
        _show(summary, out)
    for failed in summary.failed.values():
        display.failures(list(failed.items()))


def _export(name: str, overrides: list[str], output: Path | None, file: Path) -> None:
    from spamo_cache.train.official import export_checkpoint

    out = output or _folder(resolve.load_pipeline(name, overrides)[0])
    count = export_checkpoint(out, file)
    display.pairs({"run": out, "tensors": count, "written to": file})


def _folder(pipeline: Pipeline) -> Path:
    return Path("runs") / pipeline.corpus / pipeline.name


def _leads() -> bool:
    """Whether this is the process that speaks, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def _show_all(
    pipeline: Pipeline,
    needs: Needs,
    seeds: int | None,
    parent: Path | None,
    *,
    json: bool,
) -> None:
    """Train every variant under every seed; a failed one does not keep the others from it."""
    from spamo_cache.train import seeded, spread, variants

    failed: list[tuple[str, str]] = []
    spreads, runs = [], []
    for variant in variants(pipeline):
        scores = []
        for single in [variant] if seeds is None else seeded(variant, seeds):
            out = _folder(single) if parent is None else parent / single.name
            try:
                summary = train_one(single, needs, out)
            except UsageError:
                raise
            except SpamoError as error:
                failed.append((single.name, error.what))
                continue
            runs.append(summary)
            scores += [] if summary.best_bleu is None else [summary.best_bleu]
        spreads += [spread(variant.name, scores)] if scores else []
    if _leads():
        _print_all(spreads, runs, json=json)
        display.failures(failed)
    if failed:
        raise typer.Exit(1)


def _print_all(spreads: Sequence[Spread], runs: Sequence[RunSummary], *, json: bool) -> None:
    if json:
        display.as_json(
            {"experiments": list(map(asdict, spreads)), "runs": list(map(asdict, runs))}
        )
        return
    display.table(
        ["run", "best BLEU-4 on dev", "at step"],
        [(str(run.path), run.best_bleu, run.best_step) for run in runs],
    )
    display.table(
        ["experiment", "runs", "mean", "deviation"],
        [(one.name, one.runs, one.mean, one.deviation) for one in spreads],
    )


def _show(summary: RunSummary, out: Path) -> None:
    took = "there already" if summary.reused else display.duration(summary.seconds)
    display.pairs(
        {
            "run": out,
            "took": took,
            "trained parameters": summary.trained,
            "retrieval on dev after VT-Align": summary.recall,
            "best BLEU-4 on dev": summary.best_bleu,
            "at step": summary.best_step,
        }
    )


def run(
    name: str,
    overrides: list[str],
    store: str | None,
    output: Path | None,
    *,
    manifest: Path | None = None,
    given: Sequence[str] = (),
    root: Path | None = None,
    device: str = "auto",
) -> tuple[RunSummary, Path]:
    """Find what the pipeline needs and train it; the run's summary and folder."""
    pipeline, path = resolve.load_pipeline(name, overrides)
    out = output or _folder(pipeline)
    needs = Needs(path.parent, store, manifest, given, root, device)
    return train_one(pipeline, needs, out), out


@dataclass(frozen=True, slots=True)
class Needs:
    """Where the features and sentences of a pipeline are looked for, see ``pipeline_stores``.

    Attributes:
        root: of the raw corpus, for pipelines that tune their encoders.
        device: to train on.
    """

    base: Path
    store: str | None
    manifest: Path | None
    given: Sequence[str]
    root: Path | None = None
    device: str = "auto"

    def found(self, pipeline: Pipeline) -> tuple[Manifest, Mapping[str, Features]]:
        table, stores = pipeline_stores(
            pipeline,
            self.base,
            manifest=self.manifest,
            store=self.store,
            given=self.given,
            watcher=display.TERMINAL,
        )
        return table, input_streams(pipeline, stores, self.base, self.root)


def train_one(
    pipeline: Pipeline, needs: Needs, out: Path, *, checkpoint: Path | None = None
) -> RunSummary:
    """Train one experiment into ``out``, with a bar that tells how it goes.

    Args:
        checkpoint: one of the official release, imported in place of training.
    """
    from spamo_cache.train import train as train_pipeline
    from spamo_cache.train.official import import_checkpoint

    table, stores = needs.found(pipeline)
    if checkpoint is not None:
        return import_checkpoint(
            checkpoint, pipeline, base=needs.base, manifest=table, stores=stores, out=out
        )
    with display.progress(f"training {pipeline.name}", "steps") as advance:

        def step(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            advance(done, total, f"{stage}: {shown}" if shown else stage)

        return train_pipeline(
            pipeline,
            base=needs.base,
            manifest=table,
            stores=stores,
            out=out,
            progress=step,
            notice=display.TERMINAL.warning,
            device=needs.device,
        )
