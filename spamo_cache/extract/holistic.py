"""MediaPipe Holistic: body, face and hands of a signer in every frame.

The models of older versions lie in the package, and ``pose-format`` calls them. Those of current
versions are a file that the user downloads. Both see the same points and write the same header.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import extras
from spamo_cache.errors import MissingLibraryError, PoseError

_IRIS_POINTS = 10
_FACE_POINTS = 468 + _IRIS_POINTS
_PUBLISHED = (
    "https://storage.googleapis.com/mediapipe-models/holistic_landmarker/holistic_landmarker/"
    "float16/latest/holistic_landmarker.task"
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was seen."""

    components: Sequence[Any]
    """Of the header, by ``pose-format``."""
    points: NDArray[np.float64]
    """(frames, 1, points, 3): x and y in pixels, depth in MediaPipe's own units."""
    confidence: NDArray[np.float64]
    """(frames, 1, points): 0 where a part was not seen."""


def check(model: Path | None) -> None:
    """Raise what is missing before any work.

    Args:
        model: file of a current MediaPipe's models; None takes those in an older one's package.

    Raises:
        MissingLibraryError: no MediaPipe, or one of another version.
        PoseError: the file is not MediaPipe's.
    """
    if model is not None:
        with hushed():
            _landmarker(model).close()
        return
    extras.need("mediapipe", use="estimating poses")
    _solution()


def estimate(
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    size: tuple[int, int],
    *,
    model: Path | None = None,
    hush: bool = False,
) -> Estimate:
    """Where the parts of a signer are.

    Args:
        frames: (height, width, 3) each, RGB, in order.
        size: width and height.
        model: as for :func:`check`.
        hush: drop MediaPipe's own log, and all else that this process writes meanwhile.

    Raises:
        PoseError: MediaPipe gave up.
    """
    try:
        with hushed() if hush else nullcontext():
            if model is None:
                return _by_solution(frames, fps, size)
            return _by_landmarker(frames, fps, size, model)
    except (RuntimeError, ValueError) as error:
        raise PoseError(f"MediaPipe gave up: {_brief(error)}") from error


def _by_solution(
    frames: Iterable[NDArray[np.uint8]], fps: float, size: tuple[int, int]
) -> Estimate:
    solution = _solution()
    body = solution.process_holistic(
        # It looks at a frame while the next one is decoded.
        *((frame.copy() for frame in frames), fps, *size),
        additional_face_points=_IRIS_POINTS,
        # The models that lie in the package; a larger one would be fetched.
        additional_holistic_config={"model_complexity": 1, "refine_face_landmarks": True},
        reuse=False,
    )
    components = solution.holistic_components("XYZC", _IRIS_POINTS)
    return Estimate(components, np.ma.getdata(body.data), body.confidence)


def _by_landmarker(
    frames: Iterable[NDArray[np.uint8]], fps: float, size: tuple[int, int], model: Path
) -> Estimate:
    mediapipe = extras.load("mediapipe", "estimating poses")
    rows = []
    with closing(_landmarker(model)) as landmarker:
        for number, frame in enumerate(frames):
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
            )
            # Times in whole milliseconds, which have to grow.
            seen = landmarker.detect_for_video(image, round(1000 * number / min(fps, 1000)))
            rows.append(np.concatenate([*_parts(seen, size)]))
    whole = np.stack(rows)[:, None]
    return Estimate(_components(), whole[..., :3], whole[..., 3])


def _parts(seen: Any, size: tuple[int, int]) -> Iterator[NDArray[np.float64]]:
    """(points, 4) of each component: x, y, z, confidence, as ``pose-format`` fills them in."""
    for found, count, has_confidence in (
        (seen.pose_landmarks, 33, True),
        (seen.face_landmarks, _FACE_POINTS, False),
        (seen.left_hand_landmarks, 21, False),
        (seen.right_hand_landmarks, 21, False),
        (seen.pose_world_landmarks, 33, True),
    ):
        if not found:
            yield np.zeros((count, 4))
            continue
        if len(found) != count:
            raise PoseError(f"MediaPipe gave {len(found)} points of a part that has {count}")
        yield np.array(
            [
                (p.x * size[0], p.y * size[1], p.z, p.visibility if has_confidence else 1.0)
                for p in found
            ]
        )


def _components() -> list[Any]:
    """As ``pose-format`` has them, which asks an older MediaPipe for the names of the points."""
    header = extras.load("pose_format.pose_header", "writing .pose files")
    colors = extras.load("pose_format.utils.openpose", "writing .pose files").hand_colors
    body, face, hand = (
        extras.load(f"mediapipe.tasks.python.vision.{part}_landmarker", "estimating poses")
        for part in ("pose", "face", "hand")
    )
    body_names = list(body.PoseLandmark.__members__)
    hand_names = list(hand.HandLandmark.__members__)
    body_lines = _lines(body.PoseLandmarksConnections.POSE_LANDMARKS)
    hand_lines = _lines(hand.HandLandmarksConnections.HAND_CONNECTIONS)
    mesh = face.FaceLandmarksConnections
    face_lines = _lines(
        mesh.FACE_LANDMARKS_TESSELATION,
        mesh.FACE_LANDMARKS_LEFT_IRIS,
        mesh.FACE_LANDMARKS_RIGHT_IRIS,
    )
    return [
        header.PoseHeaderComponent(name, points, lines, of_lines, "XYZC")
        for name, points, lines, of_lines in (
            ("POSE_LANDMARKS", body_names, body_lines, [(255, 0, 0)]),
            ("FACE_LANDMARKS", list(map(str, range(_FACE_POINTS))), face_lines, [(128, 0, 0)]),
            ("LEFT_HAND_LANDMARKS", hand_names, hand_lines, colors),
            ("RIGHT_HAND_LANDMARKS", hand_names, hand_lines, colors),
            ("POSE_WORLD_LANDMARKS", body_names, body_lines, [(255, 0, 0)]),
        )
    ]


def _lines(*connections: Iterable[Any]) -> list[tuple[int, int]]:
    return [(line.start, line.end) for line in chain(*connections)]


def _landmarker(model: Path) -> Any:
    """A current MediaPipe's Holistic, for the frames of one video."""
    try:
        mediapipe = extras.load("mediapipe", "estimating poses with --model")
        vision = mediapipe.tasks.vision
        kind, options = vision.HolisticLandmarker, vision.HolisticLandmarkerOptions
        _components()
    except (MissingLibraryError, AttributeError) as error:
        raise MissingLibraryError(
            "estimating poses with --model needs a MediaPipe with `HolisticLandmarker`, and "
            f"there is none: {error.__cause__ or error}",
            remedy="pip install --upgrade mediapipe",
        ) from error
    try:
        return kind.create_from_options(
            options(
                base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(model)),
                running_mode=vision.RunningMode.VIDEO,
            )
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise PoseError(
            f"is not a model of MediaPipe's HolisticLandmarker: {_brief(error)}",
            where=model,
            remedy=f"download {_PUBLISHED}",
        ) from error


def _solution() -> Any:
    """The functions of ``pose-format`` that call an older MediaPipe's Holistic.

    Raises:
        MissingLibraryError: it is not installed, or of a version without it.
    """
    try:
        return extras.load("pose_format.utils.holistic", "estimating poses")
    except (MissingLibraryError, AttributeError, TypeError) as error:
        # There is none for a newer Python.
        older = f", or {extras.how_to_install('mediapipe')}" if sys.version_info < (3, 13) else ""
        raise MissingLibraryError(
            "without --model, estimating poses needs a MediaPipe with `solutions.holistic`, and "
            f"the one that is installed does not load: {error.__cause__ or error}",
            remedy=f"download {_PUBLISHED} and give it by --model" + older,
        ) from error


def _brief(error: Exception) -> str:
    """What MediaPipe says, without its trace."""
    return " ".join(str(error).partition("=== Source")[0].split())[:300]


_HUSHED: dict[str, int] = {"threads": 0, "stderr": -1}
_ONE_AT_A_TIME = Lock()


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what is written to stderr: MediaPipe's log goes there whatever one asks of it."""
    with _ONE_AT_A_TIME:
        _HUSHED["threads"] += 1
        if _HUSHED["threads"] == 1:
            _HUSHED["stderr"] = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
    try:
        yield
    finally:
        with _ONE_AT_A_TIME:
            _HUSHED["threads"] -= 1
            if _HUSHED["threads"] == 0:
                os.dup2(_HUSHED["stderr"], 2)
                os.close(_HUSHED["stderr"])
