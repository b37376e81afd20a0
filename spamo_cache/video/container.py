"""Clips inside video files: which frames a time range holds, and their pixels.

Frames are numbered by demuxing alone, in order of presentation, without what an edit list hides.
decord decodes where it is known to be right; where it is not (edit lists, on which it repeats
frames without an error, rotated video, platforms without a wheel) PyAV gives the same frames.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError

_HASH_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each frame of a file is shown."""

    pts: tuple[int, ...]
    """Presentation times in units of ``unit``, ascending."""
    unit: Fraction
    """Seconds."""
    last: int
    """How long the last frame is shown, in units of ``unit``; 0 where the file does not say."""
    plain: bool
    """Nothing hidden, nothing rotated, first frame at zero: decord numbers frames alike."""

    @property
    def duration(self) -> float:
        """Seconds until the last frame has been shown."""
        return float((self.pts[-1] + self.last) * self.unit)


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous run of frames of one file."""

    first: int
    """Number of the first frame within the file."""
    frames: int
    first_pts: int
    last_pts: int
    plain: bool


def timeline(path: Path) -> Timeline:
    """List a file's frames without decoding.

    Raises:
        VideoError: no video, a damaged or a truncated one.
    """
    with _opened(path) as (container, stream):
        shown: list[tuple[int, int]] = []
        hidden = 0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt or packet.pts is None:
                raise VideoError("holds damaged packets", where=path)
            if packet.is_discard:
                hidden += 1
            else:
                shown.append((packet.pts, packet.duration or 0))
        if len(shown) + hidden < stream.frames:
            raise VideoError(
                f"is truncated: {len(shown) + hidden} of {stream.frames} frames", where=path
            )
        if not shown:
            raise VideoError("holds no frames", where=path)
        pts, durations = zip(*sorted(shown), strict=True)
        plain = not hidden and pts[0] == 0 and not _is_rotated(container, stream)
        return Timeline(pts, stream.time_base, durations[-1], plain)


def span(times: Timeline, start: float | None, end: float | None, *, where: Path) -> Span:
    """The frames with ``start`` <= time <= ``end`` (seconds, both ends count; None is open).

    Raises:
        VideoError: no frame lies in the range, or it reaches past the end by over a frame.
    """
    seconds = np.array(times.pts, np.float64) * float(times.unit)
    # Corpora round their times, so a range may end within a frame after the last one.
    if end is not None and end > times.duration + float(times.last * times.unit):
        raise VideoError(
            f"range ends at {end:g} s, the video at {times.duration:.3f} s", where=where
        )
    low = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
    high = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
    if low >= high:
        raise VideoError(f"no frame between {start} and {end} s", where=where)
    return Span(low, high - low, times.pts[low], times.pts[high - 1], times.plain)


def read(path: Path, wanted: Span) -> NDArray[np.uint8]:
    """Decode a span.

    Returns:
        uint8 (frames, height, width, 3) RGB.

    Raises:
        VideoError: damage, or another number of frames than the file lists.
    """
    if wanted.plain and has_decord():
        frames = read_decord(path, wanted)
        if frames is not None:
            return frames
    return read_av(path, wanted)


def read_decord(path: Path, wanted: Span) -> NDArray[np.uint8] | None:
    """Decode a span by decord; None where it disagrees with the file and PyAV has to judge."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # The reader reads ahead without bound while it idles: one read, then drop it.
        reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) < wanted.first + wanted.frames:
            return None
        batch = reader.get_batch(range(wanted.first, wanted.first + wanted.frames))
        frames: NDArray[np.uint8] = batch.asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    return frames


def read_av(path: Path, wanted: Span) -> NDArray[np.uint8]:
    """Decode a span by PyAV; raises as :func:`read`."""
    frames = _decode(path, wanted, seek=wanted.first > 0)
    if len(frames) != wanted.frames and wanted.first > 0:
        # A seek may land behind frames that are shown before their key frame.
        frames = _decode(path, wanted, seek=False)
    if len(frames) != wanted.frames:
        raise VideoError(f"lists {wanted.frames} frames, gives {len(frames)}", where=path)
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError("changes its size", where=path)
    return np.stack(frames)


def sha256(path: Path) -> str:
    """Hash of a file's contents; a file with many clips is hashed once while it is unchanged."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def has_decord() -> bool:
    """Whether decord is installed and loads; there are platforms without wheels."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 - part of the key
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream; PyAV's errors become ours."""
    import av

    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise VideoError("holds no video stream", where=path)
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"cannot be decoded: {text}", where=path) from None


def _decode(path: Path, wanted: Span, *, seek: bool) -> list[NDArray[np.uint8]]:
    frames: list[NDArray[np.uint8]] = []
    with _opened(path) as (container, stream):
        if seek:
            container.seek(wanted.first_pts, stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts < wanted.first_pts:
                continue
            if frame.pts > wanted.last_pts:
                break
            frames.append(_pixels(frame))
    return frames


def _pixels(frame: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _is_rotated(container: Any, stream: Any) -> bool:
    container.seek(0)
    first = next(container.decode(stream), None)
    return first is not None and round(first.rotation / 90) % 4 != 0
