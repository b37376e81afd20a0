"""A span of a video file to frames, and what the file is known by."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock

from spamo_cache.config.spec import Reader
from spamo_cache.errors import VideoError
from spamo_cache.video import decord_backend, pyav_backend
from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span

_HASH_BLOCK = 1 << 20


def frames(path: Path, wanted: Span, reader: Reader = "auto") -> Generator[Frame]:
    """Decode a span; each frame is valid until the next one is asked for.

    All readers give the same frames: decord hands over to PyAV where it would not, and what it
    cannot read to the end.

    Raises:
        VideoError: damage.
    """
    given = 0
    if reader == "decord":
        try:
            for frame in decord_backend.frames(path, wanted):
                yield frame
                given += 1
        except decord_backend.UnusableError:
            pass
        else:
            return
    yield from islice(pyav_backend.frames(path, wanted), given, None)


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
