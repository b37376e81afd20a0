"""Clips decoded and prepared ahead of the encoders: in threads, within a bound in bytes.

A clip is decoded once, whatever the number of streams and of regions that they look at.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.config import PoseStream
from spamo_cache.config.spec import Reader
from spamo_cache.encoders import points
from spamo_cache.encoders.preprocess import Resize, squares
from spamo_cache.errors import PoseError, SpamoError, VideoError, shortage
from spamo_cache.extract import clip_poses, regions
from spamo_cache.extract.clip_poses import ClipPose, PoseFile
from spamo_cache.extract.regions import Boxes, View
from spamo_cache.video import Probe, decode

Sight = View | PoseStream
"""What of a clip a stream is computed from."""


@dataclass(frozen=True, slots=True)
class ClipTask:
    """One clip to decode, as it was probed."""

    id: str
    source: str
    start: float | None
    end: float | None
    crop: tuple[float, float, float, float] | None
    probe: Probe
    pose_file: PoseFile | None = None
    """Where streams use poses."""

    @property
    def pose(self) -> str | None:
        """As the manifest names it."""
        return None if self.pose_file is None else self.pose_file.named


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """How clips become the pixels that encoders take."""

    root: Path
    """Corpus root."""
    resize: Resize
    reader: Reader = "auto"
    decoders: int
    """Threads that decode ahead."""
    ahead_bytes: int = 1 << 29
    """Bound on decoded frames waiting to be encoded."""


@dataclass(slots=True)
class DecodedClip:
    """A clip ready for all streams, or the reasons why it is not."""

    prepared: Mapping[View, torch.Tensor] = field(default_factory=dict)
    """uint8 (frames shown, 3, size, size), channels last in memory."""
    rows: dict[PoseStream, NDArray[np.float32]] = field(default_factory=dict)
    """(rows, width) of streams of points."""
    valid: dict[Sight, NDArray[np.bool_]] = field(default_factory=dict)
    """(rows,) of what is seen by the clip's pose."""
    reasons: dict[Sight, str] = field(default_factory=dict)
    """Why there is nothing of a sight."""
    source_sha256: str = ""
    """Empty where no frame was needed."""
    decode_seconds: float = 0.0
    prepare_seconds: float = 0.0


class Decoders:
    """Threads that decode clips ahead, of any number of partitions within one bound in bytes."""

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._lock = Lock()
        self._waiting_bytes = 0

    def ahead(
        self,
        clips: Iterable[ClipTask],
        sights: Collection[Sight],
        begun: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[ClipTask, DecodedClip]]:
        """Clips in their order, decoded ahead while the waiting bytes stay within bounds.

        Args:
            sights: what of them is wanted.
            begun: called when no clip is left to begin with.
        """
        views = [sight for sight in sights if isinstance(sight, View)]
        waiting: deque[tuple[ClipTask, int, Future[DecodedClip]]] = deque()
        remaining = iter(clips)
        clip = next(remaining, None)
        try:
            while clip is not None or waiting:
                while clip is not None and (not waiting or self._has_room()):
                    size = sum(view.bytes(clip.probe.frames) for view in views)
                    future = self._threads.submit(_decoded, self._config, clip, sights)
                    waiting.append((clip, size, future))
                    self._hold(size)
                    clip = next(remaining, None)
                    if clip is None:
                        begun()
                first, size, future = waiting[0]
                yield first, future.result()
                waiting.popleft()
                self._hold(-size)
        finally:
            for _, size, future in waiting:
                future.cancel()
                self._hold(-size)

    def close(self) -> None:
        """Stop the threads; what they have not begun is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _has_room(self) -> bool:
        with self._lock:
            return self._waiting_bytes < self._config.ahead_bytes

    def _hold(self, size: int) -> None:
        with self._lock:
            self._waiting_bytes += size


class FrameBuffer:
    """Takes a clip's frames and prepares each run at once, so that raw frames never pile up."""

    def __init__(
        self, resize: Resize, frames: int, views: Iterable[View], pose: ClipPose | None = None
    ) -> None:
        """``pose`` is for views of regions."""
        self._resize, self._frames, self._pose = resize, frames, pose
        self._squares = {
            view: np.empty((view.count(frames), view.spec.size, view.spec.size, 3), np.uint8)
            for view in views
        }
        self.boxes: dict[View, Boxes] = {}
        """Of the regions, from the first frame on."""
        self._filled = 0
        self.seconds = 0.0

    def take(self, frames: NDArray[np.uint8]) -> None:
        began = time.perf_counter()
        numbers = range(self._filled, self._filled + len(frames))
        if not self._filled and self._pose is not None:
            _, height, width, _ = frames.shape
            pose = self._pose.scaled(width, height)
            self.boxes = {
                view: regions.boxes(pose, view.region, view.box)
                for view in self._squares
                if view.region is not None
            }
        # A clip with more frames than it was probed with fails once all of them are decoded.
        if numbers.stop <= self._frames:
            for view, filled in self._squares.items():
                self._prepare(view, filled, frames, numbers)
        self._filled = numbers.stop
        self.seconds += time.perf_counter() - began

    def prepared(self) -> dict[View, torch.Tensor]:
        return {
            view: torch.from_numpy(filled).permute(0, 3, 1, 2)
            for view, filled in self._squares.items()
        }

    def _prepare(
        self, view: View, filled: NDArray[np.uint8], frames: NDArray[np.uint8], numbers: range
    ) -> None:
        shown = slice(-numbers.start % view.stride, None, view.stride)
        frames, numbers = frames[shown], numbers[shown]
        first = numbers.start // view.stride
        into = filled[first : first + len(numbers)]
        boxes = self.boxes.get(view)
        step = len(numbers) if boxes is None else boxes.at_once
        for k in range(0, len(numbers), step or 1):
            some = slice(k, k + step)
            cut = frames[some]
            if boxes is not None:
                cut = regions.crops(cut, boxes, numbers[some])
            into[some] = squares(cut, view.spec, self._resize)


def _decoded(config: DecodeConfig, clip: ClipTask, sights: Collection[Sight]) -> DecodedClip:
    if clip.probe.reason is not None:
        return DecodedClip(reasons=dict.fromkeys(sights, clip.probe.reason))
    done = DecodedClip()
    pose = _pose(config, clip, [sight for sight in sights if _uses_pose(sight)], done)
    views = [sight for sight in sights if isinstance(sight, View) and sight not in done.reasons]
    if views:
        _decode(config, clip, views, pose, done)
    return done


def _uses_pose(sight: Sight) -> bool:
    return isinstance(sight, PoseStream) or sight.region is not None


def _pose(
    config: DecodeConfig, clip: ClipTask, sights: Sequence[Sight], done: DecodedClip
) -> ClipPose | None:
    """The clip's pose; the rows of points are added to what is done, and what cannot be."""
    if not sights:
        return None
    began = time.perf_counter()
    try:
        if clip.pose_file is None:
            raise PoseError("has no pose")
        pose = clip_poses.read(config.root, clip, clip.probe, clip.pose_file)
    except (PoseError, VideoError) as error:
        done.reasons.update(dict.fromkeys(sights, error.what))
        return None
    for sight in sights:
        try:
            if isinstance(sight, PoseStream):
                done.rows[sight], done.valid[sight] = points.rows(pose.square, sight)
            elif sight.region is not None:
                regions.check(pose.shares, sight.region)
        except PoseError as error:
            done.reasons[sight] = error.what
    done.prepare_seconds = time.perf_counter() - began
    return pose


def _decode(
    config: DecodeConfig,
    clip: ClipTask,
    views: Sequence[View],
    pose: ClipPose | None,
    done: DecodedClip,
) -> None:
    """Add the views, or why there are none, to what is done of a clip."""
    began = time.perf_counter()
    reason = None
    try:
        buffer = FrameBuffer(config.resize, clip.probe.frames, views, pose)
        digest = decode(config.root, clip, clip.probe, buffer.take, reader=config.reader)
    except VideoError as error:
        reason = error.what
    except SpamoError:
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        # Whatever else a decoder throws is this clip's failure.
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        done.reasons.update(dict.fromkeys(views, reason))
        return
    done.prepared, done.source_sha256 = buffer.prepared(), digest
    done.valid.update({view: found.visible[:: view.stride] for view, found in buffer.boxes.items()})
    done.decode_seconds = time.perf_counter() - began - buffer.seconds
    done.prepare_seconds += buffer.seconds
