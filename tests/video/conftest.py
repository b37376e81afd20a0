"""Real encoded files: H.264 in mp4, made by PyAV."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 96, 64, 25

Maker = Callable[..., Path]


def picture(index: int) -> NDArray[np.uint8]:
    """A frame that tells its own number: no two are alike."""
    frame = np.full((HEIGHT, WIDTH, 3), (index * 4) % 256, np.uint8)
    left = (index * 3) % (WIDTH - 6)
    frame[:, left : left + 6] = 255
    return frame


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """``make(name, frames=60, b_frames=2, milliseconds=None, options=None)`` -> an mp4."""

    def build(
        name: str = "video.mp4",
        *,
        frames: int = 60,
        b_frames: int = 2,
        milliseconds: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.options = {"bf": str(b_frames), "g": "12", "crf": "18"}
            unit = Fraction(1, 1000 if milliseconds else FPS)
            stream.codec_context.time_base = unit
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
                frame.pts = milliseconds[index] if milliseconds else index
                frame.time_base = unit
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return build


@pytest.fixture
def cut(tmp_path: Path) -> Callable[[Path, Fraction], Path]:
    """Cut without encoding anew, as ``ffmpeg -ss X -c copy`` does: an edit list hides the lead."""

    def build(source: Path, start: Fraction) -> Path:
        path = tmp_path / f"cut-{source.name}"
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

    return build


@pytest.fixture
def rotate(tmp_path: Path) -> Callable[[Path], Path]:
    """Turn the picture by a quarter in the track header, as phones do."""

    def build(source: Path) -> Path:
        data = bytearray(source.read_bytes())
        matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
        turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 1 << 30)
        data[matrix : matrix + 36] = turned
        path = tmp_path / f"rotated-{source.name}"
        path.write_bytes(data)
        return path

    return build
