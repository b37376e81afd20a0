"""Poses: files that are not what they say, alignment by time, whose pose is whose."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spamo_cache import poses
from spamo_cache.errors import PoseError
from tests.support.poses import pose_file

pytest.importorskip("pose_format")


@dataclass
class Clip:
    """What a manifest says of a clip."""

    id: str = "a"
    pose: str | None = None
    start: float | None = None
    crop: tuple[float, float, float, float] | None = None


def counted(frames: int, people: int = 1) -> np.ndarray:
    """Points whose x is the number of their frame."""
    points = np.zeros((frames, people, 3, 2), np.float32)
    points[..., 0] = np.arange(frames)[:, None, None]
    return points


def read(tmp_path: Path, data: bytes) -> poses.Pose:
    (tmp_path / "a.pose").write_bytes(data)
    return poses.read(tmp_path / "a.pose")


@pytest.mark.parametrize("version", [0.1, 0.2])
def test_a_file_is_read_as_points_of_one_person(tmp_path: Path, version: float) -> None:
    points = np.arange(24, dtype=np.float32).reshape(4, 1, 3, 2)
    seen = np.ones((4, 1, 3), np.float32)
    seen[2, 0, 1], seen[3, 0, 0] = 0, 1.25  # not seen; a score of a heat map
    pose = read(tmp_path, pose_file(points, seen, version=version))
    assert (pose.fps, pose.width, pose.height, pose.frames, pose.seconds) == (25, 64, 48, 4, 0.16)
    assert pose.names[2] == "RIGHT_HAND_LANDMARKS/WRIST"
    assert pose.points[2].tolist() == [[12, 13], [0, 0], [16, 17]]
    assert pose.confidence[3].tolist() == [1, 1, 1]
    wrist, confidence = pose.select("RIGHT_HAND_LANDMARKS")
    assert wrist.shape == (4, 1, 2)
    assert confidence.shape == (4, 1)
    with pytest.raises(PoseError, match="is it 'RIGHT_HAND_LANDMARKS/WRIST'"):
        pose.select(["RIGHT_HAND_LANDMARKS/RIST"])
    with pytest.raises(PoseError, match="choose among POSE_LANDMARKS, RIGHT_HAND_LANDMARKS"):
        pose.select("FACE")


def test_of_several_people_the_one_seen_best_is_taken(tmp_path: Path) -> None:
    seen = np.full((4, 2, 3), 0.5, np.float32)
    seen[1:, 1] = 0.9
    points = counted(4, people=2)
    points[:, 1] += 10
    assert read(tmp_path, pose_file(points, seen)).points[0, 0, 0] == 10


def test_version_1_counts_frames_in_16_bits_and_begins_anew(tmp_path: Path) -> None:
    pose = read(tmp_path, pose_file(counted((1 << 16) + 3), version=0.1))
    assert pose.frames == (1 << 16) + 3


def spoilt(value: float, seen: float = 1.0) -> bytes:
    """A file with this coordinate, and this confidence in it."""
    points, confidence = counted(4), np.ones((4, 1, 3), np.float32)
    points[1, 0, 2, 0], confidence[1, 0, 2] = value, seen
    return pose_file(points, confidence)


WHOLE = pose_file(counted(4))
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header is cut"),
    "cut header": (WHOLE[:40], "header is cut"),
    "cut": (WHOLE[:-4], "promises 4 frames of 1 people with 3 points, and holds 3.9"),
    "longer": (WHOLE + bytes(36), "holds 5.0"),
    "version": (struct.pack("<f", 0) + WHOLE[4:], "version 0.1 or 0.2"),
    "no version": (struct.pack("<f", float("nan")) + WHOLE[4:], "version 0.1 or 0.2"),
    "years": (pose_file(counted(4), promised=(4_000_000_000, 1)), "promises 4,000,000,000 frames"),
    "crowd": (pose_file(counted(4), promised=(4, 65535)), "65,535 people"),
    "nobody": (pose_file(counted(4)[:, :0]), "without a person"),
    "no frame": (pose_file(counted(0)), "without a frame"),
    "no points": (pose_file(counted(4)[:, :, :0], components={"A": ()}), "component of 0 points"),
    "many points": (pose_file(counted(1), components={"A": ["x"] * 5000}), "of 5,000 points"),
    "one name": (pose_file(counted(1), components={"A": ["x", "x", "y"]}), "have one name"),
    "no components": (pose_file(counted(1), components={}), "0 components"),
    "garbled name": (WHOLE.replace(b"WRIST", b"\xff\xfeIST"), "garbled"),
    "format": (pose_file(counted(1), layout="ABC"), "format 'ABC'"),
    "no pixels": (pose_file(counted(1), size=(0, 48)), "0x48 pixels"),
    "rate of 0": (pose_file(counted(4), fps=0), "0 frames per second"),
    "no rate": (pose_file(counted(4), fps=float("nan")), "nan frames per second"),
    "endless rate": (pose_file(counted(4), fps=float("inf")), "inf frames per second"),
    "far": (spoilt(1e30), "coordinate of 1e"),
    "nan": (spoilt(np.nan), "coordinate is no finite number"),
    "inf": (spoilt(-np.inf), "coordinate is no finite number"),
    "unsure": (spoilt(1, seen=np.nan), "confidence is no finite number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_one_clear_word(tmp_path: Path, name: str) -> None:
    data, why = BROKEN[name]
    with pytest.raises(PoseError, match=why) as error:
        read(tmp_path, data)
    assert error.value.where == str(tmp_path / "a.pose")
    assert error.value.remedy


def test_no_damage_is_anything_but_a_pose_or_one_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(WHOLE[: rng.integers(len(WHOLE) // 2, len(WHOLE) + 1)])
        for place in rng.integers(len(data), size=2):
            data[place] = rng.integers(256)
        try:
            body = poses.parse(bytes(data))
        except PoseError:
            continue
        assert np.isfinite(body.points).all()


def test_what_was_not_seen_may_be_no_number(tmp_path: Path) -> None:
    pose = read(tmp_path, spoilt(np.nan, seen=0))
    assert pose.points[1, 2].tolist() == [0, 0]


def test_pipes_and_folders_are_no_poses(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="cannot be read"):
        poses.read(tmp_path)
    with pytest.raises(PoseError, match="No such file"):
        poses.read(tmp_path / "none.pose")


def test_frames_are_found_by_time_never_by_number(tmp_path: Path) -> None:
    pose = read(tmp_path, pose_file(counted(10), fps=12.5))
    video = np.arange(25) / 25
    rows = pose.at(video)
    # Of two that are equally near, the earlier one; the last is shown until its time is over.
    assert rows.points[:20, 0, 0].tolist() == [k // 2 for k in range(20)]
    assert rows.confidence[:20].all()
    assert not rows.confidence[20:].any()
    assert pose.at(np.array([-0.05, -0.03])).confidence[:, 0].tolist() == [0, 1]
    faster = read(tmp_path, pose_file(counted(40), fps=59.94))
    assert faster.at(np.arange(10) / 29.97).points[:, 0, 0].tolist() == list(range(0, 20, 2))


def test_a_pose_by_id_begins_with_the_clip_and_one_of_the_manifest_with_the_source(
    tmp_path: Path,
) -> None:
    pose = read(tmp_path, pose_file(counted(50), fps=25))
    times = np.arange(25, 50) / 25
    assert poses.of_clip(pose, Clip(pose="s.pose", start=1.0), (64, 48), times).points[
        [0, -1], 0, 0
    ].tolist() == [25, 49]
    first_half = read(tmp_path, pose_file(counted(25), fps=25))
    own = poses.of_clip(first_half, Clip(start=1.0), (64, 48), times)
    assert own.points[[0, -1], 0, 0].tolist() == [0, 24]


@pytest.mark.parametrize("version", [0.1, 0.2])
def test_a_part_of_a_long_pose_is_read_alone(tmp_path: Path, version: float) -> None:
    data = pose_file(counted(70_000, people=2), version=version)
    whole = read(tmp_path, data)
    for start, end in ((0.0, 0.4), (100.0, 102.0), (2799.0, 2799.9), (5000.0, 5001.0)):
        times = np.arange(start, end, 0.04)
        part = poses.read(tmp_path / "a.pose", (start, end))
        assert part.frames < 60
        for wanted, found in zip(
            (whole.at(times).points, whole.at(times).confidence),
            (part.at(times).points, part.at(times).confidence),
            strict=True,
        ):
            assert np.array_equal(wanted, found)
    for broken in (data[:-4], data[:40], b""):
        (tmp_path / "a.pose").write_bytes(broken)
        with pytest.raises(PoseError, match="sound"):
            poses.read(tmp_path / "a.pose", (0, 1))


def test_points_are_pixels_of_the_frames_that_the_clip_shows(tmp_path: Path) -> None:
    points = np.full((25, 1, 3, 2), (48, 12), np.float32)
    pose = read(tmp_path, pose_file(points))
    times = np.arange(25) / 25
    twice = poses.of_clip(pose, Clip(), (128, 96), times)
    assert (twice.width, twice.height) == (128, 96)
    assert twice.points[0, 0].tolist() == [96, 24]
    right = poses.of_clip(pose, Clip(pose="s.pose", crop=(0.5, 0, 1, 0.5)), (32, 24), times)
    assert right.points[0, 0].tolist() == [16, 12]


@pytest.mark.parametrize(("frames", "seconds", "sound"), [
    (50, 2.0, True), (52, 2.0, True), (56, 2.0, False), (44, 2.0, False),
    (1500, 60.8, True), (1500, 61.2, False), (1500, 58.8, False), (4, 0.1, True),
])  # fmt: skip
def test_a_pose_of_another_length_is_none_of_the_clip(
    tmp_path: Path, frames: int, seconds: float, sound: bool
) -> None:
    pose = read(tmp_path, pose_file(counted(frames)))
    times = np.arange(round(seconds * 50)) / 50
    if sound:
        poses.of_clip(pose, Clip(), (64, 48), times)
        return
    with pytest.raises(PoseError, match=rf"lasts {frames / 25:.2f} s .* the clip {seconds:.2f} s"):
        poses.of_clip(pose, Clip(), (64, 48), times)


def test_of_a_source_the_pose_may_go_on_but_not_end_before_the_clip(tmp_path: Path) -> None:
    pose = read(tmp_path, pose_file(counted(100)))
    clip = Clip(pose="s.pose", start=1.0)
    poses.of_clip(pose, clip, (64, 48), np.arange(25, 50) / 25)
    with pytest.raises(PoseError, match=r"lasts 4.00 s .* up to the clip's end 5.00 s"):
        poses.of_clip(pose, clip, (64, 48), np.arange(100, 125) / 25)


def test_images_have_no_clock_so_their_number_counts(tmp_path: Path) -> None:
    pose = read(tmp_path, pose_file(counted(5), fps=30))
    assert poses.of_clip(pose, Clip(), (64, 48), 5).frames == 5
    with pytest.raises(PoseError, match="5 frames, the clip 6 images"):
        poses.of_clip(pose, Clip(), (64, 48), 6)


def test_a_clips_pose_is_named_or_found_by_id(tmp_path: Path) -> None:
    folder = tmp_path / "poses"
    assert poses.find(Clip("a/b"), tmp_path) is None
    folder.mkdir()
    (folder / "a%2Fb.pose").touch()
    assert poses.find(Clip("a/b"), tmp_path) == folder / "a%2Fb.pose"
    (folder / "für dich.pose").touch()
    assert poses.find(Clip("für dich"), tmp_path, folder) == folder / "für dich.pose"
    assert poses.find(Clip("../poses/für dich"), tmp_path) is None
    assert poses.find(Clip("x", pose="poses/a%2Fb.pose"), tmp_path) == folder / "a%2Fb.pose"
    for name, why in {"../b.pose": "outside the corpus", "poses/c.pose": "missing"}.items():
        with pytest.raises(PoseError, match=why):
            poses.find(Clip("x", pose=name), tmp_path)
    (folder / "out.pose").symlink_to("/etc/passwd")
    with pytest.raises(PoseError, match="leads out of it"):
        poses.find(Clip("x", pose="poses/out.pose"), tmp_path)


LAYOUTS = {
    "holistic": {
        "POSE_LANDMARKS": ("LEFT_SHOULDER", "RIGHT_SHOULDER", "RIGHT_WRIST", "LEFT_HIP"),
        "FACE_LANDMARKS": ("0", "1"),
        "LEFT_HAND_LANDMARKS": ("WRIST",),
        "RIGHT_HAND_LANDMARKS": ("WRIST", "THUMB_TIP"),
        "POSE_WORLD_LANDMARKS": ("LEFT_SHOULDER",),
    },
    "openpose": {
        "pose_keypoints_2d": ("LShoulder", "RShoulder", "RWrist", "LHip"),
        "face_keypoints_2d": ("FLO_48", "FB_0"),
        "hand_left_keypoints_2d": ("BASE",),
        "hand_right_keypoints_2d": ("BASE", "T_IP"),
    },
    "wholebody": {
        "BODY": ("left_shoulder", "right_shoulder", "right_wrist", "left_hip"),
        "FACE": ("face-48", "face-1"),
        "LEFT_HAND": ("hand_0",),
        "RIGHT_HAND": ("hand_0", "hand_1"),
    },
    "alphapose": {
        "BODY_136": ("left_shoulder", "right_shoulder", "right_wrist", "left_hip"),
        "FACE_136": ("face_48", "face_1"),
        "LEFT_HAND_136": ("hand_0",),
        "RIGHT_HAND_136": ("hand_0", "hand_1"),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_are_found_in_the_files_of_every_estimator(tmp_path: Path, layout: str) -> None:
    components = LAYOUTS[layout]
    count = sum(map(len, components.values()))
    points = np.zeros((1, 1, count, 2), np.float32)
    found = poses.parts(read(tmp_path, pose_file(points, components=components)))
    assert {part: indices.tolist() for part, indices in found.items()} == {
        "right-hand": [7, 8],
        "left-hand": [6],
        "face": [4, 5],
        "mouth": [4],
        "right-wrist": [2],
        "left-wrist": [],
        "shoulders": [1, 0],
        "upper-body": [0, 1, 2],
    }
