"""What demuxing alone tells, and what is kept of it between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from spamo_cache import config
from spamo_cache.errors import VideoError
from spamo_cache.video import frames, pyav_backend, timeline, timeline_cache
from tests.support import videos

Maker = Callable[..., Path]


def test_the_frame_at_a_time_as_a_manifest_says_it(make: Maker) -> None:
    path = make()
    listed = timeline.scan(path)
    for k in range(60):
        # 57 * 0.04 is a little more than 2.28.
        found = timeline.span(listed, float(f"{k / 25:.2f}"), float(f"{k / 25:.2f}"), where=path)
        assert (found.first, found.frames) == (k, 1)


@pytest.mark.parametrize(
    ("start", "end", "first", "frames"),
    [
        (0.32, 0.72, 8, 11),  # both ends are frames' own times, both count
        (0.33, 0.71, 9, 9),
        (None, 0.0, 0, 1),
        (2.36, None, 59, 1),
        (None, None, 0, 60),
        (2.3, 2.44, 58, 2),  # rounded up by less than a frame
    ],
)
def test_ranges(
    make: Maker, *, start: float | None, end: float | None, first: int, frames: int
) -> None:
    path = make()
    found = timeline.span(timeline.scan(path), start, end, where=path)
    assert (found.first, found.frames) == (first, frames)


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0.0, 2.6, "range ends at 2.6 s, the video at 2.400 s"),
        (3.0, None, "no frame from 3.0 s on"),
        (0.33, 0.35, "no frame between 0.33 and 0.35 s"),
        (-2.0, -1.0, "no frame between -2.0 and -1.0 s"),
    ],
)
def test_ranges_without_frames_or_past_the_end_are_refused(
    make: Maker, start: float, end: float | None, words: str
) -> None:
    path = make()
    with pytest.raises(VideoError, match=words):
        timeline.span(timeline.scan(path), start, end, where=path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
@pytest.mark.parametrize("faststart", [False, True])
def test_truncated_files_are_refused(make: Maker, share: float, *, faststart: bool) -> None:
    path = make(muxing={"movflags": "faststart"} if faststart else None)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoError, match=r"is truncated|cannot be decoded: Invalid data"):
        timeline.scan(path)


@pytest.mark.parametrize("name", ["video.mkv", "video.webm", "video.avi"])
def test_truncated_files_of_other_kinds_are_refused(make: Maker, name: str) -> None:
    path = make(name, codec="mpeg4" if name.endswith("avi") else "libvpx-vp9")
    data = path.read_bytes()
    assert len(timeline.scan(path).pts) == 60
    for missing in (1, len(data) // 3, len(data) - 200):
        path.write_bytes(data[:-missing])
        if (name, missing) != ("video.avi", 1):  # which ends with an index
            with pytest.raises(VideoError, match=r"is truncated|cannot be decoded: Invalid data"):
                timeline.scan(path)


def test_a_live_recording_need_not_say_where_it_ends(make: Maker) -> None:
    assert len(timeline.scan(make("video.mkv", muxing={"live": "1"})).pts) == 60


def test_nothing_but_a_video_is_opened_as_one(make: Maker, tmp_path: Path) -> None:
    film = make()
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2,\n{film.name}\n#EXT-X-ENDLIST\n")
    picture = tmp_path / "picture.mp4"
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "picture.png").rename(picture)
    for path, words in ((playlist, "cannot be decoded"), (picture, "of a kind of container")):
        with pytest.raises(VideoError, match=words):
            timeline.scan(path)


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(1000), b"\x00\x00\x00\x18ftypmp42"])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"is truncated|cannot be decoded: Invalid data"):
        timeline.scan(path)


def test_a_video_larger_than_any_camera_makes_is_refused(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    monkeypatch.setattr(frames, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match="claims a frame of 96x64"):
        timeline.scan(path)


def test_a_frame_that_claims_to_be_huge_is_refused(make: Maker) -> None:
    path = make("video.avi", codec="png", pixels="rgb24", frames=5)
    wanted = timeline.span(timeline.scan(path), None, None, where=path)
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(4):
        at = data.index(b"IHDR", at + 1)
    data[at + 4 : at + 12] = np.array([30_000, 30_000], ">i4").tobytes()
    path.write_bytes(data)
    decoded = pyav_backend.frames(path, wanted)
    for _ in range(3):
        next(decoded)
    with pytest.raises(VideoError, match=r"is damaged at 0\.120 s"):
        list(decoded)
    listed = timeline.scan(path)
    assert listed.seconds.tolist() == pytest.approx([0, 0.04, 0.08, 0.16])
    assert timeline.span(listed, None, 0.1, where=path).frames == 3


# --- kept between runs ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were demuxed."""
    seen: list[Path] = []

    def scan(path: Path) -> timeline.Timeline:
        seen.append(path)
        return timeline.scan(path)

    monkeypatch.setattr(timeline_cache, "scan", scan)
    return seen


def look(path: Path) -> tuple[object, ...]:
    found = timeline_cache.timeline(path, path.stat())
    values = (getattr(found, field.name) for field in fields(found))
    return tuple(each.tolist() if isinstance(each, np.ndarray) else each for each in values)


def entries() -> list[Path]:
    return [path for path in (config.home() / "timelines").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "encoding",
    [{}, {"times": [k * k + 7 for k in range(60)], "unit": Fraction(1, 1000)}, {"frames": 1}],
)
def test_a_timeline_comes_back_as_it_was(
    make: Maker, scans: list[Path], encoding: dict[str, object]
) -> None:
    path = make(**encoding)
    assert look(path) == look(path)
    assert scans == [path]
    assert len(entries()) == 1


def test_the_second_look_reads_nothing_of_the_file(make: Maker, scans: list[Path]) -> None:
    path = make()
    first, status = look(path), path.stat()
    path.unlink()
    found = timeline_cache.timeline(path, status)
    assert (found.pts.tolist(), found.unit) == first[:2]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changed_is_listed_anew(make: Maker, scans: list[Path], *, change: str) -> None:
    path = make()
    look(path)
    if change == "size":
        stamp = path.stat().st_mtime_ns
        videos.encode(path, frames=20)
        os.utime(path, ns=(stamp, stamp))
        assert len(look(path)[0]) == 20  # type: ignore[arg-type]
    else:
        os.utime(path, ns=(1, 1))
        look(path)
    assert len(scans) == 2
    assert len(entries()) == 1


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "flipped", "text", "zip", "pickle", "floats", "folder"]
)
def test_a_damaged_entry_is_made_anew(make: Maker, scans: list[Path], *, damage: str) -> None:
    path = make()
    expected = look(path)
    (entry,) = entries()
    data = bytearray(entry.read_bytes())
    if damage == "folder":
        entry.unlink()
        entry.mkdir()
    elif damage in ("pickle", "floats"):
        values = np.array([{}] * 20) if damage == "pickle" else np.zeros(20)
        with entry.open("wb") as file:
            np.save(file, values, allow_pickle=True)
    else:
        data[-9] ^= 1
        contents = {"empty": b"", "cut": data[:-8], "flipped": data, "text": b"hello"}
        contents["zip"] = b"PK\x03\x04" + bytes(100)
        entry.write_bytes(contents[damage])
    assert look(path) == expected
    assert len(scans) == 2


def test_a_home_that_cannot_be_written_costs_time_only(
    make: Maker, scans: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("not a folder")
    path = make()
    assert look(path) == look(path)
    assert len(scans) == 2


def test_failures_are_not_kept(tmp_path: Path, scans: list[Path]) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"nothing")
    for _ in range(2):
        with pytest.raises(VideoError, match="cannot be decoded"):
            look(path)
    assert (len(scans), entries()) == (2, [])
