"""Timelines kept between runs: listing a raw video's frames reads all of it, which once is enough.

One small array per file below the user's home: a header, then the steps from frame to frame. An
entry that is damaged, or of a file that has changed since, is made anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spamo_cache import config
from spamo_cache.store.files import temporary
from spamo_cache.video.timeline import Timeline, scan

_FORMAT = 1
_HEADER = 8
"""Checksum of all that follows; size, time of change; unit above, below; last; bytes; plain."""


def timeline(path: Path, status: os.stat_result) -> Timeline:
    """The timeline of a file of this ``status``, from the last time where nothing has changed.

    Raises:
        VideoError: as :func:`spamo_cache.video.timeline.scan`; failures are not kept.
    """
    entry = _entry(path)
    found = _load(entry, status)
    if found is None:
        found = scan(path)
        # A home that is full or read-only costs time on the next run, nothing else.
        with suppress(OSError):
            _save(entry, status, found)
    return found


def _entry(path: Path) -> Path:
    import av

    # Another FFmpeg may number the frames of a strange file in another way.
    name = f"{_FORMAT} {av.__version__} {path.absolute()}"
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return config.home() / "timelines" / digest[:2] / digest[2:4] / f"{digest[4:]}.npy"


def _load(entry: Path, status: os.stat_result) -> Timeline | None:
    try:
        values = np.load(entry, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError):
        return None
    if values.dtype != np.int64 or values.ndim != 1 or len(values) <= _HEADER:
        return None
    checksum, size, changed, above, below, last, frame_bytes, plain = values[:_HEADER].tolist()
    if (checksum, size, changed) != (_checksum(values), status.st_size, status.st_mtime_ns):
        return None
    pts = np.cumsum(values[_HEADER:])
    return Timeline(pts, Fraction(above, below), last, frame_bytes, bool(plain))


def _save(entry: Path, status: os.stat_result, found: Timeline) -> None:
    unit = found.unit
    header = [status.st_size, status.st_mtime_ns, unit.numerator, unit.denominator]
    header += [found.last, found.frame_bytes, found.plain]
    values = np.concatenate([[0], header, np.diff(found.pts, prepend=0)]).astype(np.int64)
    values[0] = _checksum(values)
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    entry.parent.mkdir(parents=True, exist_ok=True)
    new = temporary(entry.parent)
    new.write_bytes(data.getvalue())
    new.replace(entry)


def _checksum(values: NDArray[np.int64]) -> int:
    return zlib.crc32(values[1:].tobytes())
