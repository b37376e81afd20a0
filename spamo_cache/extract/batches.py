"""Rows of one stream, cut into batches that cross clips but never a partition.

A batch has a fixed number of rows and is computed as a whole, so a feature's bits depend on the
partition alone: not on the number of threads, workers or machines of a kind.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.encoders.encoder import Encoder
from spamo_cache.extract.device import Device, Row

Encoded = tuple[NDArray[Any], NDArray[np.bool_]]
"""(rows, width) in the store's dtype, and (rows,) whether a row was finite before that cast."""


class Batches:
    """Collects the rows of clips, in order, and computes their features batch by batch."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: Device,
        compute: str,
        dtype: str,
        pool: ThreadPoolExecutor,
        slots: BoundedSemaphore,
    ) -> None:
        """``slots`` bounds the batches in flight, over all streams."""
        self.encoder, self.compute, self.dtype = encoder, compute, dtype
        self.rows = device.rows(encoder)
        self._device = device
        self._pool, self._slots = pool, slots
        self._waiting: list[Row] = []
        self._running: deque[tuple[list[Row], Future[Encoded]]] = deque()
        self._features: dict[str, NDArray[Any]] = {}
        self._unsound: Counter[str] = Counter()

    def add(self, clip: str, prepared: torch.Tensor, starts: Sequence[int]) -> None:
        """Queue all rows of a clip; blocks while too many batches are in flight.

        Args:
            prepared: what the encoder is shown of the clip.
            starts: first picture of each row.
        """
        self._features[clip] = np.empty((len(starts), self.encoder.width), self.dtype)
        self._waiting += [(clip, row, prepared, start) for row, start in enumerate(starts)]
        while len(self._waiting) >= self.rows:
            self._submit(self._waiting[: self.rows])
            del self._waiting[: self.rows]
        self._collect(everything=False)

    def finish(self) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]:
        """Wait until every clip added is computed.

        Returns:
            Features of the sound clips, (rows, width) each; and why the others have none.
        """
        if self._waiting:
            self._submit(self._waiting)
            self._waiting = []
        self._collect(everything=True)
        faults = {clip: self._fault(clip, rows) for clip, rows in self._features.items()}
        bad = {clip: fault for clip, fault in faults.items() if fault is not None}
        return {clip: rows for clip, rows in self._features.items() if clip not in bad}, bad

    def _fault(self, clip: str, rows: NDArray[Any]) -> str | None:
        """Why the store must not hold these rows."""
        if clip in self._unsound:
            fault = f"{self._unsound[clip]} of {len(rows)} rows are not finite as computed in"
            advice = ": set compute: bfloat16 or float32" if self.compute == "float16" else ""
            return f"{fault} {self.compute}{advice}"
        wrong = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
        if not wrong:
            return None
        fault = f"{wrong} of {len(rows)} rows are too large for the store's {self.dtype}"
        return f"{fault}: set store.dtype: float32"

    def _submit(self, rows: list[Row]) -> None:
        self._slots.acquire()
        try:
            future = self._pool.submit(self._encode, rows)
        except BaseException:
            self._slots.release()
            raise
        self._running.append((rows, future))

    def _encode(self, rows: list[Row]) -> Encoded:
        try:
            computed = self._device.encode(self.encoder, rows).numpy()
            with np.errstate(over="ignore"):  # infinities are noticed where the clip is judged
                return computed.astype(self.dtype), np.isfinite(computed).all(axis=1)
        finally:
            self._slots.release()

    def _collect(self, *, everything: bool) -> None:
        while self._running and (everything or self._running[0][1].done()):
            rows, future = self._running.popleft()
            for (clip, row, _, _), values, finite in zip(rows, *future.result(), strict=True):
                self._features[clip][row] = values
                if not finite:
                    self._unsound[clip] += 1
