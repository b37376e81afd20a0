"""A stream without a network: points of a clip's pose, the same ones whatever estimator saw them.

Coordinates are told by the shoulders: their middle is (0, 0), their distance 1. Both are medians
over the clip: frame by frame, noise of the shoulders would move every other point, and that the
signer leans or turns would be lost.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config import PoseStream
from spamo_cache.encoders import weights
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.errors import PoseError
from spamo_cache.poses import Pose, parts

Ints = NDArray[np.int64]

LIMIT = 100.0
"""Shoulder widths: no point lies farther off, and float16 holds more."""

_BODY = (
    "nose",
    *(side + name for name in ("eye", "ear", "shoulder", "elbow", "wrist") for side in "rl"),
)
_HAND = 21
_CONTOUR, _EYES, _MOUTH = range(27), range(36, 48), range(48, 68)
"""Of the 68 points that OpenPose, COCO-WholeBody and others find in a face: jaw and eyebrows,
eyes, lips."""
_FACE = (*_CONTOUR, *_EYES)
COUNTS = {
    "body": len(_BODY),
    "right-hand": _HAND,
    "left-hand": _HAND,
    "face": len(_FACE),
    "mouth": len(_MOUTH),
}
"""Part -> its points."""

# Points of MediaPipe's face mesh where the 68 points are; none of a nose.
_JAW = (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389)
_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_EYE_CORNERS = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
_MESH = dict(zip((*_FACE, *_MOUTH), (*_JAW, *_BROWS, *_EYE_CORNERS, *_LIPS), strict=True))


class PoseEncoder(Encoder):
    """One row per ``stride`` frames: x, y and confidence of each point, in the spec's order."""

    per = "frame"
    compilable = False

    def __init__(self, stream: PoseStream) -> None:
        super().__init__()
        self.place_rows(stream)
        self.width = 3 * sum(COUNTS[part] for part in stream.points)
        # Two coordinates, each moved and divided.
        self.tokens_per_row, self.flops_per_row = 1, 4 * self.width // 3
        # What a spec's words mean is told by `registry.SEMANTICS`; there is nothing else to hash.
        self.weights_sha256 = weights.sha256({}, {"kind": "pose"})

    def outline(self) -> PoseEncoder:
        """Itself: it has no network."""
        return self


def rows(pose: Pose, stream: PoseStream) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The rows of a clip, and which of them show anything.

    A point that was not seen is 0, 0 with a confidence of 0. A clip whose shoulders are never seen
    has rows of zeros, none of them valid.

    Args:
        pose: a row per frame of the clip, in pixels that are squares.

    Returns:
        (rows, width) and (rows,), every ``stride``-th frame.

    Raises:
        PoseError: the pose has none of the points of a part.
    """
    indices = places(pose, stream)
    known = indices >= 0
    points = np.where(known[:, None], pose.points[:, indices].astype(np.float64), 0)
    confidence = np.where(known, pose.confidence[:, indices], 0)
    frame = _frame_of_shoulders(pose)
    if frame is None:
        confidence = np.zeros_like(confidence)
    else:
        middle, distance = frame
        points = np.clip((points - middle) / distance, -LIMIT, LIMIT)
    seen = confidence > 0
    values = np.concatenate([np.where(seen[..., None], points, 0), confidence[..., None]], axis=2)
    shown = values[:: stream.stride].astype(np.float32)
    valid: NDArray[np.bool_] = seen[:: stream.stride].sum(axis=1) > 0
    return shown.reshape(len(shown), -1), valid


def places(pose: Pose, stream: PoseStream) -> Ints:
    """Where the points of a row stand in the pose, -1 for those that it lacks.

    Raises:
        PoseError: it has none of a part.
    """
    return np.concatenate([_places(pose, part) for part in stream.points])


def _frame_of_shoulders(pose: Pose) -> tuple[NDArray[np.float64], float] | None:
    """Their middle and their distance; None where they are never seen apart."""
    shoulders = parts(pose)["shoulders"]
    if len(shoulders) != 2:
        raise PoseError("the pose has no shoulders, by which its points are measured")
    seen = (pose.confidence[:, shoulders] > 0).all(axis=1)
    if not seen.any():
        return None
    right, left = pose.points[seen][:, shoulders].astype(np.float64).transpose(1, 0, 2)
    distance = float(np.median(np.hypot(*(left - right).T)))
    return (np.median((left + right) / 2, axis=0), distance) if distance > 0 else None


def _places(pose: Pose, part: str) -> Ints:
    found = parts(pose)
    if part == "body":
        places = _by_name(pose, found["upper-body"])
    elif part in {"face", "mouth"}:
        places = _of_face(pose, found["face"], _FACE if part == "face" else _MOUTH)
    else:
        hand = found[part]
        # OpenPose's 135 points have one wrist for arm and hand.
        wrist = found[part.replace("hand", "wrist")] if len(hand) == _HAND - 1 else hand[:0]
        places = np.full(_HAND, -1)
        both = np.concatenate([wrist, hand])[:_HAND]
        places[: len(both)] = both
    if (places < 0).all():
        raise PoseError(
            f"the pose has no points of {part.replace('-', ' ')}",
            remedy=f"leave {part} out of the stream's `points`, or take another estimator",
        )
    return places


def _by_name(pose: Pose, body: Ints) -> Ints:
    """The points of the upper body in one order: estimators have their own."""
    places = np.full(len(_BODY), -1)
    for k in body.tolist():
        name = pose.names[k].partition("/")[2].lower().replace("_", "")
        short = re.sub("^(right|left)", lambda side: side[0][0], name)
        places[_BODY.index(short)] = k
    return places


def _of_face(pose: Pose, face: Ints, wanted: tuple[int, ...] | range) -> Ints:
    names = {pose.names[k]: k for k in face.tolist()}
    if any(name.startswith("FACE_LANDMARKS/") for name in names):
        return np.array([names.get(f"FACE_LANDMARKS/{_MESH[k]}", -1) for k in wanted])
    # The other estimators have the 68 in their order, some of them pupils behind.
    return np.array([face[k] if k < len(face) else -1 for k in wanted], np.int64)
