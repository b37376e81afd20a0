"""Rows of one stream, cut into batches that cross clips but never a partition.

A batch has a fixed number of rows and is computed by one thread, so a feature's bits depend on the
partition alone: not on the number of threads, workers or machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.encoders.clip import stacked, window
from spamo_cache.encoders.registry import Encoder, batch_rows

Row = tuple[str, int, torch.Tensor, int]
"""Clip, number of the row in it, the clip's prepared frames, the row's first frame."""


class Batches:
    """Collects clips in their order of work and returns their features."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: str,
        dtype: str,
        pool: ThreadPoolExecutor,
        room: BoundedSemaphore,
    ) -> None:
        """``room`` bounds the batches under way, over all streams."""
        self.encoder, self.device, self.dtype = encoder, device, dtype
        self.rows = batch_rows(encoder, device)
        self._pool, self._room = pool, room
        self._waiting: list[Row] = []
        self._running: deque[tuple[list[Row], Future[NDArray[Any]]]] = deque()
        self._features: dict[str, NDArray[Any]] = {}

    def add(self, clip: str, prepared: torch.Tensor) -> None:
        """Queue all rows of a clip; blocks while too many batches are under way."""
        starts = self.encoder.starts(len(prepared))
        self._features[clip] = np.empty((len(starts), self.encoder.width), self.dtype)
        self._waiting += [(clip, row, prepared, start) for row, start in enumerate(starts)]
        while len(self._waiting) >= self.rows:
            self._submit(self._waiting[: self.rows])
            del self._waiting[: self.rows]
        self._collect(everything=False)

    def finish(self) -> Mapping[str, NDArray[Any]]:
        """Features of every clip added, (rows, width) each, once all are computed."""
        if self._waiting:
            self._submit(self._waiting)
            self._waiting = []
        self._collect(everything=True)
        return self._features

    def _submit(self, rows: list[Row]) -> None:
        self._room.acquire()
        try:
            future = self._pool.submit(self._encode, rows)
        except BaseException:
            self._room.release()
            raise
        self._running.append((rows, future))

    def _encode(self, rows: list[Row]) -> NDArray[Any]:
        try:
            span = self.encoder.span
            windows = [window(prepared, start, span) for _, _, prepared, start in rows]
            pixels = stacked(windows, span).to(self.device)
            with np.errstate(over="ignore"):  # infinities are found where the clip is judged
                return self.encoder.encode(pixels).cpu().numpy().astype(self.dtype)
        finally:
            self._room.release()

    def _collect(self, *, everything: bool) -> None:
        while self._running and (everything or self._running[0][1].done()):
            rows, future = self._running.popleft()
            for (clip, row, _, _), values in zip(rows, future.result(), strict=True):
                self._features[clip][row] = values
