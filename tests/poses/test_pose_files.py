"""``spamo-cache pose``: a file for every clip, by an estimator or from another one's output."""

import importlib.util
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import spamo_cache as sc
from spamo_cache import poses
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import MissingLibraryError, PoseError, UsageError
from spamo_cache.extract import holistic, pose_files
from spamo_cache.extract.clip_poses import times_of
from spamo_cache.extract.pose_files import PoseJob
from spamo_cache.store.leases import Leases
from spamo_cache.video import probe
from tests.support.videos import HEIGHT, WIDTH, encode, numbers

pytest.importorskip("pose_format")

FRAMES = 12
TABLE = """id,split,source,start,end,crop,pose,text,language
a/1,train,a.mp4,,,,,eins,German
half,train,a.mp4,0.2,,"0.5,0,1,1",,zwei,German
named,dev,a.mp4,,,,own.pose,drei,German
lost,dev,lost.mp4,,,,,vier,German
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of one video."""
    root = tmp_path_factory.mktemp("lab")
    encode(root / "a.mp4", frames=FRAMES)
    (root / "clips.csv").write_text(TABLE)
    return root


def run(lab: Path, folder: Path, **options: Any) -> Any:
    table = lab / "clips.csv"
    return sc.pose("lab", manifest=table, output=folder, executor="serial", **options)


class Holistic:
    """In place of MediaPipe: sees the number that a frame shows, and no left hand."""

    def __init__(self) -> None:
        self.calls = 0

    def process_holistic(self, frames: Iterable[Any], *size: float, **_: Any) -> Any:
        self.calls += 1
        width = size[1]
        whole = np.stack(list(frames))
        data = np.zeros((len(whole), 1, 4, 3))
        data[..., 0] = np.array(numbers(whole) if width == WIDTH else range(len(whole)))[
            :, None, None
        ]
        confidence = np.ones((len(whole), 1, 4))
        confidence[:, 0, 2] = 0
        return SimpleNamespace(data=np.ma.masked_array(data), confidence=confidence)

    def holistic_components(self, layout: str, _: int) -> list[Any]:
        from pose_format.pose_header import PoseHeaderComponent

        points = {
            "POSE_LANDMARKS": ["LEFT_SHOULDER", "RIGHT_SHOULDER"],
            "LEFT_HAND_LANDMARKS": ["WRIST"],
            "RIGHT_HAND_LANDMARKS": ["WRIST"],
        }
        return [PoseHeaderComponent(name, p, [], [], layout) for name, p in points.items()]


@pytest.fixture
def mediapipe(monkeypatch: pytest.MonkeyPatch) -> Holistic:
    fake = Holistic()
    monkeypatch.setattr(holistic, "_solution", lambda: fake)
    monkeypatch.setattr(holistic, "check", lambda _: None)
    return fake


def test_every_clip_gets_its_pose_once_and_failures_have_reasons(
    lab: Path, tmp_path: Path, mediapipe: Holistic
) -> None:
    told = run(lab, tmp_path / "poses")
    assert (told.clips, told.made, told.there, told.frames) == (4, 2, 1, FRAMES + 7)
    assert told.failed == (("lost", "source is missing"),)
    assert told.seen == {"right-hand": 1.0, "left-hand": 0.0, "face": 0.0, "shoulders": 1.0}
    clips = {clip.id: clip for clip in Manifest.read(lab / "clips.csv", "lab").clips()}
    path = poses.find(clips["a/1"], lab, tmp_path / "poses")
    assert path == tmp_path / "poses" / "a%2F1.pose"
    whole = poses.read(path)
    assert (whole.fps, whole.width, whole.height) == (25, WIDTH, HEIGHT)
    # What the estimator saw in a frame is what the clip has at that frame's time.
    clip = clips["a/1"]
    rows = poses.of_clip(whole, clip, (WIDTH, HEIGHT), times_of(lab, clip, probe(lab, clip)))
    assert rows.points[:, 0, 0].tolist() == list(range(FRAMES))
    assert poses.read(tmp_path / "poses" / "half.pose").width == WIDTH // 2
    before = {path.name: path.read_bytes() for path in (tmp_path / "poses").glob("*.pose")}
    again = run(lab, tmp_path / "poses")
    assert (again.made, again.there, mediapipe.calls) == (0, 3, 2)
    (tmp_path / "poses" / "half.pose").unlink()
    assert run(lab, tmp_path / "poses", split="train").made == 1
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "poses").glob("*.pose")}


def test_frames_of_two_sizes_have_no_pose(lab: Path, tmp_path: Path, mediapipe: Holistic) -> None:
    for number, size in enumerate((20, 20, 30)):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "mixed" / f"{number}.png"), np.zeros((size, size, 3), np.uint8))
    clip = replace(Manifest.read(lab / "clips.csv", "lab").clips()[0], source="mixed")
    made = pose_files.make(PoseJob(root=tmp_path, folder=tmp_path), clip)
    assert made.reason == "frame 2 is 30x30, others 20x20"


def test_a_clip_that_somebody_else_is_at_is_left_to_them(
    lab: Path, tmp_path: Path, mediapipe: Holistic
) -> None:
    job = PoseJob(root=lab, folder=tmp_path)
    clip = Manifest.read(lab / "clips.csv", "lab").clips()[0]
    with Leases(tmp_path / ".work" / "claims").hold(poses.file_name(clip.id)) as mine:
        assert mine
        assert pose_files.make(job, clip).busy
    assert pose_files.make(job, clip).frames == FRAMES
    assert not pose_files.make(job, clip).frames, "a finished file was made again"


def test_a_pose_of_a_video_without_a_steady_rate_is_steady(lab: Path) -> None:
    times = [0, 1, 2, 3, 10, 11, 12]
    encode(lab / "gap.mp4", frames=len(times), times=times)
    clip = Manifest.read(lab / "clips.csv", "lab").clips()[0]
    clip = replace(clip, source="gap.mp4")
    fps, rows = pose_files._clock(lab, clip, probe(lab, clip))
    assert fps == pytest.approx(25)
    assert rows.tolist() == [0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 6]


@pytest.mark.slow
def test_dask_makes_the_same_files(lab: Path, tmp_path: Path) -> None:
    """By the importer, for MediaPipe is not there; workers cannot be given another."""
    from spamo_cache.extract.executors import Cluster

    given = wholebody(tmp_path / "given")
    clips = Manifest.read(lab / "clips.csv", "lab").clips()[:1]
    options: dict[str, Any] = {"source": "wholebody", "given": given}
    for executor in ("serial", "dask"):
        job = PoseJob(root=lab, folder=tmp_path / executor, **options)
        job.folder.mkdir()
        made = pose_files.make_all(job, clips, executor=executor, cluster=Cluster(workers=1))
        assert [each.frames for each in made] == [FRAMES]
    files = [(tmp_path / executor / "a%2F1.pose").read_bytes() for executor in ("serial", "dask")]
    assert files[0] == files[1]


def test_without_an_estimator_the_command_says_how_to_get_it(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spamo_cache import extras

    there = extras.is_there
    monkeypatch.setattr(extras, "is_there", lambda name: name != "mediapipe" and there(name))
    with pytest.raises(MissingLibraryError, match=r"(?s)needs mediapipe.*\[pose\]"):
        run(lab, tmp_path / "poses")
    assert not (tmp_path / "poses").exists()


def test_a_mediapipe_of_another_kind_is_refused_before_any_work(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pose_format.utils.holistic", raising=False)
    monkeypatch.setitem(sys.modules, "mediapipe", ModuleType("mediapipe"))
    with pytest.raises(MissingLibraryError, match="does not load: Please install mediapipe") as no:
        run(lab, tmp_path / "poses")
    assert "holistic_landmarker.task and give it by --model" in str(no.value.remedy)
    with pytest.raises(MissingLibraryError, match="has no attribute 'tasks'"):
        run(lab, tmp_path / "poses", model=tmp_path / "holistic_landmarker.task")
    assert not (tmp_path / "poses").exists()


def test_a_model_is_mediapipes(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"only one of .* and --model"):
        run(lab, tmp_path, model=tmp_path / "a.task", openpose=tmp_path)


@pytest.mark.parametrize("model", [False, True], ids=["in the package", "a file"])
def test_mediapipe_sees_a_frame_without_anybody(model: bool, lab: Path, tmp_path: Path) -> None:
    """With the real one: its package, or a current one's and the file that it needs."""
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed (extra `pose`)")
    path = os.environ.get("HOLISTIC_LANDMARKER_TASK") if model else None
    if model != (importlib.util.find_spec("mediapipe.python") is None) or (model and not path):
        pytest.skip("another MediaPipe is installed, or $HOLISTIC_LANDMARKER_TASK is not given")
    if path:
        bad = tmp_path / "bad.task"
        bad.write_bytes(Path(path).read_bytes()[:5000])
        with pytest.raises(PoseError, match="is not a model of MediaPipe's HolisticLandmarker"):
            run(lab, tmp_path / "poses", split="train", model=bad)
    told = run(lab, tmp_path / "poses", split="train", model=path)
    assert told.made == 2
    assert not any(told.seen.values())


def test_a_landmarkers_answer_is_in_pixels_with_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of a current MediaPipe: a body in every frame, a right hand in the second one."""
    times = []

    def detect(_: Any, time: int) -> SimpleNamespace:
        times.append(time)
        body = [SimpleNamespace(x=0.5, y=0.25, z=-1.0, visibility=0.75)] * 33
        hand = [SimpleNamespace(x=1.0, y=1.0, z=0.0, visibility=None)] * 21
        return SimpleNamespace(
            pose_landmarks=body,
            pose_world_landmarks=body,
            face_landmarks=[],
            left_hand_landmarks=[],
            right_hand_landmarks=hand if len(times) == 2 else [],
        )

    package = SimpleNamespace(
        Image=SimpleNamespace, ImageFormat=SimpleNamespace(SRGB="three bytes")
    )
    landmarker = SimpleNamespace(detect_for_video=detect, close=lambda: times.append(-1))
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setattr(holistic, "_landmarker", lambda _: landmarker)
    monkeypatch.setattr(holistic, "_components", lambda: ["header"])
    frames = np.zeros((3, 20, 40, 3), np.uint8)
    seen = holistic.estimate(frames, 29.97, (40, 20), model=tmp_path)
    assert times == [0, 33, 67, -1]
    assert seen.points.shape == (3, 1, 33 + 478 + 21 + 21 + 33, 3)
    assert seen.points[0, 0, 0].tolist() == [20, 5, -1]
    hand = slice(-33 - 21, -33)
    assert seen.points[1, 0, hand].tolist() == [[40, 20, 0]] * 21
    assert seen.confidence[:, 0, hand].all(axis=1).tolist() == [False, True, False]
    assert set(seen.confidence[:, 0, :33].ravel().tolist()) == {0.75}
    assert not seen.confidence[:, 0, 33:-54].any(), "a face or hand that was not seen"


# --- other estimators -----------------------------------------------------------------------------


def openpose(folder: Path, clip: str = "a%2F1", **changes: Any) -> Path:
    """Its files: the x of every point is the frame's number, of another person more."""
    (folder / clip).mkdir(parents=True)
    counts = {"pose": 25, "face": 70, "hand_left": 21, "hand_right": 21}
    for frame in range(FRAMES):
        people = [
            {
                f"{part}_keypoints_2d": [frame + 40 * other, 2, 0.9 - 0.5 * other] * count
                for part, count in counts.items()
            }
            for other in range(2)
        ]
        people[0]["hand_left_keypoints_2d"] = []
        people[0] |= changes
        document = {"version": 1.3, "people": people[::-1]}
        (folder / clip / f"a_{frame:012}_keypoints.json").write_text(json.dumps(document))
    return folder


def wholebody(folder: Path, form: str = "npy") -> Path:
    folder.mkdir(parents=True)
    points = np.full((FRAMES, 133, 2), 2, np.float32)
    points[..., 0] = np.arange(FRAMES)[:, None]
    scores = np.full((FRAMES, 133), 0.9, np.float32)
    stem = folder / "a%2F1"
    if form == "npy":
        np.save(f"{stem}.npy", np.concatenate([points, scores[..., None]], axis=-1))
    elif form == "npz":
        np.savez(f"{stem}.npz", keypoints=points[:, None], scores=scores[:, None])
    elif form == "pkl":
        # As Uni-Sign keeps them: a list of arrays of people, in shares of the frame.
        shares = list(points[:, None] / (WIDTH, HEIGHT))
        content = {"keypoints": shares, "scores": list(scores[:, None])}
        Path(f"{stem}.pkl").write_bytes(pickle.dumps(content))
    else:
        frames = [
            {
                "frame_id": frame + 1,
                "instances": [{"keypoints": p.tolist(), "keypoint_scores": s.tolist()}],
            }
            for frame, (p, s) in enumerate(zip(points, scores, strict=True))
        ]
        Path(f"{stem}.json").write_text(json.dumps({"instance_info": frames}))
    return folder


@pytest.mark.parametrize("form", ["openpose", "npy", "npz", "pkl", "json"])
def test_other_estimators_output_becomes_poses(lab: Path, tmp_path: Path, form: str) -> None:
    if form == "openpose":
        told = run(lab, tmp_path / "poses", openpose=openpose(tmp_path / "given"))
    else:
        told = run(lab, tmp_path / "poses", wholebody=wholebody(tmp_path / "given", form))
    assert told.made == 1
    assert dict(told.failed)["half"].startswith("has no ")
    pose = poses.read(tmp_path / "poses" / "a%2F1.pose")
    found = poses.parts(pose)
    assert len(found["shoulders"]) == 2
    assert len(found["right-hand"]) == 21
    np.testing.assert_allclose(
        pose.points[:, found["right-hand"][0]], [(k, 2) for k in range(FRAMES)], atol=1e-5
    )
    assert pose.confidence[:, found["left-hand"]].any() == (form != "openpose")


def test_what_others_saw_of_the_whole_frame_is_cropped_with_the_clip(
    lab: Path, tmp_path: Path
) -> None:
    given = openpose(tmp_path / "given", "half", pose_keypoints_2d=[60, 8, 1] * 25)
    for extra in range(7, FRAMES):
        (given / "half" / f"a_{extra:012}_keypoints.json").unlink()
    run(lab, tmp_path / "poses", openpose=given)
    pose = poses.read(tmp_path / "poses" / "half.pose")
    assert (pose.width, pose.height) == (WIDTH // 2, HEIGHT)
    assert pose.points[0, 0].tolist() == [60 - WIDTH // 2, 8]


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/spamo-cache-was-here",)


def npz(header: bytes) -> bytes:
    """An archive of one array, of which there is a header alone."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        size = len(header).to_bytes(2, "little")
        archive.writestr("keypoints.npy", b"\x93NUMPY\x01\x00" + size + header)
    return file.getvalue()


ENDLESS = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 133, 3)}"
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "json": ("json", b"{", "is no output of wholebody"),
    "nothing": ("json", b"{}", "holds no keypoints"),
    "number": ("json", b"7", "is no output of wholebody"),
    "nobody": ("json", b'{"keypoints": [[], []]}', "nobody was seen"),
    "body": ("json", json.dumps([[[1, 2]] * 17]).encode(), "shape 1x17x2 a frame"),
    "words": ("json", json.dumps([[["a", "b"]] * 133]).encode(), "is no output of wholebody"),
    "nan": ("json", json.dumps([[[float("nan"), 1]] * 133] * FRAMES).encode(), "no finite number"),
    "many": ("json", json.dumps([[]] * 1000).encode(), "1,000 frames, many more than the clip"),
    "npy": ("npy", b"\x93NUMPY", "is no NumPy file"),
    "npz": ("npz", b"PK\x03\x04", "is no output of wholebody"),
    "header": ("npz", npz(b"(((((("), "is no output of wholebody"),
    "endless": ("npz", npz(ENDLESS), "is no output of wholebody"),
    "pickle": ("pkl", pickle.dumps({"keypoints": Runs()}), "asks for"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_output_of_others_fails_its_clip(lab: Path, tmp_path: Path, name: str) -> None:
    ending, data, why = BROKEN[name]
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / f"a%2F1.{ending}").write_bytes(data)
    told = run(lab, tmp_path / "poses", wholebody=tmp_path / "given", split="train")
    assert why in dict(told.failed)["a/1"]
    assert not list((tmp_path / "poses").glob("*.pose"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pose_keypoints_2d": [1, 2, 1] * 18}, "18 points of pose_keypoints_2d, not the 25"),
        ({"pose_keypoints_2d": [float("inf"), 2, 1] * 25}, "no finite number"),
        ({"face_keypoints_2d": "face"}, "is no output of openpose"),
    ],
)
def test_broken_json_of_openpose_fails_its_clip(
    lab: Path, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    given = openpose(tmp_path / "given", **changes)
    told = run(lab, tmp_path / "poses", openpose=given, split="train")
    assert why in dict(told.failed)["a/1"]


def test_openpose_json_of_people_who_are_none_fails_its_clip(lab: Path, tmp_path: Path) -> None:
    given = openpose(tmp_path / "given")
    next((given / "a%2F1").iterdir()).write_text('{"people": [7]}')
    told = run(lab, tmp_path / "poses", openpose=given, split="train")
    assert "is no output of openpose" in dict(told.failed)["a/1"]


def test_output_of_a_longer_video_is_not_taken(lab: Path, tmp_path: Path) -> None:
    given = openpose(tmp_path / "given")
    for frame in range(FRAMES, 2 * FRAMES):
        name = f"a_{frame:012}_keypoints.json"
        (given / "a%2F1" / name).write_text('{"people": []}')
    told = run(lab, tmp_path / "poses", openpose=given, split="train")
    assert "the pose lasts 0.96 s (24 frames" in dict(told.failed)["a/1"]
    assert not list((tmp_path / "poses").glob("*.pose"))


def test_a_frame_far_behind_the_clips_end_takes_no_memory(lab: Path, tmp_path: Path) -> None:
    given = openpose(tmp_path / "given")
    (given / "a%2F1" / "a_999999999_keypoints.json").write_text('{"people": []}')
    told = run(lab, tmp_path / "poses", openpose=given, split="train")
    assert "numbers a frame 999,999,999" in dict(told.failed)["a/1"]


def test_requests_that_cannot_be_are_refused(lab: Path, tmp_path: Path) -> None:
    for options, why in (
        ({"openpose": tmp_path, "wholebody": tmp_path}, "only one of"),
        ({"wholebody": tmp_path / "none"}, "no such folder"),
        ({"drop_out": 0.3}, "corpora that come with"),
    ):
        with pytest.raises(UsageError, match=why):
            run(lab, tmp_path / "poses", **options)
    with pytest.raises(UsageError, match=r"from 0 to 0\.9"):
        sc.pose("signed-weather", drop_out=1.0, output=tmp_path)
    with pytest.raises(UsageError, match="has its poses already"):
        sc.pose("signed-weather", drop_out=0.3)
