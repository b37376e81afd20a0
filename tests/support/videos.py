"""Real encoded files, made by PyAV, in which every frame shows its own number."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 96, 64, 25
_BITS = 8


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A frame that shows its number: bars for bits above, something that moves below."""
    frame = np.full((height, width, 3), 90, np.uint8)
    bar = width // _BITS
    for bit in range(_BITS):
        frame[: height // 2, bit * bar : (bit + 1) * bar] = 235 if index >> bit & 1 else 20
    left = (index * 5) % (width - 12)
    frame[height // 2 :, left : left + 12] = (250, 30, 60)
    return frame


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """What the frames show."""
    bar, half = frames.shape[2] // _BITS, frames.shape[1] // 2
    bars = frames[:, 4 : half - 4, : _BITS * bar].reshape(len(frames), half - 8, _BITS, bar, 3)
    white = bars[:, :, :, 3:-3].mean(axis=(1, 3, 4)) > 127
    return [int(number) for number in white @ (1 << np.arange(_BITS))]


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    frames: int = 60,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times: Sequence[int] | None = None,
    unit: Fraction = Fraction(1, FPS),
    coding: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """A video of numbered frames, shown at ``times`` in ``unit``."""
    coding = {"g": "12", **(coding or {})}
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=coding)
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.time_base = pixels, unit
        stream.codec_context.thread_count = 1
        stream.bit_rate = 2_000_000
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts = times[index] if times else index
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(source: Path, start: Fraction, path: Path) -> Path:
    """Cut without encoding anew, as ``ffmpeg -ss X -c copy`` does: an edit list hides the lead."""
    with av.open(str(source)) as given, av.open(str(path), "w") as taken:
        stream = given.streams.video[0]
        copy = taken.add_stream_from_template(stream)
        shift = round(start / stream.time_base)
        given.seek(shift, stream=stream, backward=True)
        for packet in given.demux(stream):
            if packet.dts is None:
                continue
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = copy
            taken.mux(packet)
    return path


def rotate(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Turn the picture by a quarter in the track header, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, size[1] * 65536, 0, 1 << 30)
    data[matrix : matrix + 36] = turned
    path.write_bytes(data)
    return path
