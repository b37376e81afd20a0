"""The device that computes batches: how much it is given at a time, and when it has to wait."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from spamo_cache.encoders.encoder import BATCH_TOKENS, Encoder
from spamo_cache.errors import SpamoError, shortage

Row = tuple[str, int, torch.Tensor, int]
"""Clip, number of the row in it, the clip's prepared frames, the row's first frame."""


class Device:
    """Computes batches for any number of threads, and tells how busy it was.

    A batch that does not fit its memory is computed in smaller ones, and so is every later one.

    Attributes:
        batch_tokens: how much it computes at a time; decides a feature's last bits.
        static: whether all batches of a stream have one shape, the last one padded.
    """

    static = False

    def __init__(self, name: str, batch_tokens: Sequence[int]) -> None:
        """``batch_tokens``: sizes of a batch, the first one until memory is short."""
        self.name = name
        self._sizes = list(batch_tokens)
        self._lock = Lock()
        self._running = 0
        self._last = 0.0
        self._busy = self._idle = 0.0
        self._notes: list[str] = []

    @property
    def batch_tokens(self) -> int:
        return self._sizes[0]

    def rows(self, encoder: Encoder) -> int:
        """Rows of a batch."""
        return encoder.batch_rows(self.name, self.batch_tokens)

    def encode(self, encoder: Encoder, rows: Sequence[Row]) -> torch.Tensor:
        """Features of a batch: float32 (rows, width), on the CPU.

        Raises:
            torch.OutOfMemoryError: not even the smallest batch fits.
        """
        while True:
            tokens = self.batch_tokens
            size = encoder.batch_rows(self.name, tokens)
            parts = [rows[k : k + size] for k in range(0, len(rows), size)]
            try:
                return torch.cat([self._computed(encoder, part, size) for part in parts])
            except torch.OutOfMemoryError:
                if not self._shrink(tokens):
                    raise
            # Not before the error is gone, whose traceback holds what did not fit.
            self._make_room()

    def compile(self, encoder: Encoder, *, must: bool) -> float:
        """Compile an encoder for batches of this device.

        One that cannot be compiled is left as it is, with a note, unless it must be.

        Returns:
            Seconds that it took.

        Raises:
            SpamoError: it must be compiled, and cannot be.
        """
        began = time.perf_counter()
        side = encoder.preprocess.resize_spec.size
        blank = torch.zeros(encoder.span, side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        encoder.compile_forward()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice to compute less exactly
                self.encode(encoder, [("", 0, blank, 0)])
        except (RuntimeError, OSError, ImportError) as error:
            if isinstance(error, torch.OutOfMemoryError) or shortage(error):
                raise
            encoder.interpret_forward()
            encoder.compilable = False
            first, *_ = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {first[:200]}"
            if must:
                raise SpamoError(
                    f"the encoder cannot be compiled: {reason}",
                    where=self.name,
                    remedy="install a C++ compiler if none is found, or use --compile off",
                ) from error
            self._notes.append(f"an encoder is not compiled, which makes it slower: {reason}")
        self._forget_time()
        return time.perf_counter() - began

    def forward_rate(self, encoder: Encoder, seconds: float = 5.0) -> float:
        """Rows per second of the forward pass alone, of a batch that is on the device already."""
        side = encoder.preprocess.resize_spec.size
        rows = self.rows(encoder)
        shape = (rows, *(() if encoder.span == 1 else (encoder.span,)), side, side, 3)
        with self._kernels():
            pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.name)
            pixels = pixels.movedim(-1, -3)
            encoder.encode(pixels).cpu()
            batches, began = 0, time.perf_counter()
            while (taken := time.perf_counter() - began) < seconds:
                # The second one is launched while the first one is computed.
                for features in [encoder.encode(pixels) for _ in range(2)]:
                    features.cpu()
                batches += 2
        return batches * rows / taken

    def take_time(self) -> tuple[float, float]:
        """Seconds since the last call in which batches were computed, and in which it waited."""
        with self._lock:
            taken = self._busy, self._idle
            self._busy = self._idle = 0.0
        return taken

    def _forget_time(self) -> None:
        with self._lock:
            self._busy = self._idle = 0.0
            self._last = time.perf_counter() if self._running else 0.0

    def take_notes(self) -> tuple[str, ...]:
        """What a user should know, each once."""
        with self._lock:
            taken, self._notes = tuple(self._notes), []
        return taken

    def _computed(self, encoder: Encoder, rows: Sequence[Row], size: int) -> torch.Tensor:
        frames, taken = packed(rows, encoder.span, size if self._pads(encoder) else len(rows))
        with self._working():
            pixels = torch.cat(frames)[taken].movedim(-1, -3)
            return encoder.encode(pixels)[: len(rows)]

    def _kernels(self) -> AbstractContextManager[None]:
        """What kernels are launched within."""
        return nullcontext()

    def _pads(self, encoder: Encoder) -> bool:
        return self.static or encoder.compiled

    def _shrink(self, tokens: int) -> bool:
        """Go over to smaller batches; False where there are none."""
        with self._lock:
            if self.batch_tokens != tokens:
                return True  # another thread was faster
            if len(self._sizes) == 1:
                return False
            del self._sizes[0]
            self._notes.append(
                f"the memory of {self.name} is short: batches of {self.batch_tokens:,} tokens from "
                f"here on, {tokens:,} before"
            )
        return True

    def _make_room(self) -> None:
        pass

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._count(+1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._running:
                self._busy += now - self._last
            elif self._last:
                self._idle += now - self._last
            self._running, self._last = self._running + change, now


_LAUNCHER = ThreadPoolExecutor(1, thread_name_prefix="launch")
"""The one thread of this process that launches kernels on GPUs, batch after batch: no batch waits
for kernels of the next one, and what libraries keep for every thread anew is made once. cuDNN's
plans of attention take half a second a shape."""


class CudaDevice(Device):
    """A GPU: one stream computes, another one copies the next batches meanwhile."""

    static = True

    def __init__(self, name: str, batch_tokens: Sequence[int]) -> None:
        super().__init__(name, batch_tokens)
        self._own = threading.local()
        self._before: Any = None
        """Recorded when the last batch launched is done."""
        with torch.cuda.device(name):
            self._copying = torch.cuda.Stream()

    def forward_rate(self, encoder: Encoder, seconds: float = 5.0) -> float:
        return _LAUNCHER.submit(super().forward_rate, encoder, seconds).result()

    def _computed(self, encoder: Encoder, rows: Sequence[Row], size: int) -> torch.Tensor:
        # Pinned memory belongs to the thread's current device, which else is the first one, for
        # every worker.
        with torch.cuda.device(self.name):
            staged = self._staging(encoder, size)
            count = staged.fill(*packed(rows, encoder.span, size))
            with torch.cuda.stream(self._copying):
                staged.copy(count)
                arrived = torch.cuda.Event()
                arrived.record()
            launched = _LAUNCHER.submit(self._launch, encoder, staged, arrived)
            before, began, ended, copied = launched.result()
            copied.synchronize()
            with self._lock:
                self._busy += began.elapsed_time(ended) / 1000
                if before is not None:
                    self._idle += max(0.0, before.elapsed_time(began) / 1000)
            return staged.features[: len(rows)].clone()

    def _launch(
        self, encoder: Encoder, staged: Staging, arrived: torch.cuda.Event
    ) -> tuple[torch.cuda.Event | None, torch.cuda.Event, torch.cuda.Event, torch.cuda.Event]:
        """Launch the kernels of a batch whose frames have ``arrived``.

        Returns:
            Events: when the batch before was done, and this one was begun, done and copied back.
        """
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self._kernels():
            torch.cuda.current_stream().wait_event(arrived)
            began.record()
            features = encoder.encode(staged.pixels())
            ended.record()
            staged.features.copy_(features, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        before, self._before = self._before, ended
        return before, began, ended, copied

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        with torch.cuda.device(self.name), exact_attention(self.name):
            yield

    def _forget_time(self) -> None:
        super()._forget_time()
        self._before = None

    def _staging(self, encoder: Encoder, size: int) -> Staging:
        """This thread's own for batches of this shape: it waits for each before the next."""
        key = id(encoder), size
        kept: dict[Any, Staging] = self._own.__dict__.setdefault("staging", {})
        if key not in kept:
            for other in [other for other in kept if other[0] == key[0]]:
                del kept[other]
            kept[key] = Staging(encoder, size)
            # What stood in this memory before may still be in use.
            self._copying.wait_stream(torch.cuda.current_stream())
        return kept[key]

    def _make_room(self) -> None:
        with torch.cuda.device(self.name):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


class Staging:
    """Where a batch stands on its way to a GPU and back: pinned, and of one shape for ever."""

    def __init__(self, encoder: Encoder, rows: int) -> None:
        side = encoder.preprocess.resize_spec.size
        self._shape = (rows,) if encoder.span == 1 else (rows, encoder.span)
        frames = (rows * encoder.span, side, side, 3)
        self._frames = torch.empty(frames, dtype=torch.uint8, pin_memory=True)
        self._taken = torch.empty(rows * encoder.span, dtype=torch.int64, pin_memory=True)
        self._frames_there = torch.empty(frames, dtype=torch.uint8, device="cuda")
        self._taken_there = torch.empty(rows * encoder.span, dtype=torch.int64, device="cuda")
        self.features = torch.empty((rows, encoder.width), pin_memory=True)

    def fill(self, frames: Sequence[torch.Tensor], taken: torch.Tensor) -> int:
        """Gather a batch; returns how many frames it has."""
        count = sum(map(len, frames))
        torch.cat(list(frames), out=self._frames[:count])
        self._taken.copy_(taken.flatten())
        return count

    def copy(self, count: int) -> None:
        self._frames_there[:count].copy_(self._frames[:count], non_blocking=True)
        self._taken_there.copy_(self._taken, non_blocking=True)

    def pixels(self) -> torch.Tensor:
        """uint8 (rows, 3, side, side) or (rows, span, 3, side, side)."""
        chosen = self._frames_there.index_select(0, self._taken_there)
        windows: torch.Tensor = chosen.unflatten(0, self._shape)
        return windows.movedim(-1, -3)


def packed(rows: Sequence[Row], span: int, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The frames of a batch, each once however many rows it lies under, and those of each row.

    Args:
        rows: in order; those of one clip stand together.
        span: frames under a row; beyond a clip's end its last frame is repeated.
        count: rows of the batch; the last one is repeated until it has so many.

    Returns:
        uint8 (frames, size, size, 3) in pieces, and of each row which of them it takes: int64
        (count,) where a row is a frame, else (count, span).
    """
    pieces: list[torch.Tensor] = []
    taken: list[list[int]] = []
    packed_frames, clip, end, offset = 0, None, 0, 0
    for name, _, prepared, start in rows:
        if name != clip or start > end:
            clip, end, offset = name, start, packed_frames - start
        last = min(start + span, len(prepared))
        if last > end:
            pieces.append(prepared[end:last].permute(0, 2, 3, 1))
            packed_frames, end = packed_frames + last - end, last
        taken.append([offset + min(start + k, len(prepared) - 1) for k in range(span)])
    chosen = torch.tensor(taken + taken[-1:] * (count - len(taken)))
    return pieces, chosen[:, 0] if span == 1 else chosen


_CUDA_TOKENS = {80: BATCH_TOKENS["cuda"], 24: 49_152, 16: 32_768, 8: 16_384}
"""Gigabytes of a GPU's memory -> tokens of a batch: ViT-L and VideoMAE-L in half precision take
some 40 KB a token. More than 65,536 are no faster."""
_FREE = 0.8
"""Of a class's gigabytes: what a GPU of that size usually has free."""


def open_device(name: str) -> Device:
    """The device ``name``, with batches as its free memory allows."""
    if torch.device(name).type != "cuda":
        return Device(name, [BATCH_TOKENS["cpu"]])
    free, _ = torch.cuda.mem_get_info(name)
    # What this process has allocated is its own weights, and is there in any case.
    return CudaDevice(name, cuda_tokens(free + torch.cuda.memory_reserved(name)))


def cuda_tokens(free: int) -> list[int]:
    """Sizes of a batch for so many free bytes, the largest one first."""
    fitting = [tokens for size, tokens in _CUDA_TOKENS.items() if free >= _FREE * size * 1e9]
    return fitting or [min(_CUDA_TOKENS.values())]


@contextmanager
def exact_attention(name: str) -> Iterator[None]:
    """Attention by the fastest kernels that compute it exactly: cuDNN's where torch takes them
    first, too, else flash.

    For all threads of the process: enter it one at a time.
    """
    fits = torch.cuda.get_device_capability(name) in {(9, 0), (10, 0)}
    fastest = [SDPBackend.CUDNN_ATTENTION] if fits else []
    usual = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel([*fastest, *usual], set_priority=True):
        yield
