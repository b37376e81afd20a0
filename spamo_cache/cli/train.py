"""``spamo-cache train``: features and sentences -> a translator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache.cli import display, features, inputs, options

if TYPE_CHECKING:
    from spamo_cache.train import RunSummary


def train(
    pipeline: options.Pipeline = options.EMBEDDED,
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
    store: options.Store = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="RUN", help="Folder of the run [default: runs/CORPUS/NAME]"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a translator from the features that were extracted last; VT-Align, then translation.

    Example:

        spamo-cache train pipelines/phoenix14t/default.yaml --set translate.lr=1e-4 -o runs/lr
    """
    summary, out = run(
        pipeline,
        overrides or [],
        store,
        output,
        resume=resume,
        manifest=manifest,
        given=stores or (),
    )
    if json:
        display.as_json(asdict(summary))
    else:
        _show(summary, out)
    for failed in summary.failed.values():
        display.failures(list(failed.items()))


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
    resume: bool,
    manifest: Path | None = None,
    given: Sequence[str] = (),
) -> tuple[RunSummary, Path]:
    """Find what the pipeline needs and train it; the run's summary and folder."""
    from spamo_cache.train import train as train_pipeline

    pipeline, path = inputs.load_pipeline(name, overrides)
    table, stores = features.load(
        pipeline, path.parent, manifest=manifest, store=store, given=given
    )
    out = output or Path("runs") / pipeline.corpus / pipeline.name
    with display.progress(f"training {pipeline.name}", "steps") as advance:

        def step(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            advance(done, total, f"{stage}: {shown}" if shown else stage)

        summary = train_pipeline(
            pipeline,
            base=path.parent,
            manifest=table,
            stores=stores,
            out=out,
            resume=resume,
            progress=step,
        )
    return summary, out
