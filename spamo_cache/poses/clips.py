"""Poses and clips: where a clip's pose lies, and which part of it is the clip's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded, io
from spamo_cache.errors import PoseError
from spamo_cache.poses.pose import Pose

FOLDER = "poses"
"""Below the root of a corpus: a file for each clip, by its id."""
SUFFIX = ".pose"
_MAX_NAME = 200
_SECONDS, _SHARE, _FRAMES = 1.0, 0.1, 2
"""How much longer or shorter a pose may be than its clip."""


class ClipLike(Protocol):
    """The part of a manifest's clip that says where its pose is, and how it lies."""

    @property
    def id(self) -> str: ...
    @property
    def pose(self) -> str | None: ...
    @property
    def start(self) -> float | None: ...
    @property
    def crop(self) -> tuple[float, float, float, float] | None: ...


def file_name(clip: str, ending: str = SUFFIX) -> str:
    """What the file of a clip is called, after its id.

    An id that no file could be called by is percent-encoded; one that is too long even so is cut,
    and told from others by a hash.
    """
    quoted = quote(clip, safe="")
    plain = io.file_name(clip) == clip or len(quoted) > _MAX_NAME or clip.startswith(".")
    return (io.file_name(clip) if plain else quoted) + ending


def find(clip: ClipLike, root: Path, poses_folder: Path | None = None) -> Path | None:
    """The file of a clip's pose; None where there is none.

    The manifest's column ``pose`` names it below ``root``, else it is looked up by id.

    Args:
        poses_folder: where poses lie by id; ``<root>/poses`` if not given.

    Raises:
        PoseError: the column names a file that is not there or lies outside the root.
    """
    if clip.pose:
        try:
            path = bounded.locate(root, clip.pose)
        except ValueError as error:
            raise PoseError(f"the pose of {clip.id} {error}", where=clip.pose) from None
        if not path.is_file():
            raise PoseError(f"the pose of {clip.id} is missing", where=path)
        return path
    folder = root / FOLDER if poses_folder is None else poses_folder
    names = dict.fromkeys((file_name(clip.id), quote(clip.id, safe="") + SUFFIX))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def digest(path: Path) -> str:
    """SHA-256 of a file of poses, in hexadecimal.

    Raises:
        PoseError: it cannot be read.
    """
    try:
        return io.file_sha256(path)
    except OSError as error:
        raise PoseError(f"cannot be read: {error.strerror or error}", where=path) from None


def of_clip(
    pose: Pose, clip: ClipLike, size: tuple[int, int], times: NDArray[np.float64] | int
) -> Pose:
    """A row for each frame of a clip, in pixels of its frames.

    A pose that was found by id begins with the clip and shows its frames as they are cropped. One
    that the manifest names begins with the source and shows all of its frames: the clip takes its
    part in time, and its crop.

    Args:
        size: width and height of the clip's frames, crop applied.
        times: (frames,) seconds from the beginning of the source at which each frame is shown; of
            a folder of images, which has no clock, the number of images.

    Raises:
        PoseError: the pose is shorter or longer than the clip by over a second or 10 %; of
            images, it has another number of frames.
    """
    of_source = bool(clip.pose)
    if isinstance(times, int):
        if pose.frames != times:
            raise PoseError(f"the pose has {pose.frames} frames, the clip {times} images")
        rows = pose
    else:
        own = times if of_source else times - times[0]
        _check_length(pose, own, of_source=of_source)
        rows = pose.at(own)
    left, top, right, bottom = clip.crop if of_source and clip.crop is not None else (0, 0, 1, 1)
    # Shares of the frame, then of the crop, then pixels of it.
    shares = rows.points / np.array([pose.width, pose.height], np.float64)
    within = (shares - (left, top)) / (right - left, bottom - top)
    points = np.where(rows.confidence[..., None] > 0, within * size, 0).astype(np.float32)
    return replace(rows, width=size[0], height=size[1], points=points)


def _check_length(pose: Pose, times: NDArray[np.float64], *, of_source: bool) -> None:
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / pose.fps
    begin = 0.0 if of_source else float(times[0])
    end = float(times[-1]) + step
    clip = end - float(times[0])
    allowed = max(min(_SECONDS, _SHARE * clip), _FRAMES * max(step, 1 / pose.fps))
    apart = pose.seconds - (end - begin)
    if apart < -allowed or (apart > allowed and not of_source):
        what = "the part of the source up to the clip's end" if of_source else "the clip"
        raise PoseError(
            f"the pose lasts {pose.seconds:.2f} s ({pose.begin + pose.frames} frames at "
            f"{pose.fps:g} per second), {what} {end - begin:.2f} s",
            remedy="make the pose from this video, or correct its frames per second",
        )
