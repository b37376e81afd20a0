"""Which frames a row of features stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


def starts(
    frames: int, *, span: int, stride: int, tail: Literal["drop", "pad"] = "drop"
) -> Sequence[int]:
    """First frame of each row of a clip.

    Args:
        frames: frames of the clip. One shorter than ``span`` is padded to it: it has one row.
        span: frames under one row.
        stride: frames between the starts of two rows.
        tail: frames after the last full window are dropped, or padded to one more window.
    """
    if frames <= 0:
        return range(0)
    beyond = max(frames - span, 0)
    if tail == "pad":
        beyond += stride - 1
    return range(0, beyond // stride * stride + 1, stride)
