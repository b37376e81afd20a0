"""Frames by decord, in a thread that is left behind should it hang, as it does on some files."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.video.frames import Frame
from spamo_cache.video.timeline import Span
from spamo_cache.video.watchdog import StalledError, watched

STALL_SECONDS = 60.0
"""Without a frame for so long, a reader has hung."""
SLOWEST_BYTES = 10e6
"""Per second, of a file on a slow network: decord reads all of it before the first frame."""

_READ_AHEAD_BYTES = 256 << 20

_log = logging.getLogger(__name__)
_given_up = threading.Lock()
"""Never released: whoever gets it is the first whose reader hung."""


class UnusableError(Exception):
    """decord has failed, hung, or disagrees with the file; PyAV has to judge."""


def suits(wanted: Span) -> bool:
    """Whether decord is there and right for a span.

    While its frames are used it decodes on without bound, up to the end of the file, so this
    end must not be far.
    """
    return (
        wanted.plain
        and wanted.behind <= _READ_AHEAD_BYTES
        and not _given_up.locked()
        and is_installed()
    )


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
        patience = STALL_SECONDS + path.stat().st_size / SLOWEST_BYTES
        source = watched(lambda: _read(path, wanted), first=patience, then=STALL_SECONDS)
        with closing(source):
            yield from source
    except StalledError:
        _give_up(path)
        raise UnusableError from None
    except Exception as error:
        # decord raises whatever comes to hand, even AssertionError and StopIteration.
        raise UnusableError from error


def _read(path: Path, wanted: Span) -> Generator[Frame]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1)
    if len(reader) < wanted.first + wanted.frames:
        raise UnusableError
    if wanted.first:
        reader.seek_accurate(wanted.first)
    for _ in range(wanted.frames):
        frame: Any = np.from_dlpack(_Shared(reader.next()))
        yield frame


def _give_up(path: Path) -> None:
    if _given_up.acquire(blocking=False):
        _log.warning(
            "decord gave no frame of %s for %.0f s: PyAV reads it and all further videos",
            path.name,
            STALL_SECONDS,
        )


class _Shared:
    """A decord array as numpy takes it over, without a copy."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # main memory
