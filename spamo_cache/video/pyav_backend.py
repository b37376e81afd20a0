"""Frames by PyAV, which gives what FFmpeg's own tools give."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from math import cos, radians, sin
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.errors import VideoError
from spamo_cache.video.decoder import Decoder, damaged_from, opened, time_zero
from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span

_GROUP_SECONDS = 5
"""Most that is expected between two key frames of a broadcast."""


def frames(path: Path, wanted: Span) -> Generator[Frame]:
    """Decode a span; each frame is valid until the next one is asked for.

    Raises:
        VideoError: damage that the decoder reports; it may come after the last frame.
    """
    decoded = False
    for seek in (True, False) if wanted.first and wanted.seekable else (False,):
        for frame in _decoded(path, wanted, seek=seek):
            decoded = True
            yield frame
        if decoded:
            return


def _decoded(path: Path, wanted: Span, *, seek: bool) -> Iterator[Frame]:
    """From the key frame before the span, or from the start of the file.

    Nothing after a seek that does not lead to the span's first frame.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with opened(path) as (container, stream):
        if seek:
            # Transport streams do not say where their key frames are.
            lead = _GROUP_SECONDS / stream.time_base if container.format.name == "mpegts" else 0
            container.seek(wanted.first_pts - round(lead), stream=stream, backward=True)
        decoder = Decoder(container, stream)
        begun, beyond = False, 0
        for number, (time, frame) in enumerate(decoder.frames()):
            if seek and not begun and not _leads(number, time, frame, decoder, wanted):
                return
            place = _place(number, time, wanted)
            if place > 0:
                # What is damaged here may have gone into frames that are shown before it.
                beyond += 1
                if beyond > decoder.delay:
                    break
            elif place == 0:
                begun = True
                yield _pixels(frame, reformatter)
        damaged = damaged_from(decoder.damage, wanted.first_pts, wanted.last_pts)
        if damaged is not None and (begun or not seek):
            zero = time_zero(container, stream) or 0
            seconds = float((damaged - zero) * stream.time_base)
            raise VideoError(f"is damaged at {seconds:.3f} s", where=path)


def _leads(number: int, time: int | None, frame: Any, decoder: Decoder, wanted: Span) -> bool:
    """Whether a seek was good so far.

    It may land on what is no key frame, whatever the container says, or behind frames that are
    shown before their key frame.
    """
    begins_well = number > 0 or frame.key_frame
    return begins_well and time is not None and time <= wanted.first_pts and not decoder.damage


def _place(number: int, time: int | None, wanted: Span) -> int:
    """Where a frame stands: before the span (-1), in it or behind it (1).

    By its time, so that lost frames do not move the others; by its number in files whose times had
    to be put right, and which were decoded for their list.
    """
    if wanted.seekable and time is not None:
        return (time > wanted.last_pts) - (time < wanted.first_pts)
    return (number >= wanted.first + wanted.frames) - (number < wanted.first)


def _pixels(frame: Any, reformatter: Any) -> Frame:
    plane = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    pixels = lines[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
    return _as_displayed(pixels, *_matrix(frame))


def _matrix(frame: Any) -> tuple[float, float, float, float]:
    """How the file asks to show a frame: its point (x, y) at (a x + c y, b x + d y)."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV lists none of a frame's side data if there is a kind among it that it does not know,
        # such as that of spatial videos and of photographs. The angle it still tells.
        angle = radians(frame.rotation)
        return cos(angle), -sin(angle), sin(angle), cos(angle)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return a, b, c, d


def _as_displayed(pixels: Frame, a: float, b: float, c: float, d: float) -> Frame:
    """Turned and mirrored as a matrix asks; by right angles, the nearest ones to others."""
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
