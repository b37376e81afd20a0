"""``spamo-cache extract``: stage 1, videos -> feature stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache.cli import display, options
from spamo_cache.config.spec import Reader
from spamo_cache.errors import StoreError
from spamo_cache.workflow import resolve, stores

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.extract.progress import Progress
    from spamo_cache.extract.summary import StreamSummary, Summary

_LOG_SECONDS = 1.0
"""Between progress lines of ``--json``."""
_EVENTS = {"failed", "dashboard", "waiting_for"}
"""What has lines of its own there."""


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
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the spec, as in streams.motion.stride=4."
        ),
    ] = None,
    reader: Annotated[
        Reader | None,
        typer.Option("--reader", help="Video decoder; all give the same frames [default: pyav]"),
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
        bool,
        typer.Option("--retry-failed", help="Try failed clips again; the others are kept."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what is there already.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="With --dry-run: measure for 20 s what its estimate rests on."
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="JSON Lines on stdout: progress, failures, and last the summary."
        ),
    ] = False,
) -> None:
    """Compute the features of every clip, once; what is there already is never computed again.

    Unchanged clips are copied from any store below --store or SPAMO_CACHE that was computed alike.

    Example:

        spamo-cache extract --dataset phoenix14t --root /data/PHOENIX-2014-T --streams spatial
    """
    request: dict[str, Any] = {
        "streams": resolve.names(streams),
        "executor": executor,
        "workers": workers,
        "scheduler": scheduler,
        "slurm": slurm,
        "device": device,
        "dry_run": dry_run,
        "calibrate": calibrate,
    }
    splits = resolve.names(split)
    changes = [*(changes or ()), *([f"frames.reader={reader}"] if reader else ())]
    if manifest is None:
        _check(dataset or resolve.EMBEDDED, spec, changes, splits, request)
    table, base = resolve.load_manifest(
        dataset, manifest, root, size=size, limit=limit, watcher=display.TERMINAL
    )
    summary = run(
        table,
        base,
        spec or resolve.spec_of(table.corpus),
        store,
        changes=changes,
        splits=splits,
        retry_failed=retry_failed,
        log=_Log() if json else None,
        **request,
    )
    if json:
        display.as_line({"event": "summary", **asdict(summary)})
    else:
        _show(summary, planned=dry_run)
    display.failures(summary.failed, rest="--json lists all of them")
    if summary.failed:
        if not dry_run:
            display.say("once the cause is mended, --retry-failed computes just those")
        raise typer.Exit(1)


def _check(
    corpus: str,
    spec: str | None,
    changes: Sequence[str],
    splits: Sequence[str] | None,
    request: Mapping[str, Any],
) -> None:
    """Raise what is wrong with a request before its corpus is read, or even drawn."""
    from spamo_cache.datasets import signed_weather
    from spamo_cache.extract.run import check
    from spamo_cache.extract.survey import chosen

    resolve.check_corpus(corpus)
    loaded, _ = resolve.load_spec(spec or resolve.spec_of(corpus), changes=changes)
    check(loaded, **request)
    if corpus == signed_weather.NAME:
        chosen(splits, signed_weather.SPLITS, "split")


def run(
    manifest: Manifest,
    root: Path,
    spec: str,
    store: str | None,
    *,
    changes: Sequence[str] = (),
    log: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Summary:
    """Extract a manifest by a spec and note it for ``train``; options as of ``extract.extract``.

    Args:
        changes: to the spec, ``key=value`` as ``--set`` has them.
        log: is told the progress besides the bar, in place of lines for people.
    """
    from spamo_cache.extract.run import extract as compute

    loaded, path = resolve.load_spec(spec, changes=changes)
    if not options.get("dry_run"):
        stores.check_room(manifest)
    tell = log or _Notes()
    with display.progress(manifest.corpus, "frames") as advance:

        def report(now: Progress) -> None:
            tell(now)
            if now.stage == "probe":
                advance(now.clips, now.clips_total, "looking at clips")
            elif now.waiting_for:
                advance(now.frames, now.frames_total, f"waiting for {'; '.join(now.waiting_for)}")
            else:
                failed = f", {now.failures} failed" if now.failures else ""
                done = f"{now.clips:,} of {now.clips_total:,} clips{failed}"
                advance(now.frames, now.frames_total, done)

        summary = compute(
            manifest,
            root,
            loaded,
            path.parent,
            store_root=resolve.store_root(store),
            progress=report,
            **options,
        )
    if not options.get("dry_run"):
        try:
            stores.remember(manifest, summary.stores.values())
        except OSError as error:
            raise StoreError(
                "the features are complete, but the note of them that `train` reads cannot be "
                f"written: {error.strerror}",
                where=error.filename,
                remedy="make room below SPAMO_HOME, then give the same command again: nothing is "
                "computed twice",
            ) from error
    return summary


class _Notes:
    """What people are told once: where the work can be watched, and whom it waits for."""

    def __init__(self) -> None:
        self._dashboard = ""
        self._waiting: Sequence[str] = ()

    def __call__(self, now: Progress) -> None:
        if now.dashboard != self._dashboard:
            self._dashboard = now.dashboard
            display.say(f"dashboard: {now.dashboard}")
        if now.waiting_for != self._waiting:
            self._waiting = now.waiting_for
            if self._waiting:
                display.say(f"waiting for {'; '.join(self._waiting)}, who computes what is left")


class _Log:
    """Progress as JSON Lines: failures as they happen, the rest about once a second."""

    def __init__(self) -> None:
        self._said = self._began = 0.0
        self._dashboard = ""
        self._waiting: Sequence[str] = ()

    def __call__(self, now: Progress) -> None:
        if now.dashboard != self._dashboard:
            self._dashboard = now.dashboard
            display.as_line({"event": "dashboard", "address": now.dashboard})
        if now.waiting_for != self._waiting:
            self._waiting = now.waiting_for
            display.as_line({"event": "waiting", "for": list(now.waiting_for)})
        for clip, reason in now.failed.items():
            display.as_line({"event": "failure", "clip": clip, "reason": reason})
        this = time.monotonic()
        if now.stage == "extract" and not self._began:
            self._began = this
        if now.clips == now.clips_total or this - self._said > _LOG_SECONDS:
            self._said = this
            display.as_line({"event": "progress", **self._line(now, this)})

    def _line(self, now: Progress, this: float) -> dict[str, Any]:
        line = {key: value for key, value in display.as_dict(now).items() if key not in _EVENTS}
        took = this - self._began
        if now.stage == "extract" and now.frames and took:
            rate = now.frames / took
            left = (now.frames_total - now.frames) / rate
            line |= {"frames_per_second": round(rate, 1), "seconds_left": round(left, 1)}
        return line


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
            (name, display.size(stream.bytes), stream.held, stream.by or "you, now", stream.store)
            for name, stream in summary.streams.items()
        ],
    )
    for name, stream in summary.streams.items():
        for donor in stream.donors:
            display.line(f"{name}: {donor.clips:,} clips held by {donor.store}, made by {donor.by}")


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
    rate = summary.computed_frames / summary.seconds if summary.seconds else 0.0
    took = display.duration(summary.seconds)
    return {"took": f"{took} ({rate:,.1f} frames/s)" if summary.computed_frames else took}


def _estimate(summary: Summary) -> dict[str, str]:
    hours = display.duration(3600 * summary.device_hours)
    if summary.calibrated is None:
        return {"estimated": f"{hours} of the device, at a usual rate"}
    return {"estimated": f"{hours} of the device, at {summary.calibrated:,.1f} frames/s measured"}
