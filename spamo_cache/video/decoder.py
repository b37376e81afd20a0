"""What FFmpeg makes of a video file: which stream is the video, its frames, their times, damage."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, TypeVar

from spamo_cache.errors import VideoError
from spamo_cache.video.frames import MAX_PIXELS, check_size

CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,gif,dv,ivf"
"""All that is opened. FFmpeg would open whatever it knows: playlists that name other files and
addresses, pictures as videos of one frame, pieces of damaged files as bare streams."""

_OPEN = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
_ATTACHED_PICTURE = 0x400
_CLOCK_MAY_RESTART = 0x200
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC, AVFMT_TS_DISCONT; PyAV has no name for them everywhere."""

_SETBACK, _LEAP = 0.1, 10.0
"""Seconds: a clock that goes back or ahead by more was started again. FFmpeg's own thresholds."""
_SKIPPING = ("hevc",)
"""Decoders that leave frames out, without an error, where they lack what these are predicted from.
They have a frame for every packet."""
_REMEMBERED = 64
"""Packets; more than any decoder holds back."""
_NEVER = 1 << 62

T = TypeVar("T", int, float)


@contextmanager
def opened(path: Path, **codec_options: str) -> Iterator[tuple[Any, Any]]:
    """A container and the video stream that players show; PyAV's errors become ours.

    Raises:
        VideoError: not a video, or whatever the block's use of it brings to light.
    """
    import av

    try:
        with _open(path) as container:
            stream = _video_of(container, path)
            codec = stream.codec_context
            if codec is None:
                raise VideoError("is of a kind that no decoder here knows", where=path)
            if codec.width or codec.height:
                check_size(codec.width, codec.height, where=path)
            # Clips are decoded side by side, so threads within one would only stand in their way.
            stream.thread_type = "NONE"
            # Frames may claim more than the container does.
            codec.options = {"max_pixels": str(MAX_PIXELS), **codec_options}
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or "not a video that FFmpeg understands"
        raise VideoError(f"cannot be decoded: {text}", where=path) from None


def time_zero(container: Any, stream: Any) -> int | None:
    """When a player's clock shows 0, in the stream's units; None where the file does not say.

    That is when the first of all streams begins: a picture that joins a sound later has a later
    time.
    """
    if container.start_time is None:
        return None
    # The container's is rounded to microseconds.
    zero = round(container.start_time / (1_000_000 * stream.time_base))
    begin: int | None = stream.start_time
    return begin if begin is not None and abs(begin - zero) * stream.time_base < 1e-6 else zero


class Decoder:
    """Decodes a stream from where its container stands, on past any damage.

    Attributes:
        restarted: whether the clock of the recording was started again on the way.
        delay: packets that the decoder read before it gave the first frame.
        step: how long the frame of the last packet is shown; 0 where the file does not say.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.restarted, self.delay, self.step = False, 0, 0
        self._container, self._stream = container, stream
        self._restarts = bool(container.format.flags & _CLOCK_MAY_RESTART)
        self._back = _SETBACK / float(stream.time_base)
        self._ahead = _LEAP / float(stream.time_base)
        self._recent: deque[tuple[int, bool]] = deque(maxlen=_REMEMBERED)
        self._skips = stream.codec_context.name in _SKIPPING
        self._awaited: list[int] = []
        self._damage: list[tuple[int, int]] = []
        self._since: int | None = None
        self._begin = -_NEVER

    def frames(self) -> Iterator[tuple[int | None, Any]]:
        """All frames in order of presentation, with their times as far as the file has them."""
        import av

        clock, sent = _Clock(), 0
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                self._spoil(self._now)
                continue
            sent, self.step = sent + 1, packet.duration or self.step
            for frame in decoded:
                time = clock.time(frame.pts, frame.dts)
                if not self.delay:
                    self.delay, self._begin = sent, self._now if time is None else time
                if frame.is_corrupt:
                    self._spoil(self._now if time is None else time)
                if self._awaited and time is not None:
                    self._miss(time)
                yield time, frame
        self._spoil(*self._awaited)

    @property
    def damage(self) -> list[tuple[int, int]]:
        """Ranges of time whose frames cannot be trusted, without their ends.

        From a damaged packet or frame to the next key frame: what lies between may have been
        predicted from it. What precedes the first frame cannot be decoded wherever one begins.
        """
        still = [] if self._since is None else [(self._since, _NEVER)]
        return [(begin, end) for begin, end in self._damage + still if end > self._begin]

    def _packets(self) -> Iterator[Any]:
        """Packets, with times that go on where the clock of a recording was started again."""
        shift, before, due = 0, None, 0
        suspects: list[int] = []
        for packet in self._demuxed():
            dts = packet.dts
            if dts is not None and self._restarts:
                usual = before is None or before - self._back <= dts + shift <= due + self._ahead
                if not usual:
                    shift, self.restarted = due - dts, True
                    # The counters of a transport stream start again too, as if some were lost.
                    suspects.clear()
                before = dts + shift
                due = before + (packet.duration or 0)
                packet.dts = before
                packet.pts = None if packet.pts is None else packet.pts + shift
            # FFmpeg flags a packet for a loss in it, or in the one behind it.
            if len(suspects) == 2:
                self._spoil(*suspects)
                suspects.clear()
            if packet.size:
                time = self._note(packet)
                if self._skips and not packet.is_discard and packet.pts is not None:
                    heappush(self._awaited, time)
                if suspects or packet.is_corrupt:
                    suspects.append(time)
            yield packet
        self._spoil(*suspects)

    def _demuxed(self) -> Iterator[Any]:
        import av

        try:
            yield from self._container.demux(self._stream)
        except av.error.InvalidDataError:
            # Nothing behind can be found. What the decoder still holds is lost with it.
            held = [time for time, _ in self._recent][-self.delay - 1 :]
            self._spoil(min(held, default=0), self._now)

    def _note(self, packet: Any) -> int:
        """Remember a packet; its time."""
        times = (packet.pts, packet.dts, self._now)
        time: int = next(time for time in times if time is not None)
        if self._since is not None:
            if packet.is_keyframe:
                self._damage.append((self._since, time))
                self._since = None
            else:
                self._since = min(self._since, time)
        self._recent.append((time, packet.is_keyframe))
        return time

    def _miss(self, time: int) -> None:
        """Note as damage the packets whose frame should have come before the one of this time."""
        while self._awaited and self._awaited[0] <= time:
            awaited = heappop(self._awaited)
            if self._begin < awaited < time:
                self._spoil(awaited)

    @property
    def _now(self) -> int:
        return self._recent[-1][0] if self._recent else 0

    def _spoil(self, *times: int) -> None:
        """Note damage in the packets of these times."""
        for time in times:
            self._spoil_from(time, list(self._recent))

    def _spoil_from(self, since: int, packets: list[tuple[int, bool]]) -> None:
        places = [number for number, (time, _) in enumerate(packets) if time == since]
        for time, is_key in packets[places[-1] + 1 :] if places else ():
            if is_key:
                self._damage.append((since, time))
                return
            since = min(since, time)
        self._since = since if self._since is None else min(since, self._since)


class _Clock:
    """Times of frames in containers that store when to decode a frame instead of when to show it.

    FFmpeg's own way (guess_correct_pts), which PyAV does not hand on: whichever of the two went
    wrong less often.
    """

    def __init__(self) -> None:
        self._last: list[float] = [-_NEVER, -_NEVER]
        self._faults = [0, 0]

    def time(self, pts: int | None, dts: int | None) -> int | None:
        for kind, (own, other) in enumerate(((pts, dts), (dts, pts))):
            if own is not None:
                self._faults[kind] += own <= self._last[kind]
                self._last[kind] = own
            elif other is not None:
                self._last[kind] = other
        better = self._faults[0] <= self._faults[1] or dts is None
        return pts if better and pts is not None else dts


def damaged_from(damage: Iterable[tuple[T, T]], first: T, last: T) -> T | None:
    """When the earliest damage begins that reaches into a range of times, both ends included."""
    return min((begin for begin, end in damage if begin <= last and end > first), default=None)


def _open(path: Path) -> Any:
    import av

    # Tags may be in any encoding, and are of no interest. Newer versions of PyAV do not mind.
    strict = hasattr(av.container.InputContainer, "metadata_errors")
    lenient: dict[str, Any] = {"metadata_errors": "replace"} if strict else {}
    try:
        # A relative name with a colon would be taken for an address.
        return av.open(os.fspath(path.absolute()), options=_OPEN, **lenient)
    except av.error.ArgumentError:
        kinds = ", ".join(CONTAINERS.split(","))
        raise VideoError(
            f"is of a kind of container that is not read here (read: {kinds})", where=path
        ) from None


def _video_of(container: Any, path: Path) -> Any:
    """The stream that FFmpeg holds for the best, which goes by what the file calls its default."""
    streams = [
        stream
        for stream in container.streams.video
        if not int(stream.disposition) & _ATTACHED_PICTURE
    ]
    if not streams:
        raise VideoError("holds no video stream", where=path)
    best = container.streams.best("video")
    return best if best in streams else streams[0]
