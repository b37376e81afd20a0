"""Frames by decord, where `--reader decord` asks for it."""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.video import pyav_backend
from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span


class UnusableError(Exception):
    """decord has failed or disagrees with the file; PyAV reads it instead."""


@cache
def is_installed() -> bool:
    """Whether decord is installed and loads; there are platforms without wheels."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def frames(path: Path, wanted: Span) -> Generator[Frame]:
    """Decode a span in one read, then drop the reader; frames cannot be written to.

    Raises:
        UnusableError: at any frame; those before it are right.
    """
    try:
        yield from _read(path, wanted)
    except Exception as error:
        # decord raises whatever comes to hand, even AssertionError and StopIteration.
        raise UnusableError from error


def _read(path: Path, wanted: Span) -> Generator[Frame]:
    import decord

    if not wanted.plain:
        raise UnusableError
    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(os.fspath(path.absolute()), ctx=decord.cpu(0), num_threads=1)
    if len(reader) < wanted.first + wanted.frames:
        raise UnusableError
    if wanted.first:
        reader.seek_accurate(wanted.first)
    for number in range(wanted.frames):
        frame: Any = np.from_dlpack(_Shared(reader.next()))
        # It chooses tracks and turns pictures by rules of its own.
        if not number and not np.array_equal(frame, next(pyav_backend.frames(path, wanted))):
            raise UnusableError
        yield frame


class _Shared:
    """A decord array as numpy takes it over, without a copy."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # main memory
