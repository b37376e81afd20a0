"""``spamo-cache train``: features and sentences -> a translator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache import human
from spamo_cache.cli import completion, display, options, watching
from spamo_cache.workflow import EMBEDDED

if TYPE_CHECKING:
    from spamo_cache.train import RunSummary
    from spamo_cache.workflow.experiments.sweep import SweepSummary


def train(
    pipeline: options.Pipeline = EMBEDDED,
    *,
    overrides: options.Overrides = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Sentences to train on [default: the extracted ones]",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="STREAM=STORE",
            help="Read a stream from here [default: searched]",
            autocompletion=completion.features,
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
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            help="Of several: runs at a time [default: one per GPU, or as many as cores allow]",
        ),
    ] = None,
    json: options.JsonLines = False,
) -> None:
    """Train a translator from the features that were extracted last; VT-Align, then translation.

    After an interruption the same command resumes; a finished run is reused. A pipeline with a
    sweep, or with --seeds, is several runs.

    Example:

        spamo-cache train pipelines/phoenix14t/default.yaml --set translate.lr=1e-4 -o runs/lr
    """
    from spamo_cache.workflow import resolve
    from spamo_cache.workflow.train import run_folder, train_pipeline

    loaded, path = resolve.named_pipeline(pipeline, overrides or [])
    if export_official is not None:
        _export(run_folder(loaded, output), export_official)
        return
    sources: dict[str, Any] = {
        "manifest": manifest,
        "features": features or (),
        "store": store,
        "root": root,
        "device": device,
        "watcher": watching.watcher(json=json),
    }
    if import_official is None and (loaded.sweep or seeds is not None):
        _sweep(pipeline, overrides or [], sources, output, seeds=seeds, jobs=jobs, json=json)
        return
    summary = train_pipeline(
        loaded, path.parent, output=output, import_official=import_official, **sources
    )
    if not _leads():
        return
    if json:
        display.as_line({"event": "summary", **asdict(summary)})
    else:
        _show(summary)
    for failed in summary.failed.values():
        display.failures(list(failed.items()))


def _export(run: Path, file: Path) -> None:
    from spamo_cache.train.official import export_checkpoint

    count = export_checkpoint(run, file)
    display.pairs({"run": run, "tensors": count, "written to": file})


def _leads() -> bool:
    """Whether this process does the printing, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def _sweep(
    pipeline: str,
    overrides: Sequence[str],
    sources: Mapping[str, Any],
    output: Path | None,
    *,
    seeds: int | None,
    jobs: int | None,
    json: bool,
) -> None:
    """Train every combination under every seed, and show what they come to together."""
    from spamo_cache.workflow.experiments.sweep import train_sweep

    done = train_sweep(pipeline, set=overrides, output=output, seeds=seeds, jobs=jobs, **sources)
    if _leads():
        if json:
            experiments, runs = list(map(asdict, done.spreads)), list(map(asdict, done.runs))
            display.as_line({"event": "summary", "experiments": experiments, "runs": runs})
        else:
            _show_sweep(done)
        display.failures(done.failed)
    if done.failed:
        raise typer.Exit(1)


def _show_sweep(done: SweepSummary) -> None:
    display.table(
        ["run", "best BLEU-4 on dev", "at step"],
        [(str(run.path), run.best_bleu, run.best_step) for run in done.runs],
    )
    display.table(
        ["experiment", "runs", "mean", "deviation"],
        [(one.name, one.runs, one.mean, one.deviation) for one in done.spreads],
    )


def _show(summary: RunSummary) -> None:
    took = "there already" if summary.reused else human.duration(summary.seconds)
    display.pairs(
        {
            "run": summary.path,
            "took": took,
            "trained parameters": summary.trained,
            "of the adapter": summary.adapter,
            "retrieval on dev after VT-Align": summary.recall,
            "best BLEU-4 on dev": summary.best_bleu,
            "at step": summary.best_step,
            "seconds a step": summary.step_seconds,
            "waiting for features": None if summary.waiting is None else f"{summary.waiting:.1%}",
        }
    )
