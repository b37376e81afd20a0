"""Which frames a video file holds and when each is shown.

A frame is what a decoder gives, which a container need not list: packets may be hidden, hold half
a picture, or lack what they were predicted from. So a file is decoded once, without a look at its
pixels, unless its kind and its packets leave no doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError
from spamo_cache.video.decoder import Decoder, damaged_from, opened, time_zero
from spamo_cache.video.headers import declared_end, is_fresh, is_progressive

Ints = NDArray[np.int64]

_KEEP_TIMES = ("mp4", "matroska")
"""Containers that store when a frame is shown; after a seek in others FFmpeg has to guess."""
_FRAME_PER_PACKET = ("h264", "hevc", "libdav1d", "av1", "mpeg4")
"""Codecs of which a packet in those containers is a frame, as long as it looks like one."""
_LEAST_BYTES = 16
"""Of a packet with a picture: MPEG-4 has packets that say there is none."""
_READ_AHEAD_BYTES = 256 << 20
"""decord decodes ahead without bound, up to the end of the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each frame of a file is shown."""

    pts: Ints
    """Presentation times in units of ``unit``, ascending, by the file's own clock."""
    unit: Fraction
    """Seconds."""
    zero: int
    """What the clock says when a player's says 0."""
    last: int
    """How long the last frame is shown, in units of ``unit``; 0 where that cannot be known."""
    damage: Ints
    """(ranges, 2) times between which frames are damaged or lost, the second not included."""
    frame_bytes: int
    """Of one decoded frame."""
    seekable: bool
    """Whether a frame can be found by its time, from any key frame on."""
    plain: bool
    """H.264 in MP4 from zero on, nothing hidden, no key frame with frames that follow it but are
    shown before it: what decord is right about."""

    @property
    def seconds(self) -> NDArray[np.float64]:
        """When each frame is shown, from the start of the video as players count it."""
        return self.shown(self.pts)

    def shown(self, times: Ints) -> NDArray[np.float64]:
        """Times of the file's own clock as players count them, in seconds."""
        # Divided last: 57 / 25 is the 2.28 that a manifest says, 57 * 0.04 is not.
        seconds: NDArray[np.float64] = (
            (times - self.zero) * self.unit.numerator / self.unit.denominator
        )
        return seconds

    @property
    def duration(self) -> float:
        """Seconds until the last frame has been shown."""
        return float((int(self.pts[-1]) + self.last - self.zero) * self.unit)


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous run of frames of one file."""

    first: int
    """Number of the first frame within the file."""
    frames: int
    first_pts: int
    last_pts: int
    seekable: bool
    plain: bool
    """Whether decord gives it right, and within bounds of memory."""


def scan(path: Path) -> Timeline:
    """List a file's frames; what is damaged is listed too.

    Raises:
        VideoError: no video, one without frames, or a file that ends before it says.
    """
    if path.stat().st_size < declared_end(path):
        raise VideoError("is truncated", where=path)
    with opened(path) as (container, stream):
        listed = _demuxed(container, stream)
    return _decoded(path) if listed is None else listed


def span(times: Timeline, start: float | None, end: float | None, *, where: Path) -> Span:
    """The frames with ``start`` <= time <= ``end`` (seconds, both ends count; None is open).

    Raises:
        VideoError: no frame lies in the range, or it reaches past the end by over a frame.
    """
    seconds = times.seconds
    # Corpora round their times, so a range may end within a frame after the last one.
    if end is not None and end > times.duration + float(times.last * times.unit):
        raise VideoError(
            f"range ends at {end:g} s, the video at {times.duration:.3f} s", where=where
        )
    low = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
    high = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
    damaged = damaged_from(
        times.shown(times.damage).tolist(),
        -np.inf if start is None else start,
        np.inf if end is None else end,
    )
    if damaged is not None:
        raise VideoError(f"is damaged at {damaged:.3f} s", where=where)
    if low >= high:
        range_ = f"from {start} s on" if end is None else f"between {start or 0.0} and {end} s"
        raise VideoError(f"no frame {range_}", where=where)
    behind = (len(seconds) - low) * times.frame_bytes
    return Span(
        first=low,
        frames=high - low,
        first_pts=int(times.pts[low]),
        last_pts=int(times.pts[high - 1]),
        seekable=times.seekable,
        plain=times.plain and behind <= _READ_AHEAD_BYTES,
    )


def _demuxed(container: Any, stream: Any) -> Timeline | None:
    """What the packets list; None unless they are known to be the frames."""
    codec = stream.codec_context
    if codec.name not in _FRAME_PER_PACKET or not _keeps_times(container):
        return None
    if codec.name == "h264" and not is_progressive(codec.extradata or b""):
        return None
    packets = _packets(container, stream)
    if packets is None:
        return None
    pts, durations, hidden, keys = packets
    order = np.argsort(pts)
    if not (np.diff(pts[order]).all() and _begin_with_key(order, keys)):
        return None
    shown = np.flatnonzero(hidden[order] == 0)
    # An edit list of several parts, or one that begins amid frames of two groups of pictures.
    if not len(shown) or (hidden.any() and (np.ptp(shown) >= len(shown) or _is_open(pts, keys))):
        return None
    shown = order[shown]
    begin = int(pts[shown[0]])
    zero = time_zero(container, stream)
    return Timeline(
        pts=pts[shown],
        unit=stream.time_base,
        zero=begin if zero is None else min(zero, begin),
        last=_last(pts[shown], int(durations[shown[-1]])),
        damage=np.zeros((0, 2), np.int64),
        frame_bytes=3 * codec.width * codec.height,
        seekable=True,
        plain=not (hidden.any() or begin or _is_open(pts, keys)) and _is_common(container, codec),
    )


def _packets(container: Any, stream: Any) -> Ints | None:
    """Per packet in the order of decoding: time shown, duration, whether hidden, whether a key."""
    import av

    rows: list[tuple[int, int, bool, bool]] = []
    codec = stream.codec_context
    header = codec.extradata or b""
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt or packet.pts is None or packet.size < _LEAST_BYTES:
                return None
            if not rows and codec.name == "h264" and not is_fresh(bytes(packet), header):
                return None
            rows.append((packet.pts, packet.duration or 0, packet.is_discard, packet.is_keyframe))
    except av.error.InvalidDataError:
        return None
    return np.array(rows, np.int64).T if rows else None


def _decoded(path: Path) -> Timeline:
    """What the decoder gives."""
    # Smooth edges are for those who look; nothing else depends on them here.
    with opened(path, skip_loop_filter="all") as (container, stream):
        decoder = Decoder(container, stream)
        times = [time for time, _ in decoder.frames()]
        if not times:
            raise VideoError("holds no frames that can be decoded", where=path)
        pts = _risen(times)
        zero = time_zero(container, stream)
        begin = int(pts[0])
        codec = stream.codec_context
        steady = not decoder.restarted and pts.tolist() == times
        return Timeline(
            pts=pts,
            unit=stream.time_base,
            zero=begin if zero is None else min(zero, begin),
            last=_last(pts, decoder.step),
            damage=np.array(sorted(set(decoder.damage)), np.int64).reshape(-1, 2),
            frame_bytes=3 * codec.width * codec.height,
            seekable=steady and (_keeps_times(container) or container.format.name == "mpegts"),
            plain=False,
        )


def _risen(times: Sequence[int | None]) -> Ints:
    """Times of all frames: one that is missing or falls back is put between its neighbours."""
    places: list[int] = []
    sound: list[int] = []
    for place, time in enumerate(times):
        if time is not None and (not sound or time > sound[-1]):
            places.append(place)
            sound.append(time)
    if not sound:
        return np.arange(len(times), dtype=np.int64)
    step = (sound[-1] - sound[0]) / max(1, places[-1] - places[0])
    ends = (-1, len(times))
    beyond = [sound[0] - step * (places[0] + 1), sound[-1] + step * (ends[1] - places[-1])]
    known = [ends[0], *places, ends[1]], [beyond[0], *sound, beyond[1]]
    return np.rint(np.interp(np.arange(len(times)), *known)).astype(np.int64)


def _last(pts: Ints, stated: int) -> int:
    """How long the last frame is shown: as the file says, or the usual step if that is more.

    Many containers do not say; others give the shortest time that they can express.
    """
    return max(stated, int(np.median(np.diff(pts)))) if len(pts) > 1 else stated


def _keeps_times(container: Any) -> bool:
    return any(kind in container.format.name for kind in _KEEP_TIMES)


def _begin_with_key(order: Ints, keys: Ints) -> bool:
    """Whether nothing is shown before the first key frame, as a decoder would drop it.

    That every packet is a key frame is what a file says that knows of none.
    """
    return bool(keys[0] and order[0] == 0 and keys.sum() < max(2, len(keys)))


def _is_open(pts: Ints, keys: Ints) -> bool:
    """Whether a frame that follows a key frame is shown before it."""
    last_key = np.maximum.accumulate(np.where(keys, np.arange(len(keys)), 0))
    return bool((pts < pts[last_key]).any())


def _is_common(container: Any, codec: Any) -> bool:
    coded = codec.name, codec.pix_fmt, codec.width % 2, codec.height % 2
    return "mp4" in container.format.name and coded == ("h264", "yuv420p", 0, 0)
