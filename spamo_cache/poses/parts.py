"""Which points are the hands, the face, the mouth: for every estimator whose files are read."""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# FACEMESH_LIPS of MediaPipe.
_LIPS = (
    *(0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191),
    *(267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
)
_PARTS = {
    "right-hand": (
        r"RIGHT_HAND_LANDMARKS/.*",
        r"hand_right_keypoints_2d/.*",
        r"RIGHT_HAND(_13[36])?/.*",
        r"BODY_135/R(Thumb|Index|Middle|Ring|Pinky).*",
    ),
    "left-hand": (
        r"LEFT_HAND_LANDMARKS/.*",
        r"hand_left_keypoints_2d/.*",
        r"LEFT_HAND(_13[36])?/.*",
        r"BODY_135/L(Thumb|Index|Middle|Ring|Pinky).*",
    ),
    "face": (
        r"FACE_LANDMARKS/.*",
        r"face_keypoints_2d/.*",
        r"FACE(_13[36])?/.*",
        r"BODY_135/(FaceContour|.EyeBrow|Nose(Upper|Lower)|[RL]Eye\d|[OI]Mouth|.Pupil).*",
    ),
    "mouth": (
        f"FACE_LANDMARKS/({'|'.join(map(str, _LIPS))})",
        r"face_keypoints_2d/FL[OI]_.*",
        r"FACE(_13[36])?/face[-_](4[89]|5\d|6[0-7])",
        r"BODY_135/[OI]Mouth.*",
    ),
    "right-wrist": (
        r"POSE_LANDMARKS/RIGHT_WRIST",
        r"(pose_keypoints_2d|BODY_135)/RWrist",
        r"BODY(_13[36])?/right_wrist",
    ),
    "left-wrist": (
        r"POSE_LANDMARKS/LEFT_WRIST",
        r"(pose_keypoints_2d|BODY_135)/LWrist",
        r"BODY(_13[36])?/left_wrist",
    ),
    "shoulders": (
        r"POSE_LANDMARKS/(RIGHT|LEFT)_SHOULDER",
        r"(pose_keypoints_2d|BODY_135)/[RL]Shoulder",
        r"BODY(_13[36])?/(right|left)_shoulder",
    ),
    "upper-body": (
        r"POSE_LANDMARKS/(NOSE|(RIGHT|LEFT)_(EYE|EAR|SHOULDER|ELBOW|WRIST))",
        r"(pose_keypoints_2d|BODY_135)/(Nose|[RL](Eye|Ear|Shoulder|Elbow|Wrist))",
        r"BODY(_13[36])?/(nose|(right|left)_(eye|ear|shoulder|elbow|wrist))",
    ),
}
_PATTERNS = {part: re.compile("|".join(patterns)) for part, patterns in _PARTS.items()}


class Named(Protocol):
    """A :class:`Pose`, or all that a file holds."""

    @property
    def names(self) -> tuple[str, ...]: ...


def parts(pose: Named) -> dict[str, NDArray[np.int64]]:
    """Indices of the points of ``right-hand``, ``left-hand``, ``face``, ``mouth``,
    ``right-wrist``, ``left-wrist``, ``shoulders`` and ``upper-body``.

    Right and left are the signer's own; of the shoulders the right one comes first. Files of
    MediaPipe Holistic, OpenPose (25 and 135 points), COCO-WholeBody and AlphaPose (136) are known
    by the names of their components. What a pose does not have is empty.
    """
    found = {
        part: [k for k, name in enumerate(pose.names) if pattern.fullmatch(name)]
        for part, pattern in _PATTERNS.items()
    }
    found["shoulders"].sort(key=lambda k: pose.names[k].partition("/")[2][0].lower() != "r")
    return {part: np.array(indices, np.int64) for part, indices in found.items()}
