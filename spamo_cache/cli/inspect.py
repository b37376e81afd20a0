"""``spamo-cache inspect``: what the encoders see of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import spamo_cache as sc
from spamo_cache.cli import display, options, watching


def inspect(
    clip: Annotated[
        str | None,
        typer.Argument(
            metavar="CLIP",
            help="Id of a clip, a video file or a folder of frames [default: the first clip]",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Picture to write; .png or .jpg."),
    ] = Path("sheet.png"),
    *,
    dataset: options.Dataset = None,
    manifest: options.ManifestFile = None,
    root: options.Root = None,
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec", metavar="SPEC", help="Cache spec [default: that of the corpus's pipeline]"
        ),
    ] = None,
    overrides: options.SpecOverrides = None,
    streams: Annotated[
        str | None, typer.Option("--streams", metavar="A,B", help="Only these streams.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="Rows of each stream to show.")
    ] = 4,
    boxes: Annotated[
        bool,
        typer.Option(
            "--boxes", help="Draw the boxes of regions on frames first: the spec's, or every one."
        ),
    ] = False,
    poses: Annotated[
        Path | None,
        typer.Option(
            "--poses",
            metavar="PATH",
            help="Folder of .pose files by id, or the clip's own [default: poses below --root]",
        ),
    ] = None,
) -> None:
    """Draw what each stream sees of a clip: frames after resize and crop, S2 tiles, windows.

    And close-ups of regions and the points of a pose, with the rows that are not valid. Frames are
    prepared as for extraction. Weights are not needed, only the configurations beside them. Rows
    have the numbers that they have in a store.

    Example:

        spamo-cache inspect test-00017 -o sheet.png
    """
    display.line(
        sc.inspect(
            clip,
            output,
            dataset=dataset,
            manifest=manifest,
            root=root,
            spec=spec,
            set=overrides or (),
            streams=streams,
            rows=rows,
            boxes=boxes,
            poses=poses,
            watcher=watching.watcher(),
        )
    )
