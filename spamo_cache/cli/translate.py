"""``spamo-cache translate``: a new video -> text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import spamo_cache as sc
from spamo_cache.cli import display, options

if TYPE_CHECKING:
    from spamo_cache.workflow.translate import Translation


def translate(
    run: options.Run,
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files or folders of frames.")
    ],
    *,
    start: Annotated[float | None, typer.Option("--start", help="Seconds; from here on.")] = None,
    end: Annotated[float | None, typer.Option("--end", help="Seconds; up to here.")] = None,
    window: Annotated[
        float | None,
        typer.Option("--window", metavar="SECONDS", min=0.1, help="Translate piece by piece."),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option("--overlap", metavar="SECONDS", min=0, help="How far two windows overlap."),
    ] = 0.0,
    llm: options.LLM = None,
    spec: options.Spec = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Translate new videos by the same decoder, encoders and translator that the run was made with.

    Long videos are cut by --window; each window is a line of its own, with its times.

    Example:

        spamo-cache translate runs/signed-weather/default clip.mp4 --start 1.5 --end 4
    """
    translations = sc.translate(
        run,
        videos,
        start=start,
        end=end,
        window=window,
        overlap=overlap,
        llm=llm,
        spec=spec,
        device=device,
    )
    failed = [(one.id, one.reason) for one in translations if one.text is None]
    display.failures(failed)
    if json:
        display.as_json([_document(one, window) for one in translations])
    else:
        for one in translations:
            times = () if window is None else (f"{_time(one.start)}-{_time(one.end)}",)
            display.line(one.video, *times, one.text or "")
    if failed:
        raise typer.Exit(1)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _document(one: Translation, window: float | None) -> dict[str, object]:
    times = {} if window is None else {"start": one.start, "end": one.end}
    return {"video": one.video, **times, "text": one.text}
