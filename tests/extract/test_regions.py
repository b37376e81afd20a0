"""Streams of regions and of points: row for row what can be worked out by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from spamo_cache.cli.main import app
from spamo_cache.config import CacheSpec, PoseStream, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.encoders.points import rows as rows_of_points
from spamo_cache.errors import ConfigError, PoseError, UsageError
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.summary import Summary
from spamo_cache.poses import Pose
from spamo_cache.store.inspect import diff
from spamo_cache.store.layout import stream_spec
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify
from spamo_cache.workflow import resolve
from spamo_cache.workflow.inspect import inspect
from spamo_cache.workflow.translate import TrainedRun
from tests.support import environment, program
from tests.support.poses import pose_file

pytest.importorskip("pose_format")

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
WIDTH, HEIGHT = 64, 48
FRAMES = {"film": 24, "a": 21, "b": 9, "none": 6, "broken": 7, "short": 12}
"""Clips by their frames; ``film`` is a video at 25 per second, the others are images."""
_FINGERS = ("THUMB", "INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY")
HAND = ("WRIST", *(f"{finger}_{joint}" for finger in _FINGERS for joint in range(4)))
SIDES = ("right", "left")
COMPONENTS = {"POSE_LANDMARKS": ("LEFT_SHOULDER", "RIGHT_SHOULDER"), "RIGHT_HAND_LANDMARKS": HAND}
SPEC = {
    "name": "near",
    "streams": {
        "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1], "stride": 4},
        "hand": {
            "encoder": "open_clip",
            "weights": "clip-vision",
            "scales": [1],
            "stride": 2,
            "region": "right-hand",
            "box": {"smooth": 3, "scale": 2.0},
        },
        "points": {"encoder": "pose", "points": ["body", "right-hand"], "stride": 3},
    },
    "store": {
        "dtype": "float32",
        "chunk_rows": {"frame": 8, "window": 2},
        "shard_rows": {"frame": 32, "window": 6},
    },
}

Points = NDArray[np.float32]


def signed(frames: int, seed: int = 0) -> tuple[Points, Points]:
    """A hand of 8 by 6 pixels on its way to the right, lost in two frames; and shoulders."""
    rng = np.random.default_rng(seed)
    points = np.zeros((frames, 1, 23, 2), np.float32)
    points[:, 0, 0], points[:, 0, 1] = (44, 20), (20, 20)
    corners = np.stack([np.linspace(0, 8, 21), rng.permutation(np.linspace(0, 6, 21))], axis=1)
    begin = np.stack([np.linspace(-6, 40, frames), np.full(frames, 25)], axis=1)
    points[:, 0, 2:] = begin[:, None] + corners
    seen = np.full((frames, 1, 23), 0.9, np.float32)
    seen[3:5, 0, 2:] = 0
    return points, seen


def write(file: Path, points: Points, seen: Points, fps: float = 25.0) -> None:
    file.parent.mkdir(exist_ok=True)
    data = pose_file(points, seen, components=COMPONENTS, fps=fps, size=(WIDTH, HEIGHT))
    file.write_bytes(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("signing")
    rng = np.random.default_rng(0)
    for name, count in FRAMES.items():
        pictures = rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
        if name == "film":
            film(root / "film.mp4", pictures)
            continue
        (root / name).mkdir()
        for number, picture in enumerate(pictures):
            assert cv2.imwrite(str(root / name / f"{number:02}.png"), picture)
        if name != "none":
            write(root / "poses" / f"{name}.pose", *signed(11 if name == "short" else count))
    # Every other frame of the film, which is shown at twice the rate.
    points, seen = signed(FRAMES["film"])
    write(root / "poses" / "film.pose", points[::2], seen[::2], fps=12.5)
    (root / "poses" / "broken.pose").write_bytes(pose_file(points, promised=(1 << 30, 1)))
    return root


def film(file: Path, pictures: NDArray[np.uint8]) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    clips = [
        Clip(
            id=name,
            split="train" if name == "film" else "test",
            source="film.mp4" if name == "film" else name,
            text="ja",
            language="German",
        )
        for name in FRAMES
    ]
    return Manifest.from_clips("toy", clips)


@pytest.fixture(scope="module")
def spec() -> CacheSpec:
    return parse(SPEC, CacheSpec, where="test")


@pytest.fixture(scope="module")
def go(site: Path, manifest: Manifest, spec: CacheSpec) -> Callable[..., Summary]:
    def run(store_root: Path, poses: Path | str = "poses", **changes: Any) -> Summary:
        by = spec.model_copy(update={"poses": str(poses)})
        given = {"manifest": manifest, "root": site, "spec": by, "spec_base": GOLDEN}
        options = {"store_root": store_root, "executor": "serial", "device": "cpu"}
        return extract(**{**given, **options, **changes})

    return run


@pytest.fixture(scope="module")
def done(go: Callable[..., Summary], tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return go(tmp_path_factory.mktemp("features"))


def store_of(summary: Summary, stream: str) -> Path:
    return Path(str(summary.stores[stream]))


def opened(summary: Summary, stream: str) -> FeatureStore:
    return FeatureStore.open(summary.stores[stream])


# --- what rows hold -----------------------------------------------------------------------------


def boxes_by_hand(points: Points, seen: Points) -> tuple[int, NDArray[np.int64], list[bool]]:
    """Side, corners and visibility frame by frame, in plain loops."""
    hand = points[:, 0, 2:].astype(float)
    visible = [bool(row.all()) for row in seen[:, 0, 2:] > 0]
    centres = [(frame.min(axis=0) + frame.max(axis=0)) / 2 for frame in hand]
    extents = [
        max(np.ptp(frame, axis=0)) for frame, there in zip(hand, visible, strict=True) if there
    ]
    side = round(2.0 * float(np.median(extents)))
    corners, last = [], visible.index(True)
    for k, there in enumerate(visible):
        last = k if there else last
        around = [j for j in (last - 1, last, last + 1) if 0 <= j < len(hand) and visible[j]]
        corners.append(np.mean([centres[j] for j in around], axis=0) - side / 2)
    return side, np.rint(corners).astype(int), visible


@pytest.mark.parametrize("clip", ["film", "a"])
def test_rows_of_a_region_are_those_of_crops_worked_out_by_hand(
    done: Summary, spec: CacheSpec, site: Path, clip: str
) -> None:
    points, seen = signed(FRAMES[clip])
    frames: list[Any]
    if clip == "film":
        points, seen = (np.repeat(each[::2], 2, axis=0) for each in (points, seen))
        with av.open(str(site / "film.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    else:
        files = sorted((site / clip).glob("*.png"))
        frames = [np.asarray(cv2.imread(str(file)))[:, :, ::-1] for file in files]
    side, corners, visible = boxes_by_hand(points, seen)
    cut = []
    for (left, top), frame in zip(corners.tolist(), frames, strict=True):
        around = np.pad(frame, ((side, side), (side, side), (0, 0)))
        cut.append(around[top + side : top + 2 * side, left + side : left + 2 * side])
    rows, valid = opened(done, "hand").read_valid(clip)
    encoder = registry.build(spec.streams["spatial"].model_copy(update={"stride": 2}), GOLDEN)
    np.testing.assert_allclose(rows, encode_clip(encoder, np.stack(cut)), atol=1e-3)
    assert valid.tolist() == visible[::2]
    assert not valid.all()


def test_a_row_is_traced_to_its_frame_and_box(done: Summary, site: Path) -> None:
    def told(row: int, *options: str) -> dict[str, Any]:
        line = ["store", "info", str(store_of(done, "hand")), "--clip", "film", "--row", str(row)]
        found: dict[str, Any] = json.loads(
            CliRunner().invoke(app, [*line, "--json", *options]).stdout
        )
        return found

    points, seen = (np.repeat(each[::2], 2, axis=0) for each in signed(FRAMES["film"]))
    side, corners, _ = boxes_by_hand(points, seen)
    for row in (0, 2, 7):
        found = told(row, "--root", str(site))
        left, top = corners[2 * row].tolist()
        box = {"left": left, "top": top, "side": side, "width": WIDTH, "height": HEIGHT}
        assert (found["first"], found["box"], found["valid"]) == (2 * row, box, row != 2)
    assert "box" not in told(0)


def test_a_sheet_shows_boxes_points_and_what_is_not_valid(site: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    shutil.copytree(GOLDEN / "clip-vision", tmp_path / "clip-vision")

    def height(name: str, **options: Any) -> int:
        made = inspect(site / "film.mp4", tmp_path / f"{name}.png", **given, **options)
        with Image.open(made) as sheet:
            return sheet.height

    given: dict[str, Any] = {"spec": tmp_path / "spec.yaml", "rows": 2}
    pose = site / "poses" / "film.pose"
    without = height("without")  # beside the film there is no pose of its name
    seen = height("seen", poses=pose)
    assert without < seen < height("boxes", poses=pose, boxes=True)
    every = inspect(
        site / "film.mp4", tmp_path / "e.png", **given, poses=pose, boxes=True, streams=["spatial"]
    )
    assert every.is_file()
    wanting: list[dict[str, Any]] = [{"boxes": True}, {"streams": ["hand", "points"]}]
    for changes in wanting:
        with pytest.raises(PoseError, match="has no pose"):
            inspect(site / "film.mp4", tmp_path / "none.png", **given, **changes)
    assert not (tmp_path / "none.png").exists()


def test_rows_of_points_are_measured_by_the_shoulders(done: Summary) -> None:
    points, _ = signed(21)
    rows, valid = opened(done, "points").read_valid("a")
    assert rows.shape == (7, 3 * (11 + 21))
    table = rows.reshape(7, 32, 3)
    right, left = table[:, 5], table[:, 6]  # after the nose, eyes and ears, which there are none of
    np.testing.assert_allclose(right, [[-0.5, 0, 0.9]] * 7, atol=1e-6)
    np.testing.assert_allclose(left, [[0.5, 0, 0.9]] * 7, atol=1e-6)
    assert not table[:, :5].any()
    wanted = (points[::3, 0, 2:] - (32, 20)) / 24
    wanted[1] = 0  # frame 3, in which the hand is lost
    np.testing.assert_allclose(table[:, 11:, :2], wanted, atol=1e-6)
    assert table[:, 11:, 2].any(axis=1).tolist() == [True, False, *[True] * 5]
    assert valid.all()


def test_estimators_give_the_same_row_for_the_same_points() -> None:
    pairs = [
        (side, name) for name in ("eye", "ear", "shoulder", "elbow", "wrist") for side in SIDES
    ]
    estimators = {
        "MediaPipe": [
            *("POSE_LANDMARKS/NOSE", *(f"POSE_LANDMARKS/{s}_{n}".upper() for s, n in pairs)),
            *(f"{side.upper()}_HAND_LANDMARKS/{joint}" for side in SIDES for joint in HAND),
        ],
        "OpenPose": [
            "pose_keypoints_2d/Nose",
            *(f"pose_keypoints_2d/{s[0].upper()}{n.capitalize()}" for s, n in pairs),
            *(f"hand_{side}_keypoints_2d/{k}" for side in SIDES for k in range(21)),
        ],
        "COCO-WholeBody": [
            *("BODY_133/nose", *(f"BODY_133/{side}_{name}" for side, name in pairs)),
            *(f"{side.upper()}_HAND_133/{k}" for side in SIDES for k in range(21)),
        ],
    }
    faces = {
        "OpenPose": [f"face_keypoints_2d/F_{k}" for k in range(70)],
        "COCO-WholeBody": [f"FACE_133/face-{k}" for k in range(68)],
    }
    rng = np.random.default_rng(0)
    where = dict(enumerate(rng.uniform(0, 64, (11 + 42, 2))))
    face = rng.uniform(0, 64, (70, 2))
    stream = PoseStream(encoder="pose", points=("body", "right-hand", "left-hand"))
    found = []
    for estimator, names in estimators.items():
        order = rng.permutation(11).tolist() + list(range(11, 53))  # bodies have their own order
        both = [names[k] for k in order] + faces.get(estimator, [])
        points = np.array([*(where[k] for k in order), *face[: len(both) - 53]], np.float32)
        pose = Pose(25, 64, 48, points[None], np.ones((1, len(both)), np.float32), tuple(both))
        found.append(rows_of_points(pose, stream)[0])
        if estimator in faces:
            mouth = PoseStream(encoder="pose", points=("mouth",))
            wanted = (face[48:68] - (where[5] + where[6]) / 2) / np.hypot(*(where[5] - where[6]))
            values = rows_of_points(pose, mouth)[0].reshape(20, 3)
            np.testing.assert_allclose(values[:, :2], wanted, rtol=1e-5, atol=1e-5)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


def test_a_clip_without_a_sound_pose_fails_where_poses_are_used_and_nowhere_else(
    done: Summary, go: Callable[..., Summary], tmp_path: Path
) -> None:
    reasons = dict(done.failed)
    assert reasons.keys() == {"none", "broken", "short"}
    assert "hand, points: has no pose" in reasons["none"]
    assert "1,073,741,824 frames" in reasons["broken"]
    assert "the pose has 11 frames, the clip 12 images" in reasons["short"]
    assert all("spatial" not in reason for reason in reasons.values())
    assert opened(done, "spatial").select(state="ok") == sorted(FRAMES)
    assert not opened(done, "spatial").has_validity
    alone = go(tmp_path, streams=["spatial"])
    assert not diff(alone.stores["spatial"], done.stores["spatial"])
    for store in map(Path, map(str, done.stores.values())):
        assert not verify(store, deep=True).problems


# --- identity -----------------------------------------------------------------------------------


def test_another_pose_makes_another_store_which_takes_the_other_clips_along(
    done: Summary, site: Path, manifest: Manifest, go: Callable[..., Summary], tmp_path: Path
) -> None:
    for name in ("a", "b", "none", "broken", "short", "film.mp4"):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / name).symlink_to(site / name)
    corpus, better = tmp_path / "corpus", tmp_path / "better"
    shutil.copytree(site / "poses", better)
    write(better / "b.pose", *signed(9, seed=1))
    features = Path(str(done.stores["hand"])).parents[1]
    again = go(features, root=site, poses=site / "poses")
    assert (again.computed_frames, again.stores) == (0, done.stores)
    new = go(features, poses=better)
    assert new.stores["spatial"] == done.stores["spatial"]
    assert new.stores["hand"] != done.stores["hand"]
    named = [opened(one, "hand").about.poses for one in (done, new)]
    assert named == ["poses", str(better)]
    assert (new.streams["hand"].copied_from[0].clips, new.computed_frames) == (2, 9)
    assert diff(new.stores["points"], done.stores["points"]) == [
        "1 clip with another pose: b",
        "1 clip with other features: b",
    ]
    (rows,) = opened(new, "hand").read(["a"])
    assert rows.tolist() == opened(done, "hand").read(["a"])[0].tolist()
    with pytest.raises(UsageError, match="none of 6 clips has one"):
        go(tmp_path / "x", poses=corpus / "a")


def test_a_pose_that_the_manifest_names_is_another_input_than_one_found_by_id(
    site: Path, manifest: Manifest, go: Callable[..., Summary], tmp_path: Path
) -> None:
    (clip,) = (clip for clip in manifest.clips() if clip.id == "a")
    # One shows the clip's crop, the other the whole of the source.
    found = replace(clip, crop=(0.25, 0.0, 1.0, 1.0))
    named = replace(found, pose="poses/a.pose")
    stores = [
        opened(
            go(tmp_path, manifest=Manifest.from_clips("toy", [posed]), streams=["points"]), "points"
        )
        for posed in (found, named)
    ]
    one, other = (store.read(["a"])[0] for store in stores)
    assert stores[0].fingerprint != stores[1].fingerprint
    assert not np.array_equal(one, other)


def test_a_run_on_regions_can_be_loaded_though_it_translates_no_new_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["spec=signed-weather-regions", "streams=[spatial, face]"]
    pipeline, _ = resolve.named_pipeline("signed-weather", changes)
    found = resolve.named_spec("signed-weather-regions")
    monkeypatch.setattr(resolve, "run_spec", lambda *_: found)
    loaded: Any = SimpleNamespace(folder=None, pipeline=pipeline, path=tmp_path)
    run = TrainedRun(loaded, None, "cpu")
    assert run.pipeline is pipeline
    with pytest.raises(UsageError, match="'face' is computed from poses"):
        run.translate_pieces([])


def test_what_asks_for_no_region_is_described_as_before(spec: CacheSpec) -> None:
    assert stream_spec(spec, "spatial").keys().isdisjoint({"region", "box"})
    hand = stream_spec(spec, "hand")
    assert (hand["region"], hand["box"]["scale"], hand["box"]["missing"]) == (
        *("right-hand", 2.0, "repeat"),
    )
    for stream, said in {
        "{encoder: open_clip, weights: x, box: {scale: 2.0}}": "without a `region`",
        "{encoder: transformers, weights: x, output: cls, window: 8, region: face}": "whole frames",
        "{encoder: open_clip, weights: x, region: face, box: {smooth: 4}}": "an odd number",
        "{encoder: pose, points: [body, body]}": "twice",
    }.items():
        with pytest.raises(ConfigError, match=said):
            parse({**SPEC, "streams": {"one": yaml.safe_load(stream)}}, CacheSpec, where="test")


# --- workers and kills --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_two_workers_give_the_bytes_of_one(
    done: Summary, go: Callable[..., Summary], digest: Callable[[Path], str], tmp_path: Path
) -> None:
    both = go(tmp_path, executor="dask", workers=2)
    for name in both.stores:
        assert digest(store_of(both, name)) == digest(store_of(done, name))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_a_killed_extraction_ends_with_the_bytes_of_another(
    done: Summary, site: Path, manifest: Manifest, digest: Callable[[Path], str], tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / "site")
    shutil.copytree(GOLDEN / "clip-vision", tmp_path / "site" / "clip-vision")
    (tmp_path / "site" / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    manifest.write_csv(tmp_path / "site" / "manifest.csv")
    store = tmp_path / "features"
    orders = [{"store": str(store), "operation": 60}, {"store": str(store)}]
    ran = subprocess.run(
        program("extract_victim", tmp_path / "site"),
        env=environment(SPAMO_HOME=str(tmp_path / "home")),
        input="".join(f"{json.dumps(order)}\n" for order in orders),
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [
        answer["status"]
        for answer in map(json.loads, ran.stdout.splitlines())
        if "status" in answer
    ]
    assert statuses == [-9, 0]
    for path in map(Path, map(str, done.stores.values())):
        assert digest(store / "toy" / path.name) == digest(path)
