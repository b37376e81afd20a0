"""Readers, frame by frame, on real files whose frames show their numbers.

No frame may be lost, repeated or shifted, whatever reads it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from spamo_cache.errors import VideoError
from spamo_cache.video import decord_backend, pyav_backend, timeline, video_file
from tests.support import videos

Frames = NDArray[np.uint8]

UNEVEN = [0, 40, 80, 200, 240, 260, 300, 500, 540, 580, 620, 700, 720, 740, 900, 940] + [
    1000 + 33 * k + k % 3 for k in range(44)
]
OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=12:scenecut=0:log-level=none"}


@dataclass(frozen=True)
class Film:
    """A file with what it shows."""

    path: Path
    shown: Sequence[int]
    plain: bool
    """Whether decord gives it right."""
    turned: bool = False


MADE: dict[str, dict[str, Any]] = {
    "no-b-frames.mp4": {"coding": {"bf": "0"}},
    "b-frames.mp4": {"coding": {"bf": "3"}},
    "open-gop.mp4": {"coding": OPEN_GOP},
    "uneven.mp4": {"times": UNEVEN, "unit": Fraction(1, 1000)},
    "one.mp4": {"frames": 1},
    "late.mp4": {"times": range(50, 110)},
    "no-edit-list.mp4": {"coding": {"bf": "3"}, "muxing": {"use_editlist": "0"}},
    "fragments.mp4": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "b-frames.mov": {"coding": {"bf": "2"}},
    "yuv444.mp4": {"pixels": "yuv444p"},
    "odd.mp4": {"pixels": "yuv444p", "size": (97, 65)},
    "h265.mp4": {"codec": "libx265", "coding": {"x265-params": "log-level=none:keyint=12"}},
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "mpeg4.mp4": {"codec": "mpeg4", "coding": {"bf": "2"}},
    "h264.mkv": {"coding": {"bf": "2"}},
    "late.mkv": {"times": range(50, 110)},
    "ffv1.mkv": {"codec": "ffv1"},
    "vp8.webm": {"codec": "libvpx", "coding": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "coding": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "h264.avi": {"coding": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "coding": {"bf": "2"}},
    "odd.avi": {"codec": "mpeg4", "size": (97, 65)},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "h264.ts": {"coding": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "coding": {"bf": "2"}},
}
PLAIN = {"no-b-frames.mp4", "b-frames.mp4", "uneven.mp4", "one.mp4", "b-frames.mov"}
GUESSED = {"h264.avi", "mpeg2.mpg"}
"""Their frames have no times of their own; FFmpeg guesses, and not always in order."""
CUTS = {"cut-1.mp4": 1, "cut-13.mp4": 13, "cut-31.mp4": 31, "cut-at-key.mp4": 12}
NAMES = [*MADE, *CUTS, "cut-open-gop.mp4", "turned.mp4"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Film]:
    folder = tmp_path_factory.mktemp("films")
    found = {
        name: Film(videos.encode(folder / name, **how), range(how.get("frames", 60)), name in PLAIN)
        for name, how in MADE.items()
    }
    for name, first in CUTS.items():
        path = videos.cut(folder / "b-frames.mp4", Fraction(first, 25), folder / name)
        found[name] = Film(path, range(first, 60), plain=name == "cut-at-key.mp4")
    path = videos.cut(folder / "open-gop.mp4", Fraction(31, 25), folder / "cut-open-gop.mp4")
    found[path.name] = Film(path, range(31, 60), plain=False)
    path = videos.rotate(videos.encode(folder / "turned.mp4"))
    found[path.name] = Film(path, range(60), plain=True, turned=True)
    return found


needs_decord = pytest.mark.skipif(not decord_backend.is_installed(), reason="no decord here")


def reference(path: Path) -> tuple[list[float], Frames]:
    """Times and pixels of all frames, by the plainest use of PyAV."""
    with av.open(str(path)) as container:
        start = container.start_time / 1e6
        decoded = list(container.decode(video=0))
        pixels = [frame.to_ndarray(format="rgb24") for frame in decoded]
    return [float(frame.time) - start for frame in decoded], np.stack(pixels)


def upright(frames: Frames) -> Frames:
    """By a quarter clockwise, as players do."""
    return np.rot90(frames, -1, axes=(1, 2))


def span(path: Path, start: float | None = None, end: float | None = None) -> timeline.Span:
    return timeline.span(timeline.scan(path), start, end, where=path)


def collected(frames: Generator[Frames]) -> Frames:
    return np.stack([frame.copy() for frame in frames])


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_of_a_file_in_order(films: dict[str, Film], *, name: str) -> None:
    film = films[name]
    wanted = span(film.path)
    found = collected(video_file.frames(film.path, wanted))
    _, expected = reference(film.path)
    np.testing.assert_array_equal(found, upright(expected) if film.turned else expected)
    assert videos.numbers(expected) == list(film.shown)
    assert wanted.plain is film.plain


@pytest.mark.parametrize("name", NAMES)
def test_any_range_of_a_file_both_ends_included(films: dict[str, Film], *, name: str) -> None:
    film = films[name]
    times, expected = reference(film.path)
    expected = upright(expected) if film.turned else expected
    listed = timeline.scan(film.path)
    if name not in GUESSED:
        assert listed.seconds.tolist() == pytest.approx(times, abs=1e-6)
    times = listed.seconds.tolist()
    chance = random.Random(name)
    for _ in range(16):
        first = chance.randrange(len(times))
        last = min(len(times) - 1, first + chance.choice([0, 1, 2, 11, 30, 59]))
        wanted = timeline.span(listed, times[first], times[last], where=film.path)
        inside = [k for k, time in enumerate(times) if times[first] <= time <= times[last]]
        assert range(wanted.first, wanted.first + wanted.frames) == range(inside[0], inside[-1] + 1)
        found = collected(video_file.frames(film.path, wanted))
        np.testing.assert_array_equal(found, expected[inside])


@needs_decord
@pytest.mark.parametrize("name", sorted(PLAIN | {"turned.mp4", "cut-at-key.mp4"}))
def test_decord_gives_the_frames_of_pyav(films: dict[str, Film], *, name: str) -> None:
    path = films[name].path
    listed = timeline.scan(path)
    for first, last in ((None, None), (0.3, 0.5), (0.9, None)):
        try:
            wanted = timeline.span(listed, first, last, where=path)
        except VideoError:
            continue  # a shorter film
        expected = collected(pyav_backend.frames(path, wanted))
        np.testing.assert_array_equal(collected(decord_backend.frames(path, wanted)), expected)


@needs_decord
@pytest.mark.parametrize("name", sorted(set(NAMES) - PLAIN - {"turned.mp4", "cut-at-key.mp4"}))
def test_where_decord_may_be_wrong_it_hands_over(films: dict[str, Film], *, name: str) -> None:
    path = films[name].path
    wanted = span(path)
    with pytest.raises(decord_backend.UnusableError):
        next(decord_backend.frames(path, wanted))
    expected = collected(pyav_backend.frames(path, wanted))
    np.testing.assert_array_equal(collected(video_file.frames(path, wanted, "decord")), expected)


@needs_decord
def test_decord_is_kept_from_long_films_for_it_reads_ahead_without_bound(
    films: dict[str, Film], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = films["b-frames.mp4"].path
    assert span(path, 1.0, 1.2).plain
    monkeypatch.setattr(timeline, "_READ_AHEAD_BYTES", 35 * 96 * 64 * 3 - 1)
    assert not span(path, 1.0, 1.2).plain
    assert span(path, 1.04, 1.2).plain


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_readers_are_silent_about_damage(
    make: Callable[..., Path], capfd: Any, *, reader: Literal["pyav", "decord"]
) -> None:
    path = make(muxing={"movflags": "faststart"})
    wanted = span(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="is damaged at"):
        collected(video_file.frames(path, wanted, reader))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_damage_that_the_decoder_hides_but_tells_of_fails_the_clip(
    make: Callable[..., Path],
) -> None:
    path = make(muxing={"movflags": "faststart"})
    wanted = span(path)
    sound = path.read_bytes()
    first = sound.index(b"mdat") + 1000
    told = 0
    for at in range(first, len(sound), 97):
        data = bytearray(sound)
        data[at] ^= 0x55
        path.write_bytes(data)
        try:
            collected(video_file.frames(path, wanted))
        except VideoError as error:
            told += error.what.startswith("is damaged at ")
    assert told > 3


@pytest.mark.parametrize("given", [0, 1, 33])
def test_where_decord_gives_up_pyav_goes_on(
    films: dict[str, Film], monkeypatch: pytest.MonkeyPatch, *, given: int
) -> None:
    path = films["b-frames.mp4"].path
    wanted = span(path)
    expected = collected(pyav_backend.frames(path, wanted))

    def failing(*_: object) -> Generator[Frames]:
        yield from expected[:given]
        raise decord_backend.UnusableError

    monkeypatch.setattr(decord_backend, "frames", failing)
    np.testing.assert_array_equal(collected(video_file.frames(path, wanted, "decord")), expected)


def test_a_file_is_hashed_once_while_it_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film"
    path.write_bytes(b"abc")
    first = video_file.sha256(path)
    monkeypatch.setattr(Path, "open", None)
    assert video_file.sha256(path) == first
    monkeypatch.undo()
    path.write_bytes(b"abcd")
    assert video_file.sha256(path) != first
