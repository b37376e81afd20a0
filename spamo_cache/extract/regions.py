"""What of each frame a stream is shown: the whole of it, or the square around a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config import BoxSpec, NetworkStream
from spamo_cache.config.spec import Region
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.preprocess import ResizeSpec
from spamo_cache.errors import PoseError
from spamo_cache.poses import Pose, parts

_BEYOND = 2
"""Long sides of a picture: what no box exceeds, whatever a pose says."""
_MAX_SIDE = 1 << 14
"""Nor does it exceed this, which is two long sides of an 8K picture."""
_AT_ONCE_BYTES = 8 << 20
"""Of crops that are cut and resized together: as many as of frames."""


@dataclass(frozen=True, slots=True)
class View:
    """What a stream is shown of each frame; streams of equal views share the work."""

    spec: ResizeSpec
    """Of the picture that the encoder takes."""
    region: Region | None = None
    """None is the whole frame."""
    box: BoxSpec = field(default_factory=BoxSpec)
    stride: int = 1
    """Frames from one that is shown to the next."""

    @classmethod
    def of(cls, stream: NetworkStream, encoder: Encoder) -> View:
        """The view of a stream."""
        spec = encoder.preprocess.resize_spec
        region = getattr(stream, "region", None)
        if region is None:
            return cls(spec)
        # A box is square: there is nothing to be cut off after it was resized.
        square = ResizeSpec(size=spec.size, shortest=None, interpolation=spec.interpolation)
        return cls(square, region, getattr(stream, "box", BoxSpec()), stream.stride)

    def count(self, frames: int) -> int:
        """How many of a clip's frames are shown."""
        return -(-frames // self.stride)

    def starts(self, encoder: Encoder, shown: int) -> Sequence[int]:
        """First picture of each of the encoder's rows, of so many that are shown."""
        return encoder.starts(shown) if self.region is None else range(shown)

    def bytes(self, frames: int) -> int:
        """What the prepared frames of a clip take."""
        return 3 * self.spec.size**2 * self.count(frames)


class Box(NamedTuple):
    """A square in a frame, in pixels; it may reach beyond the frame's edges."""

    left: int
    top: int
    side: int
    visible: bool
    """Whether the region was seen in this frame."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The squares of a clip, all of one size."""

    side: int
    """Pixels; 0 where the region is never seen."""
    corners: NDArray[np.int64]
    """(frames, 2): left and top."""
    visible: NDArray[np.bool_]
    """(frames,) whether the region is seen."""
    shown: NDArray[np.bool_]
    """(frames,) whether anything is cut out; else the picture is blank."""

    @property
    def at_once(self) -> int:
        """How many frames are cut together."""
        return max(1, _AT_ONCE_BYTES // max(1, 3 * self.side**2))

    def __getitem__(self, frame: int) -> Box:
        left, top = self.corners[frame].tolist()
        return Box(left, top, self.side, bool(self.visible[frame]))


def has(pose: Pose, region: Region) -> bool:
    """Whether the pose has points of the region."""
    return len(_indices(pose, region)) > 0


def check(pose: Pose, region: Region) -> None:
    """Raise PoseError where the pose has none of the region's points."""
    if not has(pose, region):
        raise PoseError(f"the pose has no points of the region {region}")


def boxes(pose: Pose, region: Region, box: BoxSpec) -> Boxes:
    """The square of each frame.

    A region's points in a frame are those of at least the least confidence, and it is visible
    where these are half of its points (both of the shoulders, for ``upper-body``). The square's
    centre is the middle of their extent, averaged over the visible ones of the frames around. Its
    side is one for the clip, a multiple of the median extent: a hand stays as large when it is
    closed. Where the region is not visible, the last box seen stands, before any the first.

    Args:
        pose: a row per frame of the clip, in pixels of its frames.
        region: one that :func:`check` has let pass.
    """
    points, seen = _points(pose, region, box.confidence)
    least = 2 if region == "upper-body" else (points.shape[1] + 1) // 2
    visible = seen.sum(axis=1) >= least
    if not visible.any():
        blank = np.zeros(len(points), bool)
        return Boxes(0, np.zeros((len(points), 2), np.int64), blank, blank)
    low = np.where(seen[..., None], points, np.inf)[visible].min(axis=1)
    high = np.where(seen[..., None], points, -np.inf)[visible].max(axis=1)
    extent = (high - low).max(axis=1)
    if region == "upper-body":  # from above the head to the waist
        extent = 2 * extent
    largest = min(_BEYOND * max(pose.width, pose.height), _MAX_SIDE)
    side = int(np.clip(np.rint(box.scale * np.median(extent)), 1, largest))
    centre = _smoothed((low + high) / 2, visible, box.smooth)
    corners = np.rint(centre - side / 2).astype(np.int64)[_last_seen(visible)]
    outside = (corners + side <= 0) | (corners >= (pose.width, pose.height))
    visible = visible & ~outside.any(axis=1)
    shown = visible if box.missing == "blank" else np.ones_like(visible)
    return Boxes(side, corners, visible, shown)


def crops(frames: NDArray[np.uint8], found: Boxes, numbers: range) -> NDArray[np.uint8]:
    """Cut frames to their boxes; black where a box reaches beyond the picture.

    Args:
        frames: (frames, height, width, 3), in any strides.
        numbers: theirs in the clip.

    Returns:
        (frames, side, side, 3).
    """
    _, height, width, _ = frames.shape
    side = max(found.side, 1)
    cut = np.zeros((len(frames), side, side, 3), np.uint8)
    for number, frame, picture in zip(numbers, frames, cut, strict=True):
        if not found.shown[number]:
            continue
        left, top, *_ = found[number]
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + side, width), min(top + side, height)
        if x0 < x1 and y0 < y1:
            picture[y0 - top : y1 - top, x0 - left : x1 - left] = frame[y0:y1, x0:x1]
    return cut


def _points(
    pose: Pose, region: Region, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(frames, points, 2) and which of them count, (frames, points)."""
    indices = _indices(pose, region)
    seen = pose.confidence[:, indices]
    return pose.points[:, indices].astype(np.float64), (seen >= confidence) & (seen > 0)


def _indices(pose: Pose, region: Region) -> NDArray[np.int64]:
    return parts(pose)["shoulders" if region == "upper-body" else region]


def _smoothed(
    centre: NDArray[np.float64], visible: NDArray[np.bool_], frames: int
) -> NDArray[np.float64]:
    """Centres of the visible frames, averaged over the visible ones of ``frames`` around each.

    Added in one order, one offset after the other: the same bits on every machine.
    """
    reach, count = frames // 2, len(visible)
    every = np.zeros((count + 2 * reach, 2))
    there = np.zeros(count + 2 * reach)
    every[reach : reach + count][visible] = centre
    there[reach : reach + count][visible] = 1
    total, weight = np.zeros((count, 2)), np.zeros(count)
    for offset in range(2 * reach + 1):
        total += every[offset : offset + count]
        weight += there[offset : offset + count]
    return total[visible] / weight[visible, None]


def _last_seen(visible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(frames,) which of the visible frames is the last one up to each; before any, the first."""
    last: NDArray[np.int64] = np.maximum(np.cumsum(visible) - 1, 0)
    return last
