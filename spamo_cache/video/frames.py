"""Decoded frames on their way: how large one may be, and how many travel together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import VideoError

Frame = NDArray[np.uint8]
"""(height, width, 3) RGB."""
Take = Callable[[NDArray[np.uint8]], None]
"""What frames are handed to: (frames, height, width, 3), valid during the call only."""

MAX_PIXELS = 1 << 26
"""Largest frame that is decoded, twice an 8K one: a header may claim any size."""

_MAX_RATIO = 16
"""Of a frame's sides: a strip would be resized to a short side of 224 pixels and many thousands."""

# Frames that travel together stay in the cache of a core, and are enough to hide the calls.
_RUN_FRAMES = 32
_RUN_BYTES = 8 << 20


def check_size(width: int, height: int, *, where: object) -> None:
    """Refuse what a damaged or hostile header claims, before memory is set aside for it.

    Raises:
        VideoError: the frame is empty or larger than any camera's.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise VideoError(f"claims a frame of {width}x{height}", where=where)


def in_runs(frames: Iterable[Frame], take: Take) -> int:
    """Hand frames on in short runs, in a buffer that every call sees again.

    Returns:
        The number of frames.

    Raises:
        VideoError: a frame has another size than the first, or is a mere strip.
    """
    run: NDArray[np.uint8] | None = None
    count = waiting = 0
    for frame in frames:
        if run is None:
            _check_shape(frame)
            length = max(1, min(_RUN_FRAMES, _RUN_BYTES // frame.nbytes))
            run = np.empty((length, *frame.shape), np.uint8)
        if frame.shape != run.shape[1:]:
            raise VideoError(
                f"frame {count} is {_size(frame.shape)}, others {_size(run.shape[1:])}"
            )
        run[waiting] = frame
        count, waiting = count + 1, waiting + 1
        if waiting == len(run):
            take(run)
            waiting = 0
    if run is not None and waiting:
        take(run[:waiting])
    return count


def _check_shape(frame: Frame) -> None:
    short, long = sorted(frame.shape[:2])
    if long > _MAX_RATIO * short:
        raise VideoError(f"frames of {_size(frame.shape)} are mere strips")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
