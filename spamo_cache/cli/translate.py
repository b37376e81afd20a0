"""``spamo-cache translate``: a new video -> text."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache.cli import display, options
from spamo_cache.errors import UsageError, VideoError, WeightsError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.runs.folder import RunFolder
    from spamo_cache.store.reader import FeatureStore


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
        float, typer.Option("--overlap", metavar="SECONDS", min=0, help="Of two windows.")
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
    for video in videos:
        if not video.exists():
            raise UsageError("no such video", where=video, remedy="check the path")
        if _UNREADABLE.search(str(video.resolve())):
            raise UsageError(
                "a name with a backslash, a control character or bytes that are no UTF-8 cannot"
                " stand in a manifest, which every video is read by",
                where=video,
                remedy="rename the file, and the folders it lies in",
            )
    pieces = [Piece(video, start, end) for video in dict.fromkeys(videos)]
    if window is not None:
        pieces = [one for piece in pieces for one in windows(piece, window, overlap)]
    said = dict(sentences(run, pieces, device, llm=llm, given=spec))
    if json:
        display.as_json([_document(piece, said.get(piece), window) for piece in pieces])
    else:
        for piece in pieces:
            times = () if window is None else (f"{_time(piece.start)}-{_time(piece.end)}",)
            display.line(piece.video, *times, said.get(piece, ""))
    if len(said) < len(pieces):
        raise typer.Exit(1)


_UNREADABLE = re.compile(r"[\\\x00-\x1f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A video, or a range of it in seconds."""

    video: Path
    start: float | None
    end: float | None

    @property
    def id(self) -> str:
        times = [f"{time:.3f}" for time in (self.start, self.end) if time is not None]
        return " ".join([str(self.video), *times])


def windows(piece: Piece, window: float, overlap: float) -> list[Piece]:
    """A piece cut into windows of equal length; the last one ends where the piece does.

    Raises:
        UsageError: windows that do not move on, or a folder of frames, which has no times.
    """
    from spamo_cache.video.timeline_cache import timeline

    if overlap >= window:
        raise UsageError(f"windows of {window:g} s cannot overlap by {overlap:g} s")
    if piece.video.is_dir():
        raise UsageError(
            "frames without times cannot be cut into windows",
            where=piece.video,
            remedy="give a video file, or leave --window out",
        )
    try:
        times = timeline(piece.video, piece.video.stat())
    except VideoError:
        return [piece]  # reading it will say what is wrong
    # Sound may begin before the picture does.
    start = max(piece.start or 0.0, float(times.seconds[0]))
    end = min(piece.end or times.duration, times.duration)
    count = max(1, ceil((end - start - overlap) / (window - overlap)))
    last = max(start, end - window)
    starts = [min(start + number * (window - overlap), last) for number in range(count)]
    return [Piece(piece.video, first, min(first + window, end)) for first in starts]


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _document(piece: Piece, text: str | None, window: float | None) -> dict[str, object]:
    times = {} if window is None else {"start": piece.start, "end": piece.end}
    return {"video": piece.video, **times, "text": text}


def sentences(
    run: Path,
    pieces: Sequence[Piece],
    device: str,
    *,
    llm: Path | None = None,
    given: str | None = None,
) -> Iterator[tuple[Piece, str]]:
    """Each piece that could be read with its translation; the others are named on stderr.

    Args:
        llm: folder of the run's LLM, where that has moved.
        given: the run's cache spec, where that has moved.

    Raises:
        WeightsError: the spec's encoders are not those of the run's features.
    """
    from spamo_cache.datasets.manifest import Clip, Manifest
    from spamo_cache.evaluate import load_run, translate_features
    from spamo_cache.extract.run import extract
    from spamo_cache.store.reader import FeatureStore

    loaded = load_run(run, device=device, llm=llm)
    spec, spec_path = resolve.run_spec(loaded.folder, given)
    root = Path(os.path.commonpath([piece.video.resolve().parent for piece in pieces]))
    clips = [
        Clip(
            id=piece.id,
            split="new",
            source=piece.video.resolve().relative_to(root).as_posix(),
            start=piece.start,
            end=piece.end,
            text="?",
            language=loaded.pipeline.text.language,
            extra={},
        )
        for piece in pieces
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
        _check_encoders(loaded.folder, stores, spec_path)
        for piece in pieces:
            if all(store.state(piece.id) == "ok" for store in stores.values()):
                rows = {name: store.read([piece.id])[0] for name, store in stores.items()}
                yield piece, translate_features(loaded, rows)


def _check_encoders(run: RunFolder, stores: Mapping[str, FeatureStore], spec: Path) -> None:
    """Raise WeightsError unless these features come from the encoders of the run's own."""
    for name, trained in run.read_about().stores.items():
        found = stores[name].about
        if (found.weights_sha256, found.semantics) != (trained.weights_sha256, trained.semantics):
            raise WeightsError(
                f"stream {name!r}: {found.weights!r} is not what the run's features were computed "
                f"with ({found.weights_sha256[:12]}, not {trained.weights_sha256[:12]})",
                where=spec,
                remedy="put the weights back, or name another cache spec by --spec FILE",
            )
