"""What every encoder is: prepared frames in, one feature row per frame or window out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from spamo_cache.config import StreamSpec, home
from spamo_cache.encoders.preprocess import Normalise, Preprocess, Resize, prepare
from spamo_cache.io import make_folders
from spamo_cache.store.layout import first_start

BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Per device type, where memory is not short."""


_OUTLINE = (
    *("per", "span", "stride", "phase", "tail"),
    *("width", "tokens_per_row", "flops_per_row", "weights_sha256", "preprocess"),
)


_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_BY_RULE: Mapping[str, bool] = {
    "deterministic": True,
    "shape_padding": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "triton.autotune_pointwise": False,
}
"""Of the compiler: everything off that measures; the first one is unknown to older versions."""


class Encoder(nn.Module):
    """A frozen network, and which frames its rows stand for.

    A further kind is a subclass whose ``__init__`` loads the network and sets the attributes.
    """

    per: Literal["frame", "window"]
    """What a row stands for."""
    span: int = 1
    """Frames under one row; a shorter clip is padded to it with its last frame."""
    stride: int
    """Frames between the starts of two rows."""
    phase: int = 0
    """Frames before the first row; fewer where a clip would have none left."""
    tail: Literal["drop", "pad"] = "drop"
    """What becomes of frames after the last full window: dropped, or padded to one more."""
    width: int
    """Values per row."""
    tokens_per_row: int
    flops_per_row: int
    """Of the network, one row; multiplications and additions of matrix products."""
    weights_sha256: str
    preprocess: Preprocess
    normalise: Normalise
    network: nn.Module
    """The part that computes in the requested precision; all else stays in float32."""
    compilable = True
    """Until compiling it has failed."""
    _program: Callable[[torch.Tensor], torch.Tensor] | None = None
    """``forward``, compiled."""

    def place_rows(self, stream: StreamSpec) -> None:
        """Place rows as a stream of a cache spec says."""
        self.per, self.stride = stream.per, stream.stride
        self.span = getattr(stream, "window", None) or 1
        self.phase = getattr(stream, "phase", 0)
        self.tail = getattr(stream, "tail", "drop")

    def outline(self) -> Encoder:
        """What an extraction is planned by, without the network and its memory."""
        outline = Encoder()
        for name in _OUTLINE:
            setattr(outline, name, getattr(self, name))
        return outline

    def rows(self, frames: int) -> int:
        """Rows of a clip of ``frames`` frames; one shorter than a window has one."""
        return len(self.starts(frames))

    def starts(self, frames: int) -> Sequence[int]:
        """First frame of each row. Only full windows count, unless the tail is padded."""
        if frames <= 0:
            return range(0)
        first = first_start(frames, self.span, self.phase)
        beyond = max(frames - self.span - first, 0)
        if self.tail == "pad":
            beyond += self.stride - 1
        return range(first, first + beyond // self.stride * self.stride + 1, self.stride)

    def batch_rows(self, device: str, tokens: int | None = None) -> int:
        """Rows per forward pass: as many as make ``tokens``, or what is usual on the device."""
        tokens = tokens or BATCH_TOKENS[torch.device(device).type]
        return max(1, tokens // self.tokens_per_row)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode prepared frames.

        Args:
            pixels: uint8 (rows, 3, size, size), or (rows, span, 3, size, size) where a row stands
                for a window; on the encoder's device.

        Returns:
            float32 (rows, width).
        """
        features: torch.Tensor = (self._program or self)(pixels)
        return features

    @property
    def compiled(self) -> bool:
        """Whether :meth:`encode` runs compiled, which wants batches of one shape."""
        return self._program is not None

    def compile_forward(self) -> None:
        """Let the next :meth:`encode` compile what it runs, and keep it in :func:`code_folder`.

        Kernels are chosen by rule, never by the clock: equal machines compute equal bits.
        """
        from torch import _inductor
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        if os.environ.get(_CACHE, default_cache_dir()) == default_cache_dir():
            # A home that is full, read-only or tampered with: torch's own folder will do.
            with suppress(OSError):
                os.environ[_CACHE] = str(code_folder())
        known = set(_inductor.list_options())
        options: dict[str, Any] = {k: value for k, value in _BY_RULE.items() if k in known}
        self._program = torch.compile(self.forward, fullgraph=True, dynamic=False, options=options)

    def interpret_forward(self) -> None:
        """Take :meth:`compile_forward` back."""
        self._program = None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(self.normalise(pixels))
        return features.float()


def code_folder() -> Path:
    """Where this user's compiled networks are kept: code is no one's to share.

    Below ``SPAMO_HOME``, which a lab may share; made if need be.

    Raises:
        OSError: it cannot be made, or somebody else has made it.
    """
    folder = home() / "compiled" / str(os.getuid())
    make_folders(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to somebody else", os.fspath(folder))
    return folder


def window(prepared: torch.Tensor, start: int, span: int) -> torch.Tensor:
    """``span`` frames from ``start`` on; beyond the end the last frame is repeated."""
    missing = start + span - len(prepared)
    if missing <= 0:
        return prepared[start : start + span]
    return torch.cat([prepared[start:], prepared[-1:].expand(missing, -1, -1, -1)])


def stack_windows(windows: list[torch.Tensor], span: int) -> torch.Tensor:
    """One batch: uint8 (rows, 3, s, s) where a row is a frame, else (rows, span, 3, s, s)."""
    return torch.cat(windows) if span == 1 else torch.stack(windows)


def encode_clip(
    encoder: Encoder,
    frames_thwc: NDArray[np.uint8],
    *,
    resize: Resize = "torchvision-uint8",
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Features of one clip.

    Args:
        encoder: as :func:`registry.build` gives it for ``device``.
        frames_thwc: uint8 (frames, height, width, 3) RGB, at least one.
        resize: see :func:`preprocess.prepare`.
        device: where the encoder is.

    Returns:
        float32 (rows, width). Stores hold the same to rounding: batches differ.
    """
    prepared = prepare(frames_thwc, encoder.preprocess.resize_spec, resize)
    windows = [window(prepared, k, encoder.span) for k in encoder.starts(len(prepared))]
    step = encoder.batch_rows(device)
    batches = [
        encoder.encode(stack_windows(windows[k : k + step], encoder.span).to(device))
        for k in range(0, len(windows), step)
    ]
    return torch.cat(batches).cpu().numpy()


def meta_forward(
    network: nn.Module, shape: tuple[int, ...], options: Mapping[str, Any] | None = None
) -> tuple[Any, int]:
    """Run ``network`` on tensors that have a shape but no values.

    Args:
        network: left as it is.
        shape: of its one positional argument, float32.
        options: its keyword arguments.

    Returns:
        Its output, on the device ``meta``, and the operations counted in it.
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    pixels = torch.empty(shape, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = functional_call(network, on_meta, (pixels,), dict(options or {}))
    return output, counter.get_total_flops()
