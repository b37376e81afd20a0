"""From prepared frames to an encoder's rows, and one clip at a time for whoever has just one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.preprocess import Resize, prepare
from spamo_cache.encoders.registry import batch_rows


def window(prepared: torch.Tensor, start: int, span: int) -> torch.Tensor:
    """``span`` frames from ``start`` on; beyond the end the last frame is repeated."""
    missing = start + span - len(prepared)
    if missing <= 0:
        return prepared[start : start + span]
    return torch.cat([prepared[start:], prepared[-1:].expand(missing, -1, -1, -1)])


def stacked(windows: list[torch.Tensor], span: int) -> torch.Tensor:
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
    prepared = prepare(frames_thwc, encoder.preprocess.geometry, resize)
    windows = [window(prepared, k, encoder.span) for k in encoder.starts(len(prepared))]
    step = batch_rows(encoder, device)
    batches = [
        encoder.encode(stacked(windows[k : k + step], encoder.span).to(device))
        for k in range(0, len(windows), step)
    ]
    return torch.cat(batches).cpu().numpy()
