"""Clips decoded and prepared ahead of the encoders, in threads, within a bound in bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.config.spec import Reader
from spamo_cache.encoders.preprocess import Resize, ResizeSpec, squares
from spamo_cache.errors import SpamoError, VideoError
from spamo_cache.extract.job import Item, Job
from spamo_cache.extract.memory import is_full
from spamo_cache.video import ClipLike, Probe, decode


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip ready for all encoders, or the reason why it is not."""

    prepared: Mapping[ResizeSpec, torch.Tensor]
    """uint8 (frames, 3, size, size), channels last in memory."""
    source_sha256: str = ""
    reason: str | None = None
    decode_seconds: float = 0.0
    prepare_seconds: float = 0.0


def decoded(
    job: Job, items: Iterable[Item], specs: set[ResizeSpec]
) -> Iterator[tuple[Item, Decoded]]:
    """Clips in their order, decoded ahead while the bytes that wait stay in bounds."""
    pixels = sum(3 * spec.size**2 for spec in specs)
    waiting: deque[tuple[Item, int, Future[Decoded]]] = deque()
    ahead = 0
    remaining = iter(items)
    item = next(remaining, None)
    with pool(job.decoders, "decode") as threads:
        while item is not None or waiting:
            while item is not None and (not waiting or ahead < job.ahead_bytes):
                size = item.probe.frames * pixels
                ahead += size
                waiting.append((item, size, threads.submit(_decode, job, item, specs)))
                item = next(remaining, None)
            first, size, future = waiting.popleft()
            yield first, future.result()
            ahead -= size


@contextmanager
def pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that are stopped, with what they have not begun, when the block is left."""
    made = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield made
    finally:
        made.shutdown(wait=True, cancel_futures=True)


class Canvas:
    """Where a clip's runs of frames are prepared, each at once: raw frames never pile up."""

    def __init__(self, resize: Resize, frames: int, specs: set[ResizeSpec]) -> None:
        self._resize, self._frames = resize, frames
        self._squares = {
            spec: np.empty((frames, spec.size, spec.size, 3), np.uint8) for spec in specs
        }
        self.filled = 0
        self.seconds = 0.0

    def take(self, frames: NDArray[np.uint8]) -> None:
        began = time.perf_counter()
        end = self.filled + len(frames)
        # Frames beyond what was planned are counted, for the reason, and kept nowhere.
        if end <= self._frames:
            for spec, filled in self._squares.items():
                filled[self.filled : end] = squares(frames, spec, self._resize)
        self.filled = end
        self.seconds += time.perf_counter() - began

    def prepared(self) -> dict[ResizeSpec, torch.Tensor]:
        return {
            spec: torch.from_numpy(filled).permute(0, 3, 1, 2)
            for spec, filled in self._squares.items()
        }


def prepare(
    root: Path, clip: ClipLike, probed: Probe, canvas: Canvas, *, reader: Reader = "auto"
) -> str:
    """Decode a clip onto its canvas; the SHA-256 of its source.

    Raises:
        VideoError: it cannot be decoded, or has other frames than when it was probed.
    """
    digest = decode(root, clip, probed, canvas.take, reader=reader)
    if canvas.filled != probed.frames:
        raise VideoError(f"lists {probed.frames} frames, gives {canvas.filled}")
    return digest


def _decode(job: Job, item: Item, specs: set[ResizeSpec]) -> Decoded:
    if item.probe.reason is not None:
        return Decoded({}, reason=item.probe.reason)
    began = time.perf_counter()
    try:
        canvas = Canvas(job.resize, item.probe.frames, specs)
        digest = prepare(job.root, item, item.probe, canvas, reader=job.reader)
    except VideoError as error:
        return Decoded({}, reason=error.what)
    except SpamoError:
        raise
    except Exception as error:
        if is_full(error):
            raise
        # Whatever else a decoder throws is this clip's failure.
        return Decoded({}, reason=f"{type(error).__name__}: {error}")
    whole = time.perf_counter() - began
    return Decoded(
        canvas.prepared(),
        digest,
        decode_seconds=whole - canvas.seconds,
        prepare_seconds=canvas.seconds,
    )
