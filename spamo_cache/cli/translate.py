"""``spamo-cache translate``: a new video -> text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from spamo_cache.cli import display, inputs, options
from spamo_cache.errors import UsageError


def translate(
    run: options.Run,
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files or folders of frames.")
    ],
    *,
    start: Annotated[float | None, typer.Option("--start", help="Seconds; from here on.")] = None,
    end: Annotated[float | None, typer.Option("--end", help="Seconds; up to here.")] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Translate new videos by the same decoder, encoders and translator that the run was made with.

    Example:

        spamo-cache translate runs/signed-weather/default clip.mp4 --start 1.5 --end 4
    """
    said = dict(sentences(run, videos, start, end, device))
    document = [{"video": path, "text": said.get(str(path))} for path in videos]
    if json:
        display.as_json(document)
    else:
        for path in videos:
            typer.echo(f"{path}\t{said.get(str(path), '')}")
    if len(said) < len({str(path) for path in videos}):
        raise typer.Exit(1)


def sentences(
    run: Path, videos: Sequence[Path], start: float | None, end: float | None, device: str
) -> Iterator[tuple[str, str]]:
    """Each video that could be read with its translation; the others are named on stderr."""
    from spamo_cache.datasets.manifest import Clip, Manifest
    from spamo_cache.evaluate import load_run, translate_features
    from spamo_cache.extract.run import extract
    from spamo_cache.store.reader import FeatureStore

    for video in videos:
        if not video.exists():
            raise UsageError("no such video", where=video, remedy="check the path")
    loaded = load_run(run, device=device)
    spec, spec_path = inputs.load_spec(loaded.pipeline.spec, _base(run))
    root = Path(os.path.commonpath([video.resolve().parent for video in videos]))
    clips = [
        Clip(
            id=str(video),
            split="new",
            source=video.resolve().relative_to(root).as_posix(),
            start=start,
            end=end,
            text="?",
            language=loaded.pipeline.text.language,
            extra={},
        )
        for video in dict.fromkeys(videos)
    ]
    with tempfile.TemporaryDirectory(prefix="spamo-cache-") as scratch:
        summary = extract(
            Manifest.from_clips("translate", clips),
            root,
            spec,
            spec_path.parent,
            store_root=Path(scratch),
            streams=loaded.pipeline.streams,
            executor="serial",
            device=device,
        )
        display.failures(summary.failed)
        stores = {name: FeatureStore.open(path) for name, path in summary.stores.items()}
        for clip in clips:
            if all(store.state(clip.id) == "ok" for store in stores.values()):
                rows = {name: store.read([clip.id])[0] for name, store in stores.items()}
                yield clip.id, translate_features(loaded, rows)


def _base(run: Path) -> Path:
    """The folder of the pipeline's file, against which the run's paths are meant."""
    from spamo_cache.train.checkpoint import RunFolder

    return Path(RunFolder(run).read_about()["base"])
