from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from spamo_cache.errors import VideoError
from spamo_cache.video import container

Maker = Callable[..., Path]


def by_opencv(path: Path) -> NDArray[np.uint8]:
    """Every frame, by a third decoder."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            capture.release()
            return np.stack(frames)
        frames.append(frame[..., ::-1])


def whole(path: Path) -> container.Span:
    return container.span(container.timeline(path), None, None, where=path)


def near(frames: NDArray[np.uint8], others: NDArray[np.uint8]) -> bool:
    # Decoders agree on the pictures; conversions to RGB may differ by rounding.
    return frames.shape == others.shape and bool(
        np.abs(frames.astype(int) - others.astype(int)).max() <= 4
    )


@pytest.mark.parametrize("b_frames", [0, 2])
def test_decord_and_pyav_give_the_same_frames(make: Maker, b_frames: int) -> None:
    path = make(b_frames=b_frames)
    span = whole(path)
    assert (span.frames, span.plain) == (60, True)
    reference = container.read_av(path, span)
    assert near(reference, by_opencv(path))
    if container.has_decord():
        found = container.read_decord(path, span)
        assert found is not None
        np.testing.assert_array_equal(found, reference)
    np.testing.assert_array_equal(container.read(path, span), reference)


@pytest.mark.parametrize("reader", ["read_av", "read_decord"])
@pytest.mark.parametrize(
    ("start", "end", "first", "frames"),
    [
        (0.32, 0.72, 8, 11),  # both ends are frames' own times, both count
        (0.33, 0.71, 9, 9),
        (None, 0.0, 0, 1),
        (2.36, None, 59, 1),
        (1.0, 99 / 41, 25, 35),
    ],
)
def test_ranges(
    make: Maker, reader: str, *, start: float | None, end: float | None, first: int, frames: int
) -> None:
    path = make()
    span = container.span(container.timeline(path), start, end, where=path)
    assert (span.first, span.frames) == (first, frames)
    if reader == "read_decord" and not container.has_decord():
        return
    found = getattr(container, reader)(path, span)
    every = container.read_av(path, whole(path))
    np.testing.assert_array_equal(found, every[first : first + frames])


def test_frames_that_an_edit_list_hides_are_no_frames(
    make: Maker, cut: Callable[[Path, Fraction], Path]
) -> None:
    path = cut(make(), Fraction(31, 25))
    span = whole(path)
    assert (span.frames, span.plain) == (29, False)
    every = container.read_av(make(), whole(make()))
    np.testing.assert_array_equal(container.read(path, span), every[31:])
    assert near(container.read(path, span), by_opencv(path))


def test_variable_frame_rate_counts_frames_not_time(make: Maker) -> None:
    times = [0, 40, 80, 200, 240, 260, 300, 500, 540, 580, 620, 700, 720, 740, 900, 940]
    path = make(frames=len(times), milliseconds=times)
    found = container.timeline(path)
    assert [round(float(pts * found.unit) * 1000) for pts in found.pts] == times
    span = container.span(found, 0.25, 0.71, where=path)
    assert (span.first, span.frames) == (5, 7)
    every = container.read_av(path, whole(path))
    np.testing.assert_array_equal(container.read(path, span), every[5:12])


def test_rotated_video_stands_upright(make: Maker, rotate: Callable[[Path], Path]) -> None:
    path = rotate(make(frames=5))
    span = whole(path)
    assert not span.plain
    found = container.read(path, span)
    assert found.shape[1:3] == (96, 64)
    assert near(found, by_opencv(path))


def test_one_frame(make: Maker) -> None:
    path = make(frames=1)
    span = whole(path)
    assert span.frames == 1
    assert container.read(path, span).shape == (1, 64, 96, 3)


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.6), (3.0, None), (0.33, 0.35), (-2.0, -1.0)])
def test_ranges_without_frames_or_past_the_end_are_refused(
    make: Maker, start: float, end: float | None
) -> None:
    path = make()
    with pytest.raises(VideoError):
        container.span(container.timeline(path), start, end, where=path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
@pytest.mark.parametrize("faststart", [False, True])
def test_truncated_files_are_refused(make: Maker, share: float, *, faststart: bool) -> None:
    path = make(options={"movflags": "faststart"} if faststart else None)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoError):
        container.read(path, whole(path))


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(1000), b"\x00\x00\x00\x18ftypmp42"])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError):
        container.timeline(path)


def test_without_decord_pyav_reads(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make()
    expected = container.read(path, whole(path))
    monkeypatch.setattr(container, "has_decord", lambda: False)
    monkeypatch.setattr(container, "read_decord", None)
    np.testing.assert_array_equal(container.read(path, whole(path)), expected)


def test_a_decord_that_disagrees_is_not_believed(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    span = whole(path)
    expected = container.read_av(path, span)
    monkeypatch.setattr(container, "read_decord", lambda *_: None)
    np.testing.assert_array_equal(container.read(path, span), expected)
