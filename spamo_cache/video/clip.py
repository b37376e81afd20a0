"""One clip, whatever it is kept as: how many frames it has, and what they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError
from spamo_cache.video import container, images

Crop = tuple[float, float, float, float]


class ClipLike(Protocol):
    """The part of a manifest's clip that says where its frames are."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def start(self) -> float | None: ...
    @property
    def end(self) -> float | None: ...
    @property
    def crop(self) -> Crop | None: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of a clip without decoding it."""

    size: int
    """Bytes of the source: a file, or all images of a folder; 0 where it is missing."""
    frames: int
    """0 where the clip cannot be read; ``reason`` says why."""
    reason: str | None = None
    span: container.Span | None = None
    """Which frames of a video file; None for images."""


def probe(root: Path, clip: ClipLike) -> Probe:
    """Count a clip's frames without decoding; what is wrong with it stands in ``reason``."""
    return _probe_source(root, clip.source, [clip])[0]


def probe_all(
    root: Path,
    clips: Sequence[ClipLike],
    *,
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> list[Probe]:
    """Probe clips, each source once; ``progress`` gets the number of clips done so far."""
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_source[clip.source].append(index)
    found: list[Probe | None] = [None] * len(clips)
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="probe") as pool:
        groups = list(by_source.items())
        jobs = pool.map(
            lambda group: _probe_source(root, group[0], [clips[k] for k in group[1]]), groups
        )
        for (_, members), probes in zip(groups, jobs, strict=True):
            for index, result in zip(members, probes, strict=True):
                found[index] = result
            done += len(members)
            if progress is not None:
                progress(done)
    return [result for result in found if result is not None]


def read(root: Path, clip: ClipLike, probed: Probe) -> tuple[NDArray[np.uint8], str]:
    """Decode a probed clip in one contiguous read.

    Returns:
        uint8 (frames, height, width, 3) RGB, cropped; and the SHA-256 of the source's contents.

    Raises:
        VideoError: it cannot be decoded, or has other frames than when it was probed.
    """
    if probed.reason is not None:
        raise VideoError(probed.reason)
    path = locate(root, clip.source)
    if probed.span is None:
        files = images.listing(path)
        if len(files) != probed.frames:
            raise VideoError(f"held {probed.frames} frames, holds {len(files)}", where=path)
        frames, digest = images.read(files)
    else:
        frames, digest = container.read(path, probed.span), container.sha256(path)
    return (frames if clip.crop is None else cropped(frames, clip.crop, path)), digest


def read_clip(root: Path, clip: ClipLike) -> NDArray[np.uint8]:
    """Probe and decode: uint8 (frames, height, width, 3) RGB; VideoError says what is wrong."""
    return read(root, clip, probe(root, clip))[0]


def locate(root: Path, source: str) -> Path:
    """Path of a source below ``root``.

    Raises:
        VideoError: the source would leave the root.
    """
    parts = PurePosixPath(source)
    if parts.is_absolute() or ".." in parts.parts:
        raise VideoError("source lies outside the corpus", where=source)
    return root / parts


def cropped(frames: NDArray[np.uint8], crop: Crop, where: Path) -> NDArray[np.uint8]:
    """Cut all frames to a box of shares of width and height, rounded to whole pixels.

    Raises:
        VideoError: the box holds no pixel.
    """
    height, width = frames.shape[1:3]
    left, top, right, bottom = (
        round(share * side)
        for share, side in zip(crop, (width, height, width, height), strict=True)
    )
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise VideoError(f"crop {crop} holds no pixel of {width}x{height}", where=where)
    return frames[:, top:bottom, left:right]


def _probe_source(root: Path, source: str, clips: Iterable[ClipLike]) -> list[Probe]:
    clips = list(clips)
    size = 0
    try:
        path = locate(root, source)
        if path.is_dir() or images.is_glob(path):
            files = images.listing(path)
            size = sum(file.stat().st_size for file in files)
            return [_of_images(clip, size, len(files), path) for clip in clips]
        size = path.stat().st_size
        times = container.timeline(path)
    except FileNotFoundError:
        return [Probe(0, 0, "source is missing") for _ in clips]
    except OSError as error:
        return [Probe(size, 0, f"source cannot be read: {error.strerror}") for _ in clips]
    except VideoError as error:
        return [Probe(size, 0, _reason(error)) for _ in clips]
    return [_of_video(clip, size, times, path) for clip in clips]


def _of_images(clip: ClipLike, size: int, frames: int, path: Path) -> Probe:
    if clip.start is not None or clip.end is not None:
        return Probe(size, 0, f"a time range needs a video file, {path.name} holds images")
    return Probe(size, frames)


def _of_video(clip: ClipLike, size: int, times: container.Timeline, path: Path) -> Probe:
    try:
        found = container.span(times, clip.start, clip.end, where=path)
    except VideoError as error:
        return Probe(size, 0, _reason(error))
    return Probe(size, found.frames, span=found)


def _reason(error: VideoError) -> str:
    # Paths would make a store depend on where the corpus lies.
    return error.what
