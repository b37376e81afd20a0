"""``spamo-cache extract``: stage 1, videos -> feature stores."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import spamo_cache as sc
from spamo_cache import human
from spamo_cache.cli import completion, display, options, watching

if TYPE_CHECKING:
    from spamo_cache.extract.summary import StreamSummary, Summary


def extract(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    size: options.Size = None,
    limit: options.Limit = None,
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec",
            help="Cache spec, by name or path [default: the corpus's own]",
            autocompletion=completion.specs,
        ),
    ] = None,
    streams: Annotated[
        str | None,
        typer.Option("--streams", help="Streams to compute, separated by commas [default: all]"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Splits to compute, separated by commas [default: all]"),
    ] = None,
    poses: options.Poses = None,
    changes: options.SpecOverrides = None,
    reader: Annotated[
        Literal["auto", "pyav", "decord"] | None,
        typer.Option(
            "--reader", help="Video decoder; all give the same frames [default: the spec's]"
        ),
    ] = None,
    store: options.Store = None,
    device: options.Device = "auto",
    compile: Annotated[  # noqa: A002 (the option's name)
        Literal["auto", "on", "off"],
        typer.Option("--compile", help="Compile the networks; auto: on a GPU, if it pays."),
    ] = "auto",
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
    slurm: options.Slurm = None,
    executor: options.Executor = "dask",
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try failed clips again; the others are kept."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be computed and what exists already.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="With --dry-run: benchmark for 20 s to calibrate the estimate."
        ),
    ] = False,
    json: options.JsonLines = False,
) -> None:
    """Compute the features of every clip, once; what exists already is never computed again.

    Unchanged clips are copied from any store below --store or SPAMO_CACHE that was computed alike.

    Example:

        spamo-cache extract --dataset phoenix14t --root /data/PHOENIX-2014-T --streams spatial
    """
    summary = sc.extract(
        dataset,
        root=root,
        manifest=manifest,
        size=size,
        limit=limit,
        spec=spec,
        streams=streams,
        split=split,
        poses=poses,
        set=changes or (),
        reader=reader,
        store=store,
        device=device,
        compile=compile,
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        executor=executor,
        retry_failed=retry_failed,
        dry_run=dry_run,
        calibrate=calibrate,
        watcher=watching.watcher(json=json),
    )
    if json:
        display.as_line({"event": "summary", **asdict(summary)})
    else:
        _show(summary, planned=dry_run)
    for note in [] if json else summary.notes:
        display.line(f"note: {note}")
    display.failures(
        summary.failed, sources=summary.failed_sources, rest="--json lists all of them"
    )
    if summary.failed:
        if not dry_run:
            display.say("after fixing the cause, rerun with --retry-failed")
        raise typer.Exit(1)


def _show(summary: Summary, *, planned: bool) -> None:
    display.pairs(
        {
            "clips": summary.clips,
            "frames": summary.frames,
            **{f"{name} rows": _rows(stream) for name, stream in summary.streams.items()},
            "there already": summary.reused,
            "to copy" if planned else "copied": summary.copied,
            "to compute" if planned else "computed": summary.done,
            "failed": len(summary.failed),
            **_oddities(summary, planned=planned),
            "device": summary.device,
            **_effort(summary, planned=planned),
        }
    )
    display.table(
        ("stream", "size", "clips held before", "made by", "store"),
        [
            (
                name,
                "unknown" if stream.bytes is None else human.size(stream.bytes),
                stream.held,
                stream.made_by or "you, now",
                stream.store,
            )
            for name, stream in summary.streams.items()
        ],
    )
    for name, stream in summary.streams.items():
        for source in stream.copied_from:
            display.line(
                f"{name}: {human.count(source.clips, 'clip')} held by {source.store}, "
                f"made by {source.made_by}"
            )


def _rows(stream: StreamSummary) -> str:
    thinned = stream.per == "frame" and stream.stride > 1
    unit = f"{stream.stride} frames" if thinned else stream.per
    return f"{stream.rows:,} (one per {unit})"


def _oddities(summary: Summary, *, planned: bool) -> dict[str, object]:
    """What is worth a line only where there is any."""
    found = {
        "unreadable": summary.unreadable if planned else 0,
        "stray files": summary.strays,
    }
    return {name: count for name, count in found.items() if count}


def _effort(summary: Summary, *, planned: bool) -> dict[str, str]:
    if planned:
        return _estimate(summary)
    took = human.duration(summary.seconds)
    if not summary.computed_frames:
        return {"took": took}
    shown = {"took": f"{took} ({summary.rate:,.1f} frames/s)"}
    if summary.compile_seconds:
        taken = human.duration(summary.compile_seconds)
        shown["compiling"] = f"{taken}, no part of that rate; the next run takes less"
    if summary.busy is not None and summary.device != "cpu":
        shown["device busy"] = f"{summary.busy:.1%} of the time between its batches"
    return shown


def _estimate(summary: Summary) -> dict[str, str]:
    if summary.device_hours is None:
        return {"estimated": "unknown: the weights are not on this machine"}
    hours = human.duration(3600 * summary.device_hours)
    if summary.calibrated is None:
        return {"estimated": f"{hours} of the device, at a usual rate"}
    return {"estimated": f"{hours} of the device, at {summary.calibrated:,.1f} frames/s measured"}
