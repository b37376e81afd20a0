"""``.pose`` files for tests, byte by byte: ``pose-format`` would write no broken ones."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SMALL: Mapping[str, Sequence[str]] = {
    "POSE_LANDMARKS": ("LEFT_SHOULDER", "RIGHT_SHOULDER"),
    "RIGHT_HAND_LANDMARKS": ("WRIST",),
}


def pose_file(
    points: NDArray[np.float32],
    confidence: NDArray[np.float32] | None = None,
    *,
    components: Mapping[str, Sequence[str]] = SMALL,
    fps: float = 25.0,
    size: tuple[int, int] = (64, 48),
    version: float = 0.2,
    layout: str = "XYC",
    promised: tuple[int, int] | None = None,
) -> bytes:
    """A file of points (frames, people, points, 2) and confidence (frames, people, points).

    Args:
        promised: frames and people that the header tells of.
    """
    if confidence is None:
        confidence = np.ones(points.shape[:3], np.float32)
    frames, people = promised or points.shape[:2]
    head = [struct.pack("<fHHHH", version, *size, 0, len(components))]
    for name, members in components.items():
        head += [_text(name), _text(layout), struct.pack("<HHH", len(members), 0, 0)]
        head += [_text(member) for member in members]
    if version < 0.15:
        head.append(struct.pack("<HHH", int(fps), frames % (1 << 16), people))
    else:
        head.append(struct.pack("<fIH", fps, frames, people))
    numbers = (np.asarray(each, "<f4").tobytes() for each in (points, confidence))
    return b"".join([*head, *numbers])


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text.encode())) + text.encode()
