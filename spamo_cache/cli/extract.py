"""``spamo-cache extract``: stage 1, videos -> feature stores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache.cli import display, features, inputs, options

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.extract.progress import Progress
    from spamo_cache.extract.summary import Summary


def extract(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    size: options.Size = None,
    limit: options.Limit = None,
    spec: Annotated[
        str | None,
        typer.Option("--spec", help="Cache spec, by name or path [default: the corpus's own]"),
    ] = None,
    streams: Annotated[
        str | None, typer.Option("--streams", help="Streams to compute, with commas [default: all]")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Splits to compute, with commas [default: all]")
    ] = None,
    store: options.Store = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="A Dask scheduler, as tcp://host:8786."
        ),
    ] = None,
    slurm: Annotated[
        Path | None, typer.Option("--slurm", metavar="FILE", help="YAML of a Slurm cluster.")
    ] = None,
    executor: options.Executor = "dask",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the clips again that failed before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what is there already.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Compute the features of every clip, once; what is there already is never computed again.

    Example:

        spamo-cache extract --dataset phoenix14t --root /data/PHOENIX-2014-T --streams spatial
    """
    table, base = inputs.load_manifest(dataset, manifest, root, size=size, limit=limit)
    summary = run(
        table,
        base,
        spec or inputs.spec_of(table.corpus),
        store,
        streams=inputs.names(streams),
        splits=inputs.names(split),
        executor=executor,
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        device=device,
        dry_run=dry_run,
        retry_failed=retry_failed,
    )
    if json:
        display.as_json(asdict(summary))
    else:
        _show(summary, planned=dry_run)
    display.failures(summary.failed)
    if summary.failed:
        raise typer.Exit(1)


def run(manifest: Manifest, root: Path, spec: str, store: str | None, **options: Any) -> Summary:
    """Extract a manifest by a spec and note it for ``train``; options as of ``extract.extract``."""
    from spamo_cache.datasets import registry
    from spamo_cache.extract.run import extract as compute

    loaded, path = inputs.load_spec(spec)
    known = registry.CORPORA.get(manifest.corpus)
    with display.progress(manifest.corpus, "frames") as advance:

        def report(now: Progress) -> None:
            if now.stage == "probe":
                advance(now.clips, now.clips_total, "looking at clips")
            else:
                failed = f", {now.failures} failed" if now.failures else ""
                done = f"{now.clips:,} of {now.clips_total:,} clips{failed}"
                advance(now.frames, now.frames_total, done)

        summary = compute(
            manifest,
            root,
            loaded,
            path.parent,
            store_root=inputs.store_root(store),
            terms="" if known is None else known.terms,
            progress=report,
            **options,
        )
    if not options.get("dry_run"):
        features.remember(manifest, summary.stores.values())
    return summary


def _show(summary: Summary, *, planned: bool) -> None:
    missing = summary.clips - summary.reused - len(summary.failed)
    display.pairs(
        {
            "clips": summary.clips,
            "frames": summary.frames,
            "there already": summary.reused,
            "to compute" if planned else "computed": missing if planned else summary.done,
            "failed": len(summary.failed),
            "device": summary.device,
            **_effort(summary, planned=planned),
        }
    )
    display.table(
        ("stream", "rows", "size", "clips held before", "store"),
        [
            (name, stream.rows, display.size(stream.bytes), stream.held, stream.store)
            for name, stream in summary.streams.items()
        ],
    )


def _effort(summary: Summary, *, planned: bool) -> dict[str, str]:
    if planned:
        return {"estimated": display.duration(3600 * summary.device_hours)}
    rate = summary.computed_frames / summary.seconds if summary.seconds else 0.0
    took = display.duration(summary.seconds)
    return {"took": f"{took} ({rate:,.1f} frames/s)" if summary.computed_frames else took}
