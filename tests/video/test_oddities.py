"""Recordings as cameras, phones, broadcasts and editors leave them, against what players show."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from spamo_cache.video import decode, probe, read_clip, timeline
from tests.support import videos

Maker = Callable[..., Path]
FOLDER = Path(__file__).parent
"""What no encoder of PyAV makes: ``fields.mkv`` is coded as fields (by the JM reference encoder),
``hidden.webm`` has packets that are never shown (VP8 in two passes)."""
KEYS = {"coding": {"g": "12", "bf": "2", "x264-params": "scenecut=0:log-level=none"}}
PACKET = 188
"""Bytes of one of a transport stream."""


@dataclass(frozen=True)
class Clip:
    source: str
    start: float | None = None
    end: float | None = None
    crop: None = None
    id: str = "clip"


@pytest.fixture
def shows() -> Callable[..., list[int]]:
    """``shows(path, start, end)`` -> the numbers that the frames of a range show."""

    def numbers(path: Path, start: float | None = None, end: float | None = None) -> list[int]:
        found: list[int] = videos.numbers(read_clip(path.parent, Clip(path.name, start, end)))
        return found

    return numbers


def taken(path: Path, reader: Any) -> Any:
    """All frames by a reader."""
    clip, runs = Clip(path.name), []
    found = probe(path.parent, clip)
    decode(path.parent, clip, found, lambda frames: runs.append(frames.copy()), reader=reader)
    return np.concatenate(runs)


def reason(path: Path, start: float | None = None, end: float | None = None) -> str:
    return str(probe(path.parent, Clip(path.name, start, end)).reason)


def remux(source: Path, path: Path, keep: Callable[[int, Any], bool]) -> Path:
    """Copy the packets that ``keep(number, packet)`` is true of; it may change their times."""
    with av.open(str(source)) as given, av.open(str(path), "w") as taken:
        copy = taken.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.size and keep(number, packet):
                packet.stream = copy
                taken.mux(packet)
    return path


def boxes(data: bytes, first: int, last: int) -> Iterator[tuple[bytes, int, int]]:
    """Names and places of the boxes of an MP4, one level deep."""
    while first < last:
        size, name = struct.unpack_from(">I4s", data, first)
        yield name, first, first + size
        first += size


def inside(data: bytes, *names: bytes) -> tuple[int, int]:
    """The place of a box by its path."""
    first, last = 0, len(data)
    for depth, name in enumerate(names):
        first += 8 if depth else 0
        first, last = next(place for found, *place in boxes(data, first, last) if found == name)
    return first, last


def trim(source: Path, path: Path, edits: list[tuple[float, float]]) -> Path:
    """Rewrite the edit list of a film: parts of so many seconds from there on, as phones do.

    All samples stay; those of other times are hidden.
    """
    data = bytearray(source.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov")
    first, last = inside(data, b"moov", b"trak", b"edts")
    mvhd, _ = inside(data, b"moov", b"mvhd")
    mdhd, _ = inside(data, b"moov", b"trak", b"mdia", b"mdhd")
    (movie,) = struct.unpack_from(">I", data, mvhd + 20)
    (media,) = struct.unpack_from(">I", data, mdhd + 20)
    entries = b"".join(
        struct.pack(">IiI", round(length * movie), round(at * media), 1 << 16)
        for length, at in edits
    )
    edts = struct.pack(">I4sI4sII", 24 + len(entries), b"edts", 16 + len(entries), b"elst", 0, 0)
    edts = edts[:-4] + struct.pack(">I", len(edits)) + entries
    for name in ((b"moov",), (b"moov", b"trak")):
        at, _ = inside(data, *name)
        size = struct.unpack_from(">I", data, at)[0] + len(edts) - (last - first)
        struct.pack_into(">I", data, at, size)
    data[first:last] = edts
    path.write_bytes(data)
    return path


# --- when time begins -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["late.ts", "late.mpg", "late.mp4", "late.mkv"])
def test_ranges_count_from_the_start_of_the_video_whatever_its_clock_says(
    make: Maker, shows: Any, *, name: str
) -> None:
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    path = make(name, codec=codec, coding={"bf": "2"}, times=range(50, 110))
    assert shows(path) == list(range(60))
    assert shows(path, 1, 1.4) == list(range(25, 36))
    assert shows(path, 0, 0.4) == list(range(11))
    assert timeline.scan(path).duration == pytest.approx(2.4, abs=1e-3)


def test_a_picture_that_joins_a_sound_later_keeps_its_distance(tmp_path: Path, shows: Any) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        for second in range(3):
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
            heard.sample_rate, heard.pts = 8000, 8000 * second
            container.mux(sound.encode(heard))
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
            frame.pts, frame.time_base = 25 + number, Fraction(1, 25)
            container.mux(film.encode(frame))
        container.mux(film.encode())
    assert timeline.scan(path).seconds[0] == pytest.approx(1)
    assert shows(path, 0, 1.2) == list(range(6))
    assert "no frame between" in reason(path, 0, 0.9)


def test_a_clock_that_starts_again_goes_on(make: Maker, shows: Any) -> None:
    path = make("a.ts", frames=30, **KEYS)
    path.write_bytes(path.read_bytes() * 2)
    assert shows(path) == [*range(30)] * 2
    assert shows(path, 1.12, 1.28) == [28, 29, 0, 1, 2]
    assert timeline.scan(path).duration == pytest.approx(2.4)


@pytest.mark.parametrize("name", ["last.flv", "last.mp4", "last.mkv"])
def test_a_range_may_end_within_a_frame_after_the_last_one(
    make: Maker, tmp_path: Path, shows: Any, *, name: str
) -> None:
    """Whatever the file says of how long that is shown: nothing, or the least that it can."""
    codec = "flv" if name.endswith("flv") else "libx264"
    whole = make(f"whole-{name}", codec=codec, coding={"bf": "0"}, frames=50)

    def brief(number: int, packet: Any) -> bool:
        packet.duration = 1
        return True

    path = remux(whole, tmp_path / name, brief)
    assert shows(path, 1.8, 1.98) == [45, 46, 47, 48, 49]
    assert reason(path, 1.8, 2.1).startswith("range ends at 2.1 s, the video at 2")


# --- packets that are no frames -------------------------------------------------------------------


def test_a_recording_that_begins_between_key_frames(
    make: Maker, tmp_path: Path, shows: Any
) -> None:
    whole = make("whole.ts", coding={"g": "12", "bf": "0"})

    def late(number: int, packet: Any) -> bool:
        return number >= 5

    path = remux(whole, tmp_path / "late.ts", late)
    # The first seven packets cannot be decoded; the recording begins with them.
    assert shows(path) == list(range(12, 60))
    assert timeline.scan(path).seconds[0] == pytest.approx(7 / 25)
    assert shows(path, 0.4, 0.6) == list(range(15, 21))


def test_hidden_packets_are_no_frames(shows: Any) -> None:
    path = FOLDER / "hidden.webm"
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > 60
    assert shows(path) == list(range(60))
    assert shows(path, 1, 1.4) == list(range(25, 36))


@pytest.mark.parametrize("name", ["fields.mkv", "fields.mp4", "fields.ts"])
def test_two_fields_are_one_frame(tmp_path: Path, *, name: str) -> None:
    source = FOLDER / "fields.mkv"
    remux(source, tmp_path / name, lambda *_: True)
    found = probe(tmp_path, Clip(name))
    assert (found.frames, found.reason) == (12, None)
    with av.open(str(source)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = read_clip(tmp_path, Clip(name))
    np.testing.assert_array_equal(frames, np.stack(expected))
    middle = read_clip(tmp_path, Clip(name, 0.32, 0.48))
    np.testing.assert_array_equal(middle, frames[4:7])


def test_interlaced_pictures_are_not_taken_for_plain_ones(make: Maker) -> None:
    path = make("interlaced.mp4", coding={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    assert not timeline.scan(path).plain
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for reader in ("pyav", "decord"):
        np.testing.assert_array_equal(taken(path, reader), np.stack(expected))


def test_packets_without_times_before_the_first_frame(
    make: Maker, tmp_path: Path, shows: Any
) -> None:
    coding = {"x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:scenecut=0"}
    whole = make("whole.mkv", codec="libx265", coding=coding)
    with av.open(str(whole)) as container:
        listed = [p for p in container.demux(video=0) if p.size]
        keys = [n for n, packet in enumerate(listed) if packet.is_keyframe]
    begin = listed[keys[1]].pts

    def shifted(number: int, packet: Any) -> bool:
        packet.pts -= begin
        packet.dts = None
        return number >= keys[1]

    path = remux(whole, tmp_path / "cut.mkv", shifted)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times[0] == 0
    assert not all(time is not None and time >= 0 for time in times)
    assert shows(path) == list(range(12, 60))
    assert shows(path, 0.4, 0.6) == list(range(22, 28))


# --- what an edit list shows ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([(1.0, 0.68)], range(15, 40)),  # both ends cut off
        ([(1.2, 0.08)], range(30)),
        ([(0.4, 2.08)], range(50, 60)),
        ([(0.4, 0.28), (0.48, 1.28)], [*range(5, 15), *range(30, 42)]),
        ([(0.4, 1.28), (0.48, 0.28)], [*range(30, 40), *range(5, 17)]),
    ],
)
def test_a_trim_without_encoding_shows_what_it_keeps(
    make: Maker, tmp_path: Path, shows: Any, *, edits: Any, shown: Any
) -> None:
    path = trim(make("whole.mp4", **KEYS), tmp_path / "trim.mp4", edits)
    assert shows(path) == list(shown)
    assert shows(path, 0.12, 0.2) == list(shown)[3:6]


# --- which stream, which way up -------------------------------------------------------------------


def two_tracks(path: Path, default: int) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for number, size in enumerate([(48, 32), (96, 64)]):
            stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == default else 0
            streams.append(stream)
        for index in range(20):
            for stream in streams[: 1 if index >= 15 else 2]:
                picture = videos.picture(index, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize(("default", "shape"), [(0, (20, 32, 48, 3)), (1, (15, 64, 96, 3))])
@pytest.mark.parametrize("name", ["two.mkv", "two.mov"])
def test_the_default_track_is_the_video_whatever_reads_it(
    tmp_path: Path, *, name: str, default: int, shape: Any, reader: Any
) -> None:
    path = two_tracks(tmp_path / name, default)
    assert taken(path, reader).shape == shape


def covered(path: Path, *, film: bool) -> Path:
    """A file with cover art before whatever else it holds."""
    _, picture = cv2.imencode(".jpg", np.full((50, 50, 3), 7, np.uint8))
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 50, 50, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        if film:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        else:
            stream = container.add_stream("aac", rate=8000)
            stream.layout = "mono"
        packet = av.Packet(picture.tobytes())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        container.mux(packet)
        for number in range(20):
            if film:
                frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
            else:
                frame = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                frame.sample_rate, frame.pts = 8000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_cover_art_is_not_the_video(tmp_path: Path, shows: Any) -> None:
    assert shows(covered(tmp_path / "film.mp4", film=True)) == list(range(20))
    song = covered(tmp_path / "song.mp4", film=False)
    assert reason(song) == "holds no video stream"


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
    ],
)
def test_pictures_are_turned_and_mirrored_as_the_file_asks(
    make: Maker, *, matrix: tuple[int, ...], expected: Any, reader: Any
) -> None:
    path = make(frames=3)
    plain = read_clip(path.parent, Clip(path.name))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = np.stack([expected(picture) for picture in plain])
    np.testing.assert_array_equal(taken(path, reader), turned)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, lambda p: p), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1))],
)
@pytest.mark.parametrize("name", ["camera.mov", "camera.avi"])
def test_a_series_of_photographs_is_turned_as_these_ask(
    tmp_path: Path, *, name: str, orientation: int, expected: Any
) -> None:
    """Cameras put the EXIF tags of a photograph into each frame, which PyAV does not know."""
    tags = b"Exif\0\0" + struct.pack(
        ">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0
    )
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(3):
            photograph = cv2.imencode(".jpg", videos.picture(number)[..., ::-1])[1].tobytes()
            segment = b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags
            packet = av.Packet(photograph[:2] + segment + photograph[2:])
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    plain = np.stack([videos.picture(number) for number in range(3)])
    turned = np.stack([expected(picture) for picture in plain]).astype(float)
    found = read_clip(tmp_path, Clip(name))
    assert found.shape == turned.shape
    assert np.abs(found - turned).mean() < 12


# --- damage ---------------------------------------------------------------------------------------


def test_a_lost_packet_fails_the_clips_that_it_touches_alone(make: Maker, shows: Any) -> None:
    path = make("a.ts", **KEYS)
    data = path.read_bytes()
    middle = len(data) // 2 // PACKET
    lost = next(k for k in range(middle, 2 * middle) if _of_video(data, k))
    path.write_bytes(data[: lost * PACKET] + data[(lost + 1) * PACKET :])
    ((begin, end),) = timeline.scan(path).shown(timeline.scan(path).damage).tolist()
    assert 0.8 < begin < end < 1.6
    assert end == pytest.approx(0.48 * round(end / 0.48))  # the next key frame
    assert reason(path) == f"is damaged at {begin:.3f} s"
    assert reason(path, 0, begin) == f"is damaged at {begin:.3f} s"
    assert shows(path, 0, 0.6) == list(range(16))
    assert shows(path, end, 2.2) == list(range(round(25 * end), 56))


def _of_video(data: bytes, number: int) -> bool:
    """Whether a packet goes on with a frame of the video, whose PID is 0x100."""
    return data[number * PACKET + 1 : number * PACKET + 3] == b"\x01\x00"


def test_a_frame_that_is_not_there_fails_the_clips_that_it_belongs_to(
    make: Maker, tmp_path: Path, shows: Any
) -> None:
    coding = {
        "x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=0:scenecut=0:bframes=0"
    }
    whole = make("whole.ts", codec="libx265", coding=coding)
    path = remux(whole, tmp_path / "lost.ts", lambda number, _: number != 26)
    # What was predicted from it is left out by the decoder, without an error.
    assert reason(path) == "is damaged at 1.080 s"
    assert shows(path, 0, 0.9) == list(range(23))
    assert shows(path, 1.44, None) == list(range(36, 60))


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_files_that_say_that_they_are_cut_are_refused(make: Maker, *, name: str) -> None:
    muxing = {"movflags": "faststart"} if name.endswith("mp4") else None
    path = make(name, muxing=muxing, coding={"bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    assert reason(path) == reason(path, 0, 0.4) == "is truncated"


def test_the_count_in_the_header_of_an_avi_is_a_hint(make: Maker, shows: Any) -> None:
    path = make("a.avi", codec="mjpeg", pixels="yuvj420p", frames=10)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(mark) + offset
        assert struct.unpack_from("<I", data, at) == (10,)
        struct.pack_into("<I", data, at, 12)
    path.write_bytes(data)
    assert shows(path) == list(range(10))


# --- names, tags and kinds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["10:33 take.mp4", "-x.mp4", "a%03d.mp4", "pipe:1.mp4", "concat:a.mp4", "file:b.mp4"]
)
def test_a_name_is_a_name_below_a_relative_root(
    make: Maker, monkeypatch: pytest.MonkeyPatch, *, name: str
) -> None:
    path = make(name, frames=3)
    monkeypatch.chdir(path.parent)
    for root in (Path(), path.parent):
        assert len(read_clip(root, Clip(name))) == 3


@pytest.mark.parametrize("name", ["tags.mp4", "tags.mov", "tags.mkv", "tags.avi"])
def test_tags_in_any_encoding_do_not_matter(
    make: Maker, shows: Any, tmp_path: Path, *, name: str
) -> None:
    path = make(f"plain-{name}", frames=5)
    tagged = tmp_path / name
    with av.open(str(path)) as given, av.open(str(tagged), "w") as taken:
        taken.metadata["title"] = "Gebaerdenwetter"
        copy = taken.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = copy
                taken.mux(packet)
    data = tagged.read_bytes()
    assert b"Gebaerdenwetter" in data
    tagged.write_bytes(data.replace(b"Gebaerdenwetter", "Geb\xe4\xe4rdenwetter".encode("latin-1")))
    assert shows(tagged) == list(range(5))


def test_tapes_are_read_and_other_kinds_say_what_is(tmp_path: Path, make: Maker) -> None:
    tape = tmp_path / "tape.dv"
    with av.open(str(tape), "w", format="dv") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(
                np.full((576, 720, 3), 60 * number, np.uint8), format="rgb24"
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = read_clip(tmp_path, Clip("tape.dv"))
    assert frames[:, 300, 300, 1].tolist() == pytest.approx([0, 60, 120], abs=2)
    bare = make("bare.h264", frames=5)
    told = "is of a kind of container that is not read here (read: mov, mp4, matroska, webm, "
    assert reason(bare).startswith(told)


def test_a_file_without_a_frame_that_can_be_decoded_is_refused(make: Maker, tmp_path: Path) -> None:
    coding = {"g": "60", "bf": "0", "x264-params": "scenecut=0:log-level=none"}
    whole = make("whole.ts", coding=coding)
    path = remux(whole, tmp_path / "none.ts", lambda number, _: number > 5)
    assert reason(path) == "holds no frames that can be decoded"
