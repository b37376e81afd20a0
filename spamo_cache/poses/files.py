"""``.pose`` files of versions 0.1 and 0.2: looked at first, then read by ``pose-format``.

A header of a few bytes can promise years of a stadium. So components, sizes and rate are held
against the length of the file before the library sees it.
"""

from __future__ import annotations

import errno
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded, extras
from spamo_cache.errors import PoseError
from spamo_cache.poses.pose import Pose

MAX_BYTES = 1 << 31
"""Of a file: an hour and a half of MediaPipe Holistic at 30 frames per second."""
_MAX_FPS = 1000.0
_MAX_COMPONENTS, _MAX_POINTS = 64, 4096
_MAX_PIXELS = 1e6
"""Estimators guess points beyond the edge of a frame; none lies so far off."""
_MAX_HEADER_BYTES = 1 << 20
_COUNTED = 1 << 16
"""Version 0.1 counts frames in 16 bits, and begins anew beyond."""
_RATES = {0.1: "<HHH", 0.2: "<fIH"}
"""Version -> rate, frames and people, as they stand behind the components."""
_AGAIN = "make the file again, or leave the clip without a pose"


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """All that a file holds."""

    fps: float
    width: int
    height: int
    names: tuple[str, ...]
    """Of the points: ``COMPONENT/POINT``."""
    points: NDArray[np.float32]
    """(frames, people, points, dimensions); 0 where not seen."""
    confidence: NDArray[np.float32]
    """(frames, people, points)."""


def read(path: Path, part: tuple[float, float] | None = None) -> Pose:
    """The pose of one person: of several the one seen with most confidence in what is read.

    Confidence beyond 0..1, as estimators that score by heat maps give it, is cut to that.

    Args:
        part: from when to when it is wanted, in seconds from the beginning; None is all of it.

    Raises:
        PoseError: missing, not to be read, or no sound ``.pose`` file.
        MissingLibraryError: ``pose-format`` is not installed.
    """
    try:
        begin, data = (0, bounded.read(path, MAX_BYTES)) if part is None else _part(path, *part)
        body = parse(data)
    except OSError as error:
        raise PoseError(f"cannot be read: {error.strerror or error}", where=path) from None
    except PoseError as error:
        raise PoseError(error.what, where=path, remedy=_AGAIN) from None
    person = int(body.confidence.sum(axis=(0, 2), dtype=np.float64).argmax())
    confidence = np.clip(body.confidence[:, person], 0, 1)
    return Pose(
        fps=body.fps,
        width=body.width,
        height=body.height,
        points=np.where(confidence[..., None] > 0, body.points[:, person, :, :2], 0),
        confidence=confidence,
        names=body.names,
        begin=begin,
    )


def _part(path: Path, start: float, end: float) -> tuple[int, bytes]:
    """A file of the frames of a part, and which one is the first: an hour is not read for a clip.

    Raises:
        OSError, PoseError: as :func:`read`.
    """
    with bounded.opened(path) as file:
        header = _Header.of(file.read(_MAX_HEADER_BYTES))
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {MAX_BYTES:,} bytes", str(path))
        total = header.frames_in(size)
        first = min(max(0, int(start * header.fps) - 1), total - 1)
        count = min(max(1, math.ceil(end * header.fps) + 2 - first), total - first)
        points = header.people * len(header.names) * 4
        pieces = [header.packed(count)]
        place = header.size
        for row in (points * header.dimensions, points):
            file.seek(place + first * row)
            pieces.append(file.read(count * row))
            place += total * row
    return first, b"".join(pieces)


def parse(data: bytes) -> Body:
    """The content of a ``.pose`` file, everyone in it.

    Raises:
        PoseError: it is none, or not a sound one.
        MissingLibraryError: ``pose-format`` is not installed.
    """
    pose_format = extras.load("pose_format", "reading .pose files")
    header = _Header.of(data)
    header.frames_in(len(data))
    try:
        body = pose_format.Pose.read(data).body
    except Exception as error:
        raise PoseError(f"is no sound .pose file ({type(error).__name__}: {error})") from error
    points = np.ma.filled(body.data, 0).astype(np.float32, copy=False)
    confidence = np.asarray(body.confidence, np.float32)
    _check_values(points, confidence)
    return Body(header.fps, header.width, header.height, header.names, points, confidence)


def pack(pose: Pose) -> bytes:
    """A ``.pose`` file of version 0.2, the same bytes of the same pose everywhere."""
    head = [struct.pack("<fHHHH", 0.2, pose.width, pose.height, 0, len(pose.components))]
    for component in pose.components:
        own = [name.partition("/")[2] for name in pose.names if name.startswith(component + "/")]
        head += [_packed(component), _packed("XYC"), struct.pack("<HHH", len(own), 0, 0)]
        head += map(_packed, own)
    head.append(struct.pack("<fIH", pose.fps, pose.frames, 1))
    numbers = (array.astype("<f4").tobytes() for array in (pose.points, pose.confidence))
    return b"".join([*head, *numbers])


def _packed(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<H", len(encoded)) + encoded


def _check_values(points: NDArray[np.float32], confidence: NDArray[np.float32]) -> None:
    # A sum tells of NaN and infinity without a mask as large as the file.
    if not np.isfinite(confidence.sum(dtype=np.float64)):
        raise PoseError("is no sound .pose file: a confidence is no finite number")
    if not points.size:
        return
    low, high = float(points.min()), float(points.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PoseError("is no sound .pose file: a coordinate is no finite number")
    if max(-low, high) > _MAX_PIXELS:
        worst = low if -low > high else high
        raise PoseError(f"is no sound .pose file: a coordinate of {worst:g} pixels")


@dataclass(frozen=True, slots=True)
class _Header:
    version: float
    width: int
    height: int
    names: tuple[str, ...]
    dimensions: int
    fps: float
    frames: int
    people: int
    components: bytes
    """The header as it is in the file, but for rate, frames and people."""
    size: int
    """Bytes of the header."""

    @classmethod
    def of(cls, data: bytes) -> _Header:
        """What the first bytes of a file say.

        Raises:
            PoseError: another version, absurd numbers, or a header that is cut or garbled.
        """
        try:
            return cls._read(data)
        except (struct.error, UnicodeDecodeError):
            raise PoseError("is no sound .pose file: its header is cut or garbled") from None

    @classmethod
    def _read(cls, data: bytes) -> _Header:
        cursor = _Cursor(data)
        (version,) = cursor.unpack("<f")
        version = round(version, 3)
        # Of version 0 a small file can count people for hours.
        if version not in (0.1, 0.2):
            raise PoseError(f"is no .pose file of version 0.1 or 0.2 ({version:g})")
        width, height, _ = cursor.unpack("<HHH")
        (components,) = cursor.unpack("<H")
        if not 0 < components <= _MAX_COMPONENTS:
            raise PoseError(f"is no sound .pose file: it has {components:,} components")
        names: list[str] = []
        formats = [_component(cursor, names) for _ in range(components)]
        if len(set(names)) < len(names):
            raise PoseError("is no sound .pose file: two points have one name")
        described = data[: cursor.place]
        fps, frames, people = cursor.unpack(_RATES[version])
        dimensions = max(map(len, formats)) - 1
        return cls(
            *(version, width, height, tuple(names), dimensions),
            *(float(fps), frames, people, described, cursor.place),
        )

    def packed(self, frames: int) -> bytes:
        """The same header of so many frames."""
        if self.version == 0.1:
            rate = struct.pack("<HHH", int(self.fps), frames % _COUNTED, self.people)
        else:
            rate = struct.pack("<fIH", self.fps, frames, self.people)
        return self.components + rate

    def frames_in(self, size: int) -> int:
        """How many frames a file of ``size`` bytes holds, held against what the header says.

        Raises:
            PoseError: they do not fit, or cannot be.
        """
        if not (math.isfinite(self.fps) and 0 < self.fps <= _MAX_FPS):
            raise PoseError(f"is no sound .pose file: {self.fps:g} frames per second")
        if not (self.width and self.height):
            raise PoseError(f"is no sound .pose file: frames of {self.width}x{self.height} pixels")
        if not self.people:
            raise PoseError("is a .pose file without a person")
        frame = self.people * len(self.names) * (self.dimensions + 1) * 4
        held, rest = divmod(size - self.size, frame)
        told = held % _COUNTED if self.version == 0.1 else held
        if rest or told != self.frames:
            there = (size - self.size) / frame
            raise PoseError(
                f"is no sound .pose file: it promises {self.frames:,} frames of {self.people:,} "
                f"people with {len(self.names):,} points, and holds {there:.1f}"
            )
        if not held:
            raise PoseError("is a .pose file without a frame")
        return held


def _component(cursor: _Cursor, names: list[str]) -> str:
    """Read a component: its points are put to ``names``; its format comes back."""
    name, layout = cursor.text(), cursor.text()
    points, limbs, colours = cursor.unpack("<HHH")
    if not (layout.startswith("XY") and layout.endswith("C") and len(layout) <= 8):
        raise PoseError(f"is no sound .pose file: points of format {layout[:20]!r}, not XYC")
    if points + len(names) > _MAX_POINTS or not points:
        raise PoseError(f"is no sound .pose file: a component of {points:,} points")
    names += [f"{name}/{cursor.text()}" for _ in range(points)]
    cursor.skip(4 * limbs + 6 * colours)
    return layout


class _Cursor:
    """A place in bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def unpack(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(layout, self._data, self.place)
        self.place += struct.calcsize(layout)
        return found

    def text(self) -> str:
        (size,) = self.unpack("<H")
        (text,) = self.unpack(f"<{size}s")
        return str(text, "utf-8")

    def skip(self, size: int) -> None:
        self.place += size
