from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from spamo_cache.errors import VideoError
from spamo_cache.video import clip as clips
from spamo_cache.video import probe, probe_all, read, read_clip


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
    (path / "sub").mkdir()
    found = probe(tmp_path, Clip("a"))
    assert (found.frames, found.reason) == (12, None)
    assert found.size == sum(file.stat().st_size for file in path.glob("*.png"))
    frames = read_clip(tmp_path, Clip("a"))
    assert frames[:, 0, 0, 0].tolist() == list(range(1, 13))


def test_globs_choose_files(tmp_path: Path) -> None:
    folder(tmp_path / "a", 12)
    assert read_clip(tmp_path, Clip("a/images1*.png"))[:, 0, 0, 0].tolist() == [1, 10, 11, 12]
    assert probe(tmp_path, Clip("a/nothing*.png")).reason == "no PNG or JPEG frames here"


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
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other size", "gone"])
def test_damaged_frames_fail_the_clip(tmp_path: Path, suffix: str, damage: str) -> None:
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
    with pytest.raises(VideoError):
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
    timeline = clips.container.timeline

    def counting(source: Path) -> object:
        opened.append(source)
        return timeline(source)

    monkeypatch.setattr(clips.container, "timeline", counting)
    wanted = [Clip(path.name, start=k / 10, end=k / 10 + 0.2) for k in range(10)]
    seen: list[int] = []
    found = probe_all(path.parent, [*wanted, Clip("gone")], progress=seen.append)
    assert [probed.frames for probed in found[:-1]] == [6, 5] * 5
    assert found[-1].reason == "source is missing"
    assert (len(opened), seen) == (1, [10, 11])
