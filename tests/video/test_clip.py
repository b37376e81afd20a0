from __future__ import annotations

import os
import pickle
import socket
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from spamo_cache.errors import VideoError
from spamo_cache.video import Probe, decode, probe, probe_all, read, read_clip
from spamo_cache.video import clip as clips
from spamo_cache.video import frames as travelling


@dataclass(frozen=True)
class Clip:
    source: str
    id: str = "clip"
    start: float | None = None
    end: float | None = None
    crop: tuple[float, float, float, float] | None = None


def folder(path: Path, count: int, suffix: str = ".png", *, digits: int = 1) -> Path:
    """Frames numbered from 1; frame k has k in every pixel."""
    path.mkdir(parents=True, exist_ok=True)
    for k in range(1, count + 1):
        image = np.full((20, 30, 3), k, np.uint8)
        cv2.imwrite(str(path / f"images{k:0{digits}}{suffix}"), image)
    return path


def test_frames_come_in_natural_order_and_strays_do_not_count(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 12)
    (path / "notes.lprof").write_text("stray")
    (path / "._images3.png").write_text("what macOS leaves beside a file")
    (path / "sub").mkdir()
    found = probe(tmp_path, Clip("a"))
    assert (found.frames, found.strays, found.reason) == (12, 3, None)
    assert found.size == sum(file.stat().st_size for file in path.glob("images*.png"))
    frames = read_clip(tmp_path, Clip("a"))
    assert frames[:, 0, 0, 0].tolist() == list(range(1, 13))


def test_globs_choose_files(tmp_path: Path) -> None:
    folder(tmp_path / "a", 12)
    assert read_clip(tmp_path, Clip("a/images1*.png"))[:, 0, 0, 0].tolist() == [1, 10, 11, 12]
    assert probe(tmp_path, Clip("a/nothing*.png")).reason == "no PNG or JPEG frames here"


def test_names_with_brackets_are_patterns_of_pictures_only(tmp_path: Path) -> None:
    folder(tmp_path / "a", 3)
    for source in ("clip[2].mp4", "a/clip[2].mp4", "take[1]"):
        assert probe(tmp_path, Clip(source)).reason == "source is missing"


@pytest.mark.parametrize(("said", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_either_unicode_form(tmp_path: Path, said: str, there: str) -> None:
    name = "g\xe4rten/\xfcber"
    folder(tmp_path / unicodedata.normalize(there, name), 3)  # type: ignore[arg-type]
    clip = Clip(unicodedata.normalize(said, name))  # type: ignore[arg-type]
    assert len(read_clip(tmp_path, clip)) == 3


def test_frames_kept_twice_count_once_and_are_the_png(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 12)
    for k in range(1, 13):
        cv2.imwrite(str(path / f"images{k}.jpg"), np.full((20, 30, 3), 255, np.uint8))
    found = probe(tmp_path, Clip("a"))
    assert (found.frames, found.strays) == (12, 12)
    assert found.size == sum(file.stat().st_size for file in path.glob("*.png"))
    assert read_clip(tmp_path, Clip("a"))[:, 0, 0, 0].tolist() == list(range(1, 13))
    assert read_clip(tmp_path, Clip("a/*.jpg"))[:, 0, 0, 0].tolist() == [255] * 12


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 3) / "images2.png"
    found = probe(tmp_path, Clip("a"))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    reason = "frame images2.png has 1,099,511,627,776 bytes, more than any picture"
    assert probe(tmp_path, Clip("a")).reason == reason
    with pytest.raises(VideoError, match="more than any picture"):
        read(tmp_path, Clip("a"), found)


def test_jpeg_and_channel_order(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    blue_in_bgr = np.zeros((16, 16, 3), np.uint8)
    blue_in_bgr[..., 0] = 255
    cv2.imwrite(str(tmp_path / "a" / "1.JPG"), blue_in_bgr)
    assert read_clip(tmp_path, Clip("a"))[0, 8, 8].tolist()[2] > 240


def test_hash_of_a_folder_tells_contents_and_names(tmp_path: Path) -> None:
    def digest() -> str:
        return read(tmp_path, Clip("a"), probe(tmp_path, Clip("a")))[1]

    path = folder(tmp_path / "a", 3)
    first = digest()
    assert first == digest()
    (path / "images3.png").rename(path / "images4.png")
    renamed = digest()
    folder(tmp_path / "a", 2)
    cv2.imwrite(str(path / "images1.png"), np.full((20, 30, 3), 9, np.uint8))
    assert len({first, renamed, digest()}) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("cut", "frame images3.* is cut off"),
        ("empty", "frame images3.* is neither PNG nor JPEG"),
        ("text", "frame images3.* is neither PNG nor JPEG"),
        ("other size", "frame 2 is 30x21, others 30x20"),
        ("gone", "lists 4 frames, gives 3"),
    ],
)
def test_damaged_frames_fail_the_clip(tmp_path: Path, suffix: str, damage: str, words: str) -> None:
    path = folder(tmp_path / "a", 4, suffix)
    found = probe(tmp_path, Clip("a"))
    victim = path / f"images3{suffix}"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-20])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "text":
        victim.write_text("not an image")
    elif damage == "other size":
        cv2.imwrite(str(victim), np.zeros((21, 30, 3), np.uint8))
    else:
        victim.unlink()
    with pytest.raises(VideoError, match=words):
        read(tmp_path, Clip("a"), found)


def test_missing_and_impossible_sources_are_told_by_the_probe(tmp_path: Path) -> None:
    folder(tmp_path / "a", 3)
    (tmp_path / "empty").mkdir()
    reasons = [
        probe(tmp_path, clip).reason
        for clip in (
            Clip("gone.mp4"),
            Clip("empty"),
            Clip("../a"),
            Clip("/etc"),
            Clip("a", start=0.1),
        )
    ]
    assert reasons[0] == "source is missing"
    assert reasons[1] == "no PNG or JPEG frames here"
    assert reasons[2] == reasons[3] == "source lies outside the corpus"
    assert "time range" in str(reasons[4])
    assert not any(str(tmp_path) in str(reason) for reason in reasons)


def test_names_that_no_file_can_have_are_told_by_the_probe(tmp_path: Path) -> None:
    for source in ("a\0b", "\ud800.mp4"):
        assert "no file can have" in str(probe(tmp_path, Clip(source)).reason)
    assert "name too long" in str(probe(tmp_path, Clip("x" * 300)).reason)


def test_links_are_followed_within_the_corpus_only(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    folder(root / "there", 3)
    folder(elsewhere / "a", 3)
    (root / "a").symlink_to("there")
    (root / "out").symlink_to(elsewhere)
    (root / "mixed").mkdir()
    (root / "mixed" / "1.png").symlink_to(root / "there" / "images1.png")
    assert read_clip(root, Clip("a")).shape == (3, 20, 30, 3)
    assert probe(root, Clip("mixed")).frames == 1
    (root / "mixed" / "2.png").symlink_to(elsewhere / "a" / "images1.png")
    leaves = "source lies outside the corpus: {} is a link that leads out of it; point --root"
    assert str(probe(root, Clip("out/a")).reason).startswith(leaves.format("out"))
    assert str(probe(root, Clip("mixed")).reason).startswith(leaves.format("mixed/2.png"))
    (tmp_path / "link").symlink_to(root)
    assert probe(tmp_path / "link", Clip("a")).frames == 3


def test_links_in_a_loop_are_failures(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert "symbolic links" in str(probe(tmp_path, Clip("loop.mp4")).reason)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 3)
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mp4"))
    for name in ("pipe.mp4", "socket.mp4"):
        reason = probe(tmp_path, Clip(name)).reason
        assert reason == "source is neither a file nor a folder"
    found = probe(tmp_path, Clip("a"))
    (path / "images2.png").unlink()
    os.mkfifo(path / "images2.png")
    assert probe(tmp_path, Clip("a")).reason == "frame images2.png is not a regular file"
    with pytest.raises(VideoError, match="not a regular file"):
        read(tmp_path, Clip("a"), found)


def test_a_link_to_nothing_is_a_missing_frame_not_a_stray(tmp_path: Path) -> None:
    (folder(tmp_path / "a", 3) / "images4.png").symlink_to("gone.png")
    assert "images4.png cannot be read" in str(probe(tmp_path, Clip("a")).reason)


def huge(path: Path) -> None:
    """Let a PNG's or JPEG's header claim 60000x60000 pixels."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".png":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_header_that_claims_a_huge_frame_is_refused(tmp_path: Path, suffix: str) -> None:
    path = folder(tmp_path / "a", 3, suffix)
    huge(path / f"images2{suffix}")
    with pytest.raises(VideoError, match="claims a frame of 60000x60000"):
        read_clip(tmp_path, Clip("a"))


def test_reasons_name_the_frame_on_one_line(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 3)
    (path / "images2.png").rename(path / "images2\n.png")
    (path / "images2\n.png").write_bytes(b"damaged")
    with pytest.raises(VideoError) as caught:
        read_clip(tmp_path, Clip("a"))
    assert caught.value.what == "frame images2?.png is neither PNG nor JPEG"


def test_frames_travel_in_short_runs_through_one_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "a", 12)
    monkeypatch.setattr(travelling, "_RUN_BYTES", 5 * 20 * 30 * 3 + 1)
    clip = Clip("a", crop=(0.0, 0.0, 0.5, 1.0))
    runs: list[list[int]] = []
    places: set[int] = set()

    def take(frames: np.ndarray) -> None:
        assert frames.shape[1:] == (20, 15, 3)
        assert frames.flags.c_contiguous
        runs.append(frames[:, 0, 0, 0].tolist())
        places.add(frames.ctypes.data)

    monkeypatch.setattr(travelling, "_RUN_FRAMES", 5)
    digest = decode(tmp_path, clip, probe(tmp_path, clip), take)
    assert runs == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]
    assert len(places) == 1
    assert digest == read(tmp_path, clip, probe(tmp_path, clip))[1]


def test_a_large_frame_travels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "a", 3)
    monkeypatch.setattr(travelling, "_RUN_BYTES", 1)
    runs: list[int] = []
    decode(tmp_path, Clip("a"), probe(tmp_path, Clip("a")), lambda frames: runs.append(len(frames)))
    assert runs == [1, 1, 1]


def test_a_video_that_changed_since_it_was_probed_fails(make: Callable[..., Path]) -> None:
    path = make()
    found = probe(path.parent, Clip(path.name))
    make(frames=40)
    with pytest.raises(VideoError, match="lists 60 frames, gives 40"):
        read(path.parent, Clip(path.name), found)


def test_a_source_that_vanished_since_it_was_probed_fails(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make()
    folder(tmp_path / "a", 3)
    found = [probe(tmp_path, Clip(source)) for source in (path.name, "a")]
    path.unlink()
    (tmp_path / "a").rename(tmp_path / "b")
    for source, probed in zip((path.name, "a"), found, strict=True):
        with pytest.raises(VideoError, match="No such file or directory"):
            read(tmp_path, Clip(source), probed)


def test_a_million_probes_are_light(make: Callable[..., Path]) -> None:
    path = make()
    found = probe(path.parent, Clip(path.name))
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - made here
    assert not hasattr(found, "__dict__")
    many = len(pickle.dumps([Probe(k, k, span=found.span) for k in range(1000)]))
    assert many < 100_000


def test_crops_are_shares_of_the_picture(make: Callable[..., Path]) -> None:
    path = make(frames=3)
    whole = read_clip(path.parent, Clip(path.name))
    found = read_clip(path.parent, Clip(path.name, crop=(0.25, 0.5, 0.75, 1.0)))
    np.testing.assert_array_equal(found, whole[:, 32:64, 24:72])
    with pytest.raises(VideoError, match="holds no pixel"):
        read_clip(path.parent, Clip(path.name, crop=(0.5, 0.0, 0.5001, 1.0)))


def test_a_source_with_many_clips_is_opened_once(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    opened: list[Path] = []
    timeline = clips.timeline_cache.timeline

    def counting(source: Path, status: os.stat_result) -> object:
        opened.append(source)
        return timeline(source, status)

    monkeypatch.setattr(clips.timeline_cache, "timeline", counting)
    wanted = [Clip(path.name, start=k / 10, end=k / 10 + 0.2) for k in range(10)]
    seen: list[int] = []
    found = probe_all(path.parent, [*wanted, Clip("gone")], progress=seen.append)
    assert [probed.frames for probed in found[:-1]] == [6, 5] * 5
    assert found[-1].reason == "source is missing"
    assert (len(opened), seen) == (1, [10, 11])
