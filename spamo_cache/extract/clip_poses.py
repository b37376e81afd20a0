"""Poses as inputs of an extraction: where each clip's is, what it is known by, its part in time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded, config, io, poses
from spamo_cache.datasets.source_files import locate
from spamo_cache.errors import PoseError
from spamo_cache.poses import Pose
from spamo_cache.poses.clips import FOLDER, ClipLike
from spamo_cache.video import Probe, timeline_cache

_THREADS = 8
_MISSING = "has no pose"


@dataclass(frozen=True, slots=True)
class PoseFile:
    """The pose of a clip, as it lies on disk."""

    path: Path | None
    """None where there is none that could be read; ``reason`` says why."""
    sha256: str
    """Of its content."""
    reason: str | None = None
    named: str | None = None
    """By the manifest, where it names it: then it begins with the source, not with the clip."""

    @property
    def identity(self) -> str:
        """What a clip's features depend on: the content, and what the pose begins with.

        Empty where there is no pose.
        """
        return f"source:{self.sha256}" if self.named and self.sha256 else self.sha256


@dataclass(frozen=True, slots=True)
class ClipPose:
    """A clip's pose, a row per frame, in shares of the width and height of its frames."""

    shares: Pose
    width: float
    """Of a frame, in units of which there are equally many to its height; so is ``height``."""
    height: float

    def scaled(self, width: float, height: float) -> Pose:
        """The pose in a frame of another size."""
        points = self.shares.points * np.array([width, height], np.float64)
        size = max(1, round(width)), max(1, round(height))
        return replace(self.shares, width=size[0], height=size[1], points=points)

    @property
    def square(self) -> Pose:
        """The pose in units that are as wide as high."""
        return self.scaled(self.width, self.height)


def find_all(root: Path, folder: Path | None, clips: Sequence[ClipLike]) -> list[PoseFile]:
    """The poses of clips; what is wrong with one stands in its ``reason``.

    Args:
        root: of the corpus.
        folder: where poses lie by id; None is ``<root>/poses``.
    """
    notes = _Digests(folder or root / FOLDER)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="poses") as pool:
        found = list(pool.map(lambda clip: find(root, folder, clip, notes.of), clips))
    notes.save()
    return found


def find(
    root: Path,
    folder: Path | None,
    clip: ClipLike,
    digest: Callable[[Path], str] = poses.digest,
) -> PoseFile:
    """The pose of a clip; ``folder`` may be the very file."""
    try:
        if folder is not None and folder.is_file():
            return PoseFile(folder.absolute(), digest(folder))
        path = poses.find(clip, root, folder)
        if path is None:
            return PoseFile(None, "", _MISSING)
        return PoseFile(path.absolute(), digest(path), named=clip.pose)
    except PoseError as error:
        return PoseFile(None, "", error.what)


def read(root: Path, clip: ClipLike, probed: Probe, file: PoseFile) -> ClipPose:
    """A clip's pose, aligned to its frames by their times.

    Args:
        clip: with its ``source``.
        probed: as it was probed.

    Raises:
        PoseError: there is none, it cannot be read, or is not of this clip.
    """
    if file.path is None:
        raise PoseError(file.reason or _MISSING)
    if _sha256(file.path, *_state(file.path)) != file.sha256:
        raise PoseError("its pose has changed since the extraction was planned", where=file.path)
    times = times_of(root, clip, probed)
    part = None
    if clip.pose is not None and not isinstance(times, int):
        # A source may last for hours, of which the clip is a moment.
        part = float(times[0]), float(times[-1])
    whole = poses.read(file.path, part)
    shares = poses.of_clip(whole, clip, (1, 1), times)
    box = clip.crop if clip.pose is not None and clip.crop is not None else (0.0, 0.0, 1.0, 1.0)
    width, height = whole.width * (box[2] - box[0]), whole.height * (box[3] - box[1])
    return ClipPose(shares, width, height)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file; what is equal in both has not changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise PoseError(f"cannot be read: {error.strerror}", where=path) from None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)
def _sha256(path: Path, _size: int, _time: int) -> str:
    """Of a file that many clips of one source may share."""
    return poses.digest(path)


def times_of(root: Path, clip: Any, probed: Probe) -> NDArray[np.float64] | int:
    """When the clip's frames are shown, in seconds of its source; of images their number."""
    if probed.span is None:
        return probed.frames
    path = locate(root, clip.source)
    seconds = timeline_cache.timeline(path, path.stat()).seconds
    return seconds[probed.span.first : probed.span.first + probed.frames]


class _Digests:
    """Hashes of the files of a folder, kept between commands while files are what they were."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(str(folder.absolute()).encode(errors="surrogateescape")).hexdigest()
        self._file = config.home() / "poses" / f"{name}.json"
        self._known = _noted(self._file)
        self._now: dict[str, list[Any]] = {}

    def of(self, path: Path) -> str:
        """Raises PoseError for a file that cannot be read."""
        key, state = str(path.absolute()), list(_state(path))
        noted = self._known.get(key)
        same = isinstance(noted, list) and noted[:2] == state and isinstance(noted[-1], str)
        digest = str(noted[-1]) if noted and same else poses.digest(path)
        self._now[key] = [*state, digest]
        return digest

    def save(self) -> None:
        if self._now != self._known:
            # A home that is full or read-only costs time on the next run, nothing else.
            with suppress(OSError):
                text = json.dumps(io.with_checksum({"files": self._now}))
                io.write_atomic(self._file, text.encode())


def _noted(file: Path) -> Mapping[str, Any]:
    try:
        noted = io.without_checksum(json.loads(bounded.read(file, bounded.MAX_JSON_BYTES)), file)
        files = noted["files"]
    except Exception:  # noqa: BLE001 - a note that is lost or damaged is made again
        return {}
    return files if isinstance(files, dict) else {}
