"""What every encoder is: prepared frames in, one feature row per frame or window out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from spamo_cache.encoders.preprocess import Normalise, Preprocess
from spamo_cache.store.layout import first_start


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
    """The part that computes in the arithmetic asked for; all else stays in float32."""

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

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode prepared frames.

        Args:
            pixels: uint8 (rows, 3, size, size), or (rows, span, 3, size, size) where a row stands
                for a window; on the encoder's device.

        Returns:
            float32 (rows, width).
        """
        features: torch.Tensor = self(pixels)
        return features

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(self.normalise(pixels))
        return features.float()
