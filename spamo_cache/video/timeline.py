"""Which frames a video file holds and when each is shown, by demuxing alone.

Frames are numbered in order of presentation, without what an edit list hides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError
from spamo_cache.video.frames import MAX_PIXELS, check_size

# FFmpeg would open whatever it knows: playlists that name other files and addresses, pictures as
# videos of one frame, pieces of damaged files as bare streams.
_OPEN = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,gif",
}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each frame of a file is shown."""

    pts: NDArray[np.int64]
    """Presentation times in units of ``unit``, ascending."""
    unit: Fraction
    """Seconds."""
    last: int
    """How long the last frame is shown, in units of ``unit``; 0 where the file does not say."""
    frame_bytes: int
    """Of one decoded frame."""
    plain: bool
    """H.264 in MP4 from zero on, nothing hidden, no key frame with frames that follow it but are
    shown before it: decord gives any range of it right."""

    @property
    def duration(self) -> float:
        """Seconds until the last frame has been shown."""
        return float((int(self.pts[-1]) + self.last) * self.unit)


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous run of frames of one file."""

    first: int
    """Number of the first frame within the file."""
    frames: int
    first_pts: int
    last_pts: int
    behind: int
    """Bytes of all decoded frames from the first to the end of the file."""
    plain: bool


def scan(path: Path) -> Timeline:
    """List a file's frames without decoding.

    Raises:
        VideoError: no video, a damaged or a truncated one.
    """
    if path.stat().st_size < _declared_end(path):
        raise VideoError("is truncated", where=path)
    with opened(path) as (container, stream):
        pts, durations, hidden, keys = _packets(container, stream, path)
        if len(pts) < stream.frames:
            raise VideoError(f"is truncated: {len(pts)} of {stream.frames} frames", where=path)
        if hidden.all():
            raise VideoError("holds no frames", where=path)
        order = np.argsort(pts, kind="stable")
        shown = order[hidden[order] == 0]
        codec = stream.codec_context
        return Timeline(
            pts=pts[shown],
            unit=stream.time_base,
            last=int(durations[shown[-1]]),
            frame_bytes=3 * codec.width * codec.height,
            plain=not (hidden.any() or pts[shown[0]] or _is_open(pts, keys))
            and _is_common(container, codec),
        )


def span(times: Timeline, start: float | None, end: float | None, *, where: Path) -> Span:
    """The frames with ``start`` <= time <= ``end`` (seconds, both ends count; None is open).

    Raises:
        VideoError: no frame lies in the range, or it reaches past the end by over a frame.
    """
    # Divided last: 57 / 25 is the 2.28 that a manifest says, 57 * 0.04 is not.
    seconds = times.pts * times.unit.numerator / times.unit.denominator
    # Corpora round their times, so a range may end within a frame after the last one.
    if end is not None and end > times.duration + float(times.last * times.unit):
        raise VideoError(
            f"range ends at {end:g} s, the video at {times.duration:.3f} s", where=where
        )
    low = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
    high = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
    if low >= high:
        raise VideoError(f"no frame between {start} and {end} s", where=where)
    return Span(
        first=low,
        frames=high - low,
        first_pts=int(times.pts[low]),
        last_pts=int(times.pts[high - 1]),
        behind=(len(seconds) - low) * times.frame_bytes,
        plain=times.plain,
    )


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream; PyAV's errors become ours.

    Raises:
        VideoError: not a video, or whatever the block's use of it brings to light.
    """
    import av

    try:
        with av.open(os.fspath(path), options=_OPEN) as container:
            if not container.streams.video:
                raise VideoError("holds no video stream", where=path)
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec is None:
                raise VideoError("is of a kind that no decoder here knows", where=path)
            check_size(codec.width, codec.height, where=path)
            # Clips are decoded side by side, so threads within one would only stand in their way.
            stream.thread_type = "NONE"
            # Frames may claim more than the container does.
            codec.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or "not a video that FFmpeg understands"
        raise VideoError(f"cannot be decoded: {text}", where=path) from None


def _packets(container: Any, stream: Any, path: Path) -> NDArray[np.int64]:
    """Per packet in the order of decoding: time shown, duration, whether hidden, whether a key."""
    rows = []
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.is_corrupt or packet.pts is None:
            raise VideoError("holds damaged packets", where=path)
        rows.append((packet.pts, packet.duration or 0, packet.is_discard, packet.is_keyframe))
    return np.array(rows, np.int64).reshape(-1, 4).T


def _is_open(pts: NDArray[np.int64], keys: NDArray[np.int64]) -> bool:
    """Whether a frame that follows a key frame is shown before it."""
    last_key = np.maximum.accumulate(np.where(keys, np.arange(len(keys)), 0))
    return bool((pts < pts[last_key]).any())


def _is_common(container: Any, codec: Any) -> bool:
    coded = codec.name, codec.pix_fmt, codec.width % 2, codec.height % 2
    return "mp4" in container.format.name and coded == ("h264", "yuv420p", 0, 0)


def _declared_end(path: Path) -> int:
    """Where a Matroska file says that it ends, 0 for others; FFmpeg takes any end for the end."""
    with path.open("rb") as file:
        head = file.read(256)
    if not head.startswith(_EBML):
        return 0
    size, at = _number(head, len(_EBML))
    if head[at + size : at + size + 4] != _SEGMENT:
        return 0
    size, at = _number(head, at + size + 4)
    return at + size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of EBML, whose leading zero bits tell its length, and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    bits = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    # All ones: unknown, as in a live recording.
    return (0 if bits == (1 << 7 * length) - 1 else bits), at + length
