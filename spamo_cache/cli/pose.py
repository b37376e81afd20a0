"""``spamo-cache pose``: the poses of a corpus, a ``.pose`` file for each clip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import spamo_cache as sc
from spamo_cache import human
from spamo_cache.cli import display, options, watching


def pose(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    size: options.Size = None,
    limit: options.Limit = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Splits to make poses of, by commas [default: all]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the files [default: ROOT/poses]"
        ),
    ] = None,
    openpose: Annotated[
        Path | None,
        typer.Option(
            "--openpose", metavar="DIR", help="Import OpenPose's JSON: DIR/ID/*_keypoints.json."
        ),
    ] = None,
    wholebody: Annotated[
        Path | None,
        typer.Option(
            "--wholebody",
            metavar="DIR",
            help="Import 133 points of RTMPose, DWPose, MMPose: DIR/ID.npy, .npz, .json, .pkl.",
        ),
    ] = None,
    drop_out: Annotated[
        float | None,
        typer.Option(
            "--drop-out",
            metavar="SHARE",
            help="Of a bundled corpus: its own poses, hands lost in this share of the frames.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="holistic_landmarker.task, which current versions of MediaPipe need.",
        ),
    ] = None,
    reader: Annotated[
        Literal["auto", "pyav", "decord"] | None,
        typer.Option("--reader", help="Video decoder; all give the same frames [default: auto]"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Processes [default: one for 2 cores]"),
    ] = None,
    scheduler: options.Scheduler = None,
    slurm: options.Slurm = None,
    executor: options.Executor = "dask",
    json: options.JsonLines = False,
) -> None:
    """Make a .pose file for every clip that has none: where hands, face and shoulders are.

    MediaPipe Holistic estimates them from the frames that extract sees, unless another estimator's
    output is imported. Streams of regions and poses are computed with these files.

    Example:

        spamo-cache pose --dataset phoenix14t --root /data/PHOENIX-2014-T
    """
    summary = sc.pose(
        dataset,
        root=root,
        manifest=manifest,
        size=size,
        limit=limit,
        split=split,
        output=output,
        openpose=openpose,
        wholebody=wholebody,
        drop_out=drop_out,
        model=model,
        reader=reader,
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        executor=executor,
        watcher=watching.watcher(json=json),
    )
    if json:
        display.as_line({"event": "summary", **asdict(summary)})
    else:
        display.pairs(
            {
                "clips": summary.clips,
                "made": summary.made,
                "there already": summary.there,
                "failed": len(summary.failed),
                **({"frames": summary.frames} if summary.frames else {}),
                **{f"{part} seen": f"{share:.0%}" for part, share in summary.seen.items()},
                "took": human.duration(summary.seconds),
                "folder": summary.folder,
            }
        )
    display.failures(
        summary.failed, sources=summary.failed_sources, rest="--json lists all of them"
    )
    if summary.failed:
        raise typer.Exit(1)
