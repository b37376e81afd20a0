"""``.pose`` files of a corpus, a clip at a time: estimated by MediaPipe, or imported.

A file has its name in one move and is never made again; who makes it holds a lease on it, so that
commands side by side share the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spamo_cache import devices, extras, io, poses
from spamo_cache.config.spec import Reader
from spamo_cache.datasets.manifest import Clip
from spamo_cache.errors import PoseError, VideoError
from spamo_cache.extract import executors, holistic
from spamo_cache.extract.clip_poses import times_of
from spamo_cache.extract.engine import AT_ONCE
from spamo_cache.extract.executors import Cluster, Executor
from spamo_cache.poses import imports
from spamo_cache.store.leases import Leases
from spamo_cache.video import Probe, each_frame, probe
from spamo_cache.video.frames import Frame

Source = Literal["mediapipe", "openpose", "wholebody"]

_IMAGES_FPS = 25.0
"""Written for folders of images, which have no clock; their poses are matched by number."""
_BUSY_SECONDS = 1.0
_MAX_GAPS = 4
"""So many times the frames of a video whose rate varies has its pose at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseJob:
    """How the poses of a corpus are made."""

    root: Path
    """Of the corpus."""
    folder: Path
    """Where the files go."""
    source: Source = "mediapipe"
    given: Path | None = None
    """Folder of another estimator's output, by the clips' ids."""
    model: Path | None = None
    """File of a current MediaPipe's models; None takes those in an older one's package."""
    reader: Reader = "auto"
    hushed: bool = False
    """Whether MediaPipe's own log is dropped, with all else that this process writes meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What became of a clip."""

    clip: str
    frames: int = 0
    """Of its pose; 0 where a file was there."""
    seen: tuple[int, ...] = ()
    """In how many of them parts were seen, by :data:`PARTS`."""
    reason: str | None = None
    """Why it failed."""
    busy: bool = False
    """Somebody else is at it."""


PARTS = ("right-hand", "left-hand", "face", "shoulders")


def check(source: Source, model: Path | None = None) -> None:
    """Raise what is missing before any work.

    Raises:
        MissingLibraryError: a library that the source needs, or one of another version.
        PoseError: the model is not one.
    """
    use = "estimating poses" if source == "mediapipe" else "importing poses"
    extras.need("pose_format", use=use)
    if source == "mediapipe":
        holistic.check(model)


def make_all(
    job: PoseJob,
    clips: Sequence[Clip],
    *,
    executor: Executor = "dask",
    cluster: Cluster | None = None,
    waiting: Callable[[Sequence[str]], None] = lambda _: None,
    found: Callable[[str, str], None] = lambda _, __: None,
) -> Iterator[Made]:
    """Make the files of clips, in the order in which they are finished.

    Args:
        executor: ``serial`` works in this process.
        cluster: where the workers are.
        waiting: told who makes the clips that are left.
        found: told the addresses of the scheduler and its dashboard.
    """
    leases = Leases(job.folder / ".work" / "claims")
    leases.sweep()
    pending = {clip.id: clip for clip in clips}
    while pending:
        if executor == "serial":
            results: Iterator[Made] = (make(job, clip) for clip in [*pending.values()])
        else:
            items = {clip.id: (replace(job, hushed=True), clip) for clip in pending.values()}
            results = executors.each_on_dask(make, items, cluster or default_cluster(), found)
        for made in results:
            if not made.busy:
                del pending[made.clip]
                yield made
        _wait(leases, list(pending), waiting)


def default_cluster(workers: int | None = None) -> Cluster:
    """One of this machine's cores for each clip at work."""
    return Cluster(workers=workers or max(1, devices.cpu_cores() // AT_ONCE))


def make(job: PoseJob, clip: Clip) -> Made:
    """Make the file of one clip, unless it is there or somebody else is at it."""
    name = poses.file_name(clip.id)
    leases = Leases(job.folder / ".work" / "claims")
    with leases.hold(name) as mine:
        if not mine:
            return Made(clip=clip.id, busy=True)
        path = job.folder / name
        if path.exists():
            return Made(clip=clip.id)
        try:
            data = _file(job, clip)
            body = poses.parse(data)
        except (VideoError, PoseError) as error:
            return Made(clip=clip.id, reason=error.what)
        with leases.desk(name) as desk, io.writing(path):
            io.replace(path, data, desk)
    return Made(clip=clip.id, frames=len(body.points), seen=_seen(body))


def _seen(body: poses.Body) -> tuple[int, ...]:
    found = poses.parts(body)
    in_frames = (body.confidence[:, 0, found[part]] > 0 for part in PARTS)
    return tuple(int(seen.any(axis=1).sum()) for seen in in_frames)


def _wait(leases: Leases, clips: Sequence[str], waiting: Callable[[Sequence[str]], None]) -> None:
    """Wait until one of the clips that others are at is free."""
    while clips:
        holders = [leases.holder(poses.file_name(clip)) for clip in clips]
        waiting(sorted({str(holder) for holder in holders if holder}))
        if not all(holders):
            return
        time.sleep(_BUSY_SECONDS)


def _file(job: PoseJob, clip: Clip) -> bytes:
    probed = probe(job.root, clip)
    if probed.reason is not None:
        raise VideoError(probed.reason)
    if job.source == "mediapipe":
        return _estimated(job, clip, probed)
    if job.given is None:
        raise PoseError("no folder of another estimator's output is given")
    return _imported(job, clip, probed, job.source, job.given)


def _estimated(job: PoseJob, clip: Clip, probed: Probe) -> bytes:
    fps, rows = _clock(job.root, clip, probed)
    with closing(each_frame(job.root, clip, probed, reader=job.reader)) as frames:
        first = _first(frames)
        height, width = first.shape[:2]
        size = (width, height)
        alike = _of_one_size(chain([first], frames), size)
        seen = holistic.estimate(alike, fps, size, model=job.model, hush=job.hushed)
    if len(seen.confidence) != probed.frames:
        raise VideoError(f"lists {probed.frames} frames, gives {len(seen.confidence)}")
    return imports.write(seen.components, seen.points[rows], seen.confidence[rows], fps, size)


def _imported(
    job: PoseJob, clip: Clip, probed: Probe, source: imports.Format, given: Path
) -> bytes:
    fps, rows = _clock(job.root, clip, probed)
    # Others saw the frames as they are in the file; a clip's pose shows what its crop leaves.
    with closing(each_frame(job.root, replace(clip, crop=None), probed)) as frames:
        height, width = _first(frames).shape[:2]
    path = imports.source_of(source, given, clip.id)
    points, confidence = imports.load(source, path, probed.frames, (width, height))
    box = np.array(clip.crop or (0, 0, 1, 1))
    left, top, right, bottom = np.rint(box * (width, height, width, height)).astype(int).tolist()
    points -= np.array([left, top], np.float32)
    if len(points) == probed.frames:
        points, confidence = points[rows], confidence[rows]
    size = (right - left, bottom - top)
    # A file of another length would be in the way of the right one.
    found = poses.Pose(fps, *size, points=points, confidence=confidence, names=())
    poses.of_clip(found, replace(clip, pose=None), size, times_of(job.root, clip, probed))
    return imports.packed(source, points, confidence, fps, size)


def _first(frames: Iterator[Frame]) -> Frame:
    first = next(frames, None)
    if first is None:
        raise VideoError("gives no frame")
    return first


def _of_one_size(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """The frames; raises VideoError for one of another size, in whose pixels no pose could be."""
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        if (width, height) != size:
            raise VideoError(f"frame {number} is {width}x{height}, others {size[0]}x{size[1]}")
        yield frame


def _clock(root: Path, clip: Clip, probed: Probe) -> tuple[float, NDArray[np.int64]]:
    """Frames per second of a clip's pose, and which frame of the clip each of the pose's is.

    A pose has a steady rate. Where the video has none, the pose repeats or leaves out frames, so
    that each is nearest to its time.
    """
    times = times_of(root, clip, probed)
    if isinstance(times, int) or len(times) < 2:
        return _IMAGES_FPS, np.arange(probed.frames)
    own = times - times[0]
    step = float(np.median(np.diff(own)))
    steady = np.abs(own - np.linspace(0, own[-1], len(own))).max() <= step / 2
    if steady:
        return float((len(own) - 1) / own[-1]), np.arange(len(own))
    count = round(float(own[-1]) / step) + 1
    if count > _MAX_GAPS * len(own):
        raise PoseError("its frames are shown at times too far apart for a pose of a steady rate")
    middles = (own[1:] + own[:-1]) / 2
    return 1 / step, np.searchsorted(middles, np.arange(count) * step)
