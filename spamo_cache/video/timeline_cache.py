"""Timelines kept between commands, since making one reads a whole video and may decode it.

One small array per file below the user's home: a header, ranges of damage, then the steps from
frame to frame. An entry that is damaged, or whose file has changed since, is replaced.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spamo_cache import config, io
from spamo_cache.video.timeline import Timeline, scan

_FORMAT = 3
_HEADER = 11
"""Checksum of all that follows; the file's size and time of change; numerator and denominator of
the unit; zero; last; bytes of a frame; whether seekable, plain; ranges of damage."""
_MAX_BYTES = 1 << 28
"""Of an entry: a day of video has a tenth of it."""


def timeline(path: Path, status: os.stat_result) -> Timeline:
    """The timeline of a file of this ``status``, from the last time where nothing has changed.

    Raises:
        VideoError: as :func:`spamo_cache.video.timeline.scan`; failures are not kept.
    """
    entry = _entry(path)
    times = _load(entry, status)
    if times is None:
        times = scan(path)
        # A home that is full or read-only costs time on the next run, nothing else.
        with suppress(OSError):
            _save(entry, status, times)
    return times


def _entry(path: Path) -> Path:
    import av

    # Another FFmpeg may number the frames of a strange file in another way.
    name = f"{_FORMAT} {av.__version__} {path.absolute()}"
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return config.home() / "timelines" / digest[:2] / digest[2:4] / f"{digest[4:]}"


def _load(entry: Path, status: os.stat_result) -> Timeline | None:
    try:
        with entry.open("rb") as file:
            values = np.frombuffer(file.read(_MAX_BYTES), np.int64)
    except (OSError, ValueError):
        return None
    if len(values) <= _HEADER or values[0] != _checksum(values):
        return None
    size, changed, above, below, zero, last, frame_bytes, seekable, plain, ranges = values[
        1:_HEADER
    ].tolist()
    if (size, changed) != (status.st_size, status.st_mtime_ns):
        return None
    damage, steps = np.split(values[_HEADER:], [2 * ranges])
    return Timeline(
        pts=np.cumsum(steps),
        unit=Fraction(above, below),
        zero=zero,
        last=last,
        damage=damage.reshape(-1, 2),
        frame_bytes=frame_bytes,
        seekable=bool(seekable),
        plain=bool(plain),
    )


def _save(entry: Path, status: os.stat_result, times: Timeline) -> None:
    header = [0, status.st_size, status.st_mtime_ns, *times.unit.as_integer_ratio(), times.zero]
    header += [times.last, times.frame_bytes, times.seekable, times.plain, len(times.damage)]
    steps = np.diff(times.pts, prepend=0)
    values = np.concatenate([header, times.damage.ravel(), steps]).astype(np.int64)
    values[0] = _checksum(values)
    io.make_folders(entry.parent)
    new = io.temporary(entry.parent)
    new.write_bytes(values.tobytes())
    new.replace(entry)


def _checksum(values: NDArray[np.int64]) -> int:
    return zlib.crc32(values[1:].tobytes())
