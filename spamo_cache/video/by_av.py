"""Frames by PyAV: the reference, right on every file that FFmpeg can decode."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.errors import VideoError
from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span, opened

_KEEP_TIMES = ("mp4", "matroska")
"""Containers that store when a frame is shown; after a seek in others FFmpeg has to guess."""


def frames(path: Path, wanted: Span) -> Generator[Frame]:
    """Decode a span; each frame is valid until the next one is asked for.

    Raises:
        VideoError: damage that the decoder reports.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    found = False
    for decode in (_sought, _counted):
        for frame in decode(path, wanted):
            found = True
            if frame.is_corrupt:
                raise VideoError("holds damaged frames", where=path)
            yield _pixels(frame, reformatter)
        if found:
            return


def _sought(path: Path, wanted: Span) -> Iterator[Any]:
    """From the key frame before the span; nothing where that does not lead to its first frame."""
    with opened(path) as (container, stream):
        if not wanted.first or not any(kind in container.format.name for kind in _KEEP_TIMES):
            return
        container.seek(wanted.first_pts, stream=stream, backward=True)
        started = False
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts < wanted.first_pts:
                continue
            # A seek may land behind frames that are shown before their key frame.
            if frame.pts > (wanted.last_pts if started else wanted.first_pts):
                return
            started = True
            yield frame


def _counted(path: Path, wanted: Span) -> Iterator[Any]:
    """From the first frame of the file on, by number."""
    with opened(path) as (container, stream):
        yield from islice(container.decode(stream), wanted.first, wanted.first + wanted.frames)


def _pixels(frame: Any, reformatter: Any) -> Frame:
    plane = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    pixels = lines[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
    turns = round(frame.rotation / 90) % 4
    return np.rot90(pixels, turns) if turns else pixels
