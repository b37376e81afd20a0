"""Every kind of video against what ffmpeg shows of it: which frames, when, and what they look like.

``make.py`` says what the files are and has made them; ``files/expected.json`` holds what ffmpeg
shows. No test here asks the code under test what is right.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from spamo_cache.config.spec import Reader
from spamo_cache.errors import VideoError
from spamo_cache.video import decode, probe, probe_all
from spamo_cache.workflow.translate import Translation, windows
from tests.support import environment
from tests.support.videos import numbers

HERE = Path(__file__).parent
FILES = HERE / "files"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FILES / "expected.json").read_text())
VIDEOS = {name: row for name, row in EXPECTED.items() if row["numbers"]}
READERS = get_args(Reader)

PLACES = 20
"""Ranges that are tried of each file."""
LEVELS = 3.0
"""By which a patch of a frame may be lighter or darker than ffmpeg's: versions of its scaler
differ in rounding. Frames of neighbouring numbers differ by over ten times as much."""


@dataclass(frozen=True)
class Clip:
    source: str
    start: float | None = None
    end: float | None = None
    crop: None = None
    id: str = "clip"


def frames(root: Path, clip: Clip, reader: Reader) -> NDArray[np.uint8]:
    runs: list[NDArray[np.uint8]] = []
    decode(root, clip, probe(root, clip), lambda run: runs.append(run.copy()), reader=reader)
    return np.concatenate(runs)


def places(row: dict[str, Any]) -> list[tuple[float, float, list[int]]]:
    """Ranges of a file and the frames in them: on frames, between them, up to both ends.

    Of a damaged file those that stay clear of the damage.
    """
    times = np.array(row["times"])
    half = float(np.diff(times, append=times[-1] + 0.04).min()) / 2
    exact = np.allclose(times * 100, np.round(times * 100))
    draw = np.random.default_rng(len(times))
    pairs = np.sort(draw.integers(0, len(times), (PLACES, 2)))
    pairs[0], pairs[1] = (0, len(times) // 3), (len(times) // 2, len(times) - 1)
    found = []
    for k, (first, last) in enumerate(pairs):
        slack = half if k % 2 or not exact else 0.0
        start, end = max(0.0, times[first] - slack), times[last] + slack
        inside = np.flatnonzero((times >= start) & (times <= end))
        damage = row["damage"] or (np.inf, -np.inf)
        if end < damage[0] or start > damage[1]:
            found.append((round(float(start), 6), round(float(end), 6), inside.tolist()))
    return found


def check_frames(root: Path, name: str, row: dict[str, Any], reader: Reader) -> None:
    """All of a file; a damaged one is refused."""
    if row["damage"]:
        with pytest.raises(VideoError, match=f"is damaged at {row['damage'][0]:.3f} s"):
            frames(root, Clip(name), reader)
        return
    found = frames(root, Clip(name), reader)
    assert numbers(found) == row["numbers"]
    assert [found.shape[2], found.shape[1]] == row["size"]
    look = cv2.resize(found[len(found) // 2], (4, 4), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    np.testing.assert_allclose(look, row["look"], atol=LEVELS)


def check_places(root: Path, name: str, row: dict[str, Any], reader: Reader) -> None:
    """Ranges of a file: all are counted, a few read."""
    wanted = places(row)
    clips = [Clip(name, start, end) for start, end, _ in wanted]
    counted = [(p.span.first if p.span else p.reason, p.frames) for p in probe_all(root, clips)]
    assert counted == [(inside[0], len(inside)) for _, _, inside in wanted]
    for clip, (_, _, inside) in list(zip(clips, wanted, strict=True))[:4]:
        assert numbers(frames(root, clip, reader)) == [row["numbers"][k] for k in inside]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", VIDEOS)
def test_all_frames_are_those_that_ffmpeg_shows(name: str, reader: Reader) -> None:
    check_frames(FILES, name, VIDEOS[name], reader)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [name for name, row in VIDEOS.items() if row["timed"]])
def test_ranges_hold_the_frames_that_ffmpeg_shows_then(name: str, reader: Reader) -> None:
    check_places(FILES, name, VIDEOS[name], reader)


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - VIDEOS.keys()))
def test_without_a_video_the_reason_says_so(name: str) -> None:
    assert "no video" in str(probe(FILES, Clip(name)).reason)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name",
    [
        "10:33 take.mp4",
        "file:take.mp4",
        "100 %d.mp4",
        "-take.mp4",
        "take #1?.mp4",
        "Größe 手语.mp4",
    ],
)
def test_a_name_is_only_a_name(
    name: str,
    reader: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(FILES / "one-frame.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for root in (Path(), tmp_path):
        assert numbers(frames(root, Clip(name), reader)) == [7]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_matrix_made_anew(tmp_path: Path) -> None:
    """By this machine's ffmpeg, with the files that are too large for the repository."""
    make = [sys.executable, "-m", "tests.video.matrix.make", "--all", "--into", str(tmp_path)]
    subprocess.run(make, env=environment(), check=True)
    made = json.loads((tmp_path / "expected.json").read_text())
    assert made.keys() > EXPECTED.keys()
    for name, row in made.items():
        if row["numbers"]:
            check_frames(tmp_path, name, row, "auto")
            if row["timed"]:
                check_places(tmp_path, name, row, "auto")


@pytest.mark.parametrize("name", [name for name in VIDEOS if name.startswith(("late.", "after-"))])
def test_windows_of_translate_begin_with_the_video_whenever_its_clock_does(name: str) -> None:
    seconds = 0.4
    pieces = windows(Translation(FILES / name, None, None), seconds, 0.0)
    times = np.array(VIDEOS[name]["times"])
    assert pieces[0].start == pytest.approx(times[0], abs=1e-6)
    assert pieces[-1].end >= times[-1]
    clips = [Clip(name, piece.start, piece.end) for piece in pieces]
    counted = [(p.span.first, p.frames) for p in probe_all(FILES, clips) if p.span]
    inside = [np.flatnonzero((times >= p.start) & (times <= p.end)) for p in pieces]
    assert counted == [(found[0], len(found)) for found in inside]
