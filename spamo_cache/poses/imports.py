"""What other estimators write -> ``.pose`` files: OpenPose's JSON, arrays of COCO-WholeBody.

Nothing in their files is trusted, pickles are read as data, and of several people in a frame the
one that was seen with most confidence is taken.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded, extras, restricted
from spamo_cache.errors import CorpusError, PoseError, StoreError
from spamo_cache.poses.clips import file_name

Format = Literal["openpose", "wholebody"]

_MAX_BYTES = 1 << 30
_FRAME = re.compile(r"(?:.*\D)?0*(\d{1,9})_keypoints\.json")
_OPENPOSE = (
    *(("pose_keypoints_2d", 25), ("face_keypoints_2d", 70)),
    *(("hand_left_keypoints_2d", 21), ("hand_right_keypoints_2d", 21)),
)
_WHOLEBODY = 133
_WHOLEBODY_SUFFIXES = (".npz", ".npy", ".json", ".pkl", ".pickle")
_SCORES = ("scores", "keypoint_scores", "score", "confidence")
_SHARES = 4.0
"""Coordinates that all lie within so much are shares of the frame, as Uni-Sign keeps them."""

Floats = NDArray[np.float32]
_Person = tuple[Floats, Floats]
"""Points (points, 2) and confidence (points,)."""


def source_of(kind: Format, folder: Path, clip: str) -> Path:
    """Where an estimator's output for a clip lies: a folder or file called by its id.

    Raises:
        PoseError: there is none.
    """
    endings = ("",) if kind == "openpose" else _WHOLEBODY_SUFFIXES
    for path in (folder / file_name(clip, ending) for ending in endings):
        if path.is_dir() if kind == "openpose" else path.is_file():
            return path
    wanted = "folder of *_keypoints.json" if kind == "openpose" else "file of keypoints"
    raise PoseError(f"has no {wanted} by its id", where=folder)


def load(kind: Format, path: Path, frames: int, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """An estimator's output for a clip.

    Args:
        path: a folder of ``*_keypoints.json``, or a file of arrays (frames, 133, 2 or 3).
        frames: of the clip; more than twice as many are not read.
        size: width and height of the frames that the estimator saw.

    Returns:
        Points (frames, points, 2) in pixels and confidence (frames, points).

    Raises:
        PoseError: it cannot be read, or is something else.
    """
    limit = 2 * frames + 100
    try:
        people = _openpose(path, limit) if kind == "openpose" else _wholebody(path, limit)
    except OSError as error:
        raise PoseError(f"cannot be read: {error.strerror or error}", where=path) from None
    except PoseError:
        raise
    except (CorpusError, StoreError) as error:
        raise PoseError(error.what, where=path) from None
    except Exception as error:  # noqa: BLE001 - on odd content, libraries raise anything
        raise PoseError(f"is no output of {kind}: {error}", where=path) from None
    if not people or not any(map(len, people)):
        raise PoseError("nobody was seen in any frame", where=path)
    total = sum(count for _, count in _OPENPOSE) if kind == "openpose" else _WHOLEBODY
    points = np.zeros((len(people), total, 2), np.float32)
    confidence = np.zeros((len(people), total), np.float32)
    for frame, found in enumerate(people):
        if found:
            best = max(found, key=lambda person: float(np.nansum(person[1])))
            points[frame], confidence[frame] = best
    seen = points[confidence > 0]
    if seen.size and np.abs(seen).max() <= _SHARES:
        points *= np.array(size, np.float32)
    return points, confidence


def packed(
    kind: Format, points: Floats, confidence: Floats, fps: float, size: tuple[int, int]
) -> bytes:
    """The ``.pose`` file of an estimator's output, with the components that ``pose-format`` has."""
    if kind == "openpose":
        module = extras.load("pose_format.utils.openpose", "writing poses")
        components = module.OpenPose_Components
    else:
        module = extras.load("pose_format.utils.cocowholebody133_header", "writing poses")
        components = module.cocowholebody_components()
    return write(components, points[:, None], confidence[:, None], fps, size)


def write(
    components: Sequence[Any],
    points: NDArray[Any],
    confidence: NDArray[Any],
    fps: float,
    size: tuple[int, int],
) -> bytes:
    """A ``.pose`` file of points (frames, people, points, dimensions) by ``pose-format``."""
    pose_format = extras.load("pose_format", "writing .pose files")
    header = pose_format.PoseHeader(
        0.2, pose_format.pose_header.PoseHeaderDimensions(*size, 0), components
    )
    numpy = extras.load("pose_format.numpy", "writing .pose files")
    seen = confidence[..., None] > 0
    body = numpy.NumPyPoseBody(fps, np.where(seen, points, 0), confidence)
    file = BytesIO()
    pose_format.Pose(header, body).write(file)
    return file.getvalue()


def _openpose(folder: Path, limit: int) -> list[list[_Person]]:
    numbered = {
        int(found[1]): path
        for path in folder.iterdir()
        if (found := _FRAME.fullmatch(path.name)) is not None
    }
    if not numbered:
        raise PoseError("holds no *_keypoints.json", where=folder)
    if max(numbered) >= limit:
        raise PoseError(f"numbers a frame {max(numbered):,}, beyond the clip's end", where=folder)
    return [
        list(_openpose_people(numbered[frame])) if frame in numbered else []
        for frame in range(max(numbered) + 1)
    ]


def _openpose_people(path: Path) -> Iterator[_Person]:
    for person in bounded.read_json(path)["people"]:
        parts = []
        for name, count in _OPENPOSE:
            numbers = np.asarray(person.get(name) or np.zeros(3 * count), np.float32)
            if numbers.shape != (3 * count,):
                raise PoseError(
                    f"has {numbers.size / 3:g} points of {name}, not the {count} of OpenPose's "
                    "BODY_25, face and hands",
                    where=path,
                )
            parts.append(numbers.reshape(-1, 3))
        whole = np.concatenate(parts)
        yield whole[:, :2], whole[:, 2]


def _wholebody(path: Path, limit: int) -> list[list[_Person]]:
    content = _content(path)
    frames: Any = content
    if isinstance(content, Mapping):
        if isinstance(listed := content.get("instance_info"), list):
            frames = listed  # of MMPose, with what it says of the model beside
        elif "keypoints" in content:
            scores = next((content[name] for name in _SCORES if name in content), None)
            frames = content["keypoints"]
            if scores is not None:
                frames = list(zip(frames, scores, strict=True))
        else:
            raise PoseError("holds no keypoints", where=path)
    if len(frames) > limit:
        raise PoseError(f"has {len(frames):,} frames, many more than the clip", where=path)
    return [list(_wholebody_people(frame)) for frame in frames]


def _wholebody_people(frame: Any) -> Iterator[_Person]:
    """The people of a frame: MMPose's instances, points and scores, or points alone."""
    if isinstance(frame, Mapping):
        for person in frame.get("instances", ()):
            yield from _persons(person["keypoints"], person.get("keypoint_scores"))
    elif isinstance(frame, tuple):
        yield from _persons(*frame)
    else:
        yield from _persons(frame, None)


def _persons(points: Any, scores: Any) -> Iterator[_Person]:
    array = np.asarray(points, np.float32)
    if array.size == 0:
        return
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1] != _WHOLEBODY or array.shape[2] not in {2, 3}:
        raise PoseError(
            f"has points of shape {'x'.join(map(str, array.shape))} a frame, "
            f"COCO-WholeBody has {_WHOLEBODY} of 2 or 3 numbers"
        )
    if scores is not None:
        confidence = np.asarray(scores, np.float32).reshape(array.shape[:2])
    elif array.shape[2] == 3:
        confidence = array[..., 2]
    else:
        confidence = np.ones(array.shape[:2], np.float32)
    yield from zip(array[..., :2], confidence, strict=True)


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return bounded.read_json(path, _MAX_BYTES)
    if path.suffix == ".npy":
        return restricted.load_npy(path)
    data = BytesIO(bounded.read(path, _MAX_BYTES))
    if path.suffix != ".npz":
        return restricted.load_features(bounded.Limited(data, _MAX_BYTES), path)
    with zipfile.ZipFile(data) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise PoseError(f"unpacks to more than {_MAX_BYTES:,} bytes", where=path)
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(
                BytesIO(archive.read(name)), allow_pickle=False
            )
            for name in archive.namelist()
        }
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
