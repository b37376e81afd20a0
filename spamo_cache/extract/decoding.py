"""Clips decoded and prepared ahead of the encoders: in threads, within a bound in bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.config.spec import Reader
from spamo_cache.encoders.preprocess import Resize, ResizeSpec, squares
from spamo_cache.errors import SpamoError, VideoError, shortage
from spamo_cache.video import Probe, decode


@dataclass(frozen=True, slots=True)
class ClipTask:
    """One clip to decode, as it was probed."""

    id: str
    source: str
    start: float | None
    end: float | None
    crop: tuple[float, float, float, float] | None
    probe: Probe


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


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip ready for all encoders, or the reason why it is not."""

    prepared: Mapping[ResizeSpec, torch.Tensor]
    """uint8 (frames, 3, size, size), channels last in memory."""
    source_sha256: str = ""
    reason: str | None = None
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
        specs: set[ResizeSpec],
        begun: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[ClipTask, DecodedClip]]:
        """Clips in their order, decoded ahead while the waiting bytes stay within bounds.

        Args:
            begun: called when no clip is left to begin with.
        """
        pixels = sum(3 * spec.size**2 for spec in specs)
        waiting: deque[tuple[ClipTask, int, Future[DecodedClip]]] = deque()
        remaining = iter(clips)
        clip = next(remaining, None)
        try:
            while clip is not None or waiting:
                while clip is not None and (not waiting or self._has_room()):
                    size = clip.probe.frames * pixels
                    future = self._threads.submit(_decode, self._config, clip, specs)
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

    def __init__(self, resize: Resize, frames: int, specs: set[ResizeSpec]) -> None:
        self._resize, self._frames = resize, frames
        self._squares = {
            spec: np.empty((frames, spec.size, spec.size, 3), np.uint8) for spec in specs
        }
        self._filled = 0
        self.seconds = 0.0

    def take(self, frames: NDArray[np.uint8]) -> None:
        began = time.perf_counter()
        end = self._filled + len(frames)
        # A clip with more frames than it was probed with fails once all of them are decoded.
        if end <= self._frames:
            for spec, filled in self._squares.items():
                filled[self._filled : end] = squares(frames, spec, self._resize)
        self._filled = end
        self.seconds += time.perf_counter() - began

    def prepared(self) -> dict[ResizeSpec, torch.Tensor]:
        return {
            spec: torch.from_numpy(filled).permute(0, 3, 1, 2)
            for spec, filled in self._squares.items()
        }


def _decode(config: DecodeConfig, clip: ClipTask, specs: set[ResizeSpec]) -> DecodedClip:
    if clip.probe.reason is not None:
        return DecodedClip({}, reason=clip.probe.reason)
    began = time.perf_counter()
    try:
        buffer = FrameBuffer(config.resize, clip.probe.frames, specs)
        digest = decode(config.root, clip, clip.probe, buffer.take, reader=config.reader)
    except VideoError as error:
        return DecodedClip({}, reason=error.what)
    except SpamoError:
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        # Whatever else a decoder throws is this clip's failure.
        return DecodedClip({}, reason=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - began
    return DecodedClip(
        buffer.prepared(),
        digest,
        decode_seconds=seconds - buffer.seconds,
        prepare_seconds=buffer.seconds,
    )
