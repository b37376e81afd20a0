"""A span of a video file to frames: decord where it is right, PyAV everywhere else.

decord repeats frames of files with edit lists and mixes those of ranges behind an open group of
pictures, without an error, has no wheels for some platforms, and may hang; PyAV gives the same
frames where decord is right. Of damage that its decoder covers up only PyAV tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from spamo_cache.errors import VideoError
from spamo_cache.video import by_av, by_decord
from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span

_HASH_BLOCK = 1 << 20


def frames(path: Path, wanted: Span) -> Generator[Frame]:
    """Decode a span; each frame is valid until the next one is asked for.

    Raises:
        VideoError: damage, or decoders that disagree.
    """
    seen: list[Frame] = []
    if by_decord.suits(wanted):
        try:
            for frame in by_decord.frames(path, wanted):
                seen.append(_thinned(frame))
                yield frame
        except by_decord.UnusableError:
            pass
        else:
            return
    for number, frame in enumerate(by_av.frames(path, wanted)):
        if number >= len(seen):
            yield frame
        elif not np.array_equal(_thinned(frame), seen[number]):
            raise VideoError("is decoded differently by decord and PyAV", where=path)


def sha256(path: Path) -> str:
    """Hash of a file's contents; a file with many clips is hashed once while it is unchanged.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        status = path.stat()
        with _turn(path):
            return _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise VideoError(f"source cannot be read: {error.strerror}", where=path) from None


def _thinned(frame: Frame) -> Frame:
    """Enough of a frame to know it again."""
    return frame[::29, ::31].copy()


@lru_cache(maxsize=256)
def _turn(path: Path) -> Lock:  # noqa: ARG001 - a lock for each
    return Lock()


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 - part of the key
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
