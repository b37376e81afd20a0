"""One clip, whatever it is kept as: how many frames it has, and what they are."""

from __future__ import annotations

import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config.spec import Reader
from spamo_cache.datasets.source_files import is_glob, locate
from spamo_cache.errors import VideoError
from spamo_cache.video import images, timeline_cache, video_file
from spamo_cache.video.frames import Frame, Take, in_runs
from spamo_cache.video.timeline import Span, Timeline, span

Crop = tuple[float, float, float, float]


class ClipLike(Protocol):
    """The part of a manifest's clip that says where its frames are."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def start(self) -> float | None: ...
    @property
    def end(self) -> float | None: ...
    @property
    def crop(self) -> Crop | None: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of a clip without decoding it."""

    size: int
    """Bytes of the source: a file, or all images of a folder; 0 where it is missing."""
    frames: int
    """0 where the clip cannot be read; ``reason`` says why."""
    reason: str | None = None
    span: Span | None = None
    """Which frames of a video file; None for images."""
    strays: int = 0
    """Things among a folder's images that are none, and were left out."""


def probe(root: Path, clip: ClipLike) -> Probe:
    """Count a clip's frames without decoding; what is wrong with it stands in ``reason``."""
    return _probe_source(root, clip.source, [clip])[0]


def probe_all(
    root: Path,
    clips: Sequence[ClipLike],
    *,
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> list[Probe]:
    """Probe clips, each source once; ``progress`` gets the number of clips done so far."""
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_source[clip.source].append(index)
    probes_by_clip: list[Probe | None] = [None] * len(clips)
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="probe") as pool:
        groups = list(by_source.items())
        jobs = pool.map(
            lambda group: _probe_source(root, group[0], [clips[k] for k in group[1]]), groups
        )
        for (_, members), probes in zip(groups, jobs, strict=True):
            for index, result in zip(members, probes, strict=True):
                probes_by_clip[index] = result
            done += len(members)
            if progress is not None:
                progress(done)
    return [result for result in probes_by_clip if result is not None]


def decode(
    root: Path, clip: ClipLike, probed: Probe, take: Take, *, reader: Reader = "auto"
) -> str:
    """Decode a probed clip in one sweep and hand its frames on, some at a time.

    Args:
        take: called with consecutive frames, uint8 (frames, height, width, 3) RGB, cropped; they
            are valid during the call only.
        reader: what decodes video files.

    Returns:
        The SHA-256 of the source's contents.

    Raises:
        VideoError: it cannot be decoded, or has other frames than when it was probed; frames
            handed on before count for nothing then.
    """
    path = locate(root, clip.source)
    hashed = hashlib.sha256()
    with closing(each_frame(root, clip, probed, reader=reader, hashed=hashed)) as found:
        count = in_runs(found, take)
    if count != probed.frames:
        raise VideoError(f"lists {probed.frames} frames, gives {count}", where=path)
    return hashed.hexdigest() if probed.span is None else video_file.sha256(path)


def each_frame(
    root: Path,
    clip: ClipLike,
    probed: Probe,
    *,
    reader: Reader = "auto",
    hashed: images.Hash | None = None,
) -> Generator[Frame]:
    """The frames of a probed clip, cropped; each is valid until the next one is asked for.

    Args:
        reader: what decodes video files.
        hashed: takes the bytes of images as they are read; not those of video files.

    Raises:
        VideoError: it cannot be decoded.
    """
    if probed.reason is not None:
        raise VideoError(probed.reason)
    path = locate(root, clip.source)
    if probed.span is None:
        whole = images.frames(images.listing(path), hashed or hashlib.sha256())
    else:
        whole = video_file.frames(path, probed.span, reader)
    with closing(whole):
        yield from whole if clip.crop is None else cropped(whole, clip.crop)


def read(root: Path, clip: ClipLike, probed: Probe) -> tuple[NDArray[np.uint8], str]:
    """All frames of a probed clip at once, and the hash; see :func:`decode`."""
    runs: list[NDArray[np.uint8]] = []
    digest = decode(root, clip, probed, lambda frames: runs.append(frames.copy()))
    return np.concatenate(runs), digest


def read_clip(root: Path, clip: ClipLike) -> NDArray[np.uint8]:
    """Probe and decode: uint8 (frames, height, width, 3) RGB; VideoError says what is wrong."""
    return read(root, clip, probe(root, clip))[0]


def cropped(frames: Iterable[Frame], crop: Crop) -> Iterator[Frame]:
    """Cut frames to a box of shares of width and height, rounded to whole pixels.

    Raises:
        VideoError: the box holds no pixel.
    """
    for frame in frames:
        height, width = frame.shape[:2]
        sides = (width, height, width, height)
        left, top, right, bottom = (
            round(share * side) for share, side in zip(crop, sides, strict=True)
        )
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise VideoError(f"crop {crop} holds no pixel of {width}x{height}")
        yield frame[top:bottom, left:right]


def _probe_source(root: Path, source: str, clips: Sequence[ClipLike]) -> list[Probe]:
    size = 0
    try:
        path = locate(root, source)
        if path.is_dir() or is_glob(path):
            listing = images.measure(path, root)
            size = listing.size
            return [_of_images(clip, listing) for clip in clips]
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("source is neither a file nor a folder")
        size = status.st_size
        times = timeline_cache.timeline(path, status)
        return [_of_video(clip, size, times, path) for clip in clips]
    except FileNotFoundError:
        reason = "source is missing"
    except OSError as error:
        reason = f"source cannot be read: {error.strerror}"
    except VideoError as error:
        # Paths would make a store depend on where the corpus lies.
        reason = error.what
    return [Probe(size, 0, reason) for _ in clips]


def _of_images(clip: ClipLike, listing: images.Listing) -> Probe:
    if clip.start is not None or clip.end is not None:
        return Probe(listing.size, 0, "a time range needs a video file, the source is images")
    return Probe(listing.size, listing.frames, strays=listing.strays)


def _of_video(clip: ClipLike, size: int, times: Timeline, path: Path) -> Probe:
    try:
        frame_span = span(times, clip.start, clip.end, where=path)
    except VideoError as error:
        return Probe(size, 0, error.what)
    return Probe(size, frame_span.frames, span=frame_span)
