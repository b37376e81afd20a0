"""What an estimator of poses sees of a drawn clip: points that tremble, and hands that it loses.

The components and points are those of MediaPipe Holistic, as far as the drawing has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spamo_cache.datasets.signed_weather import signer as drawing
from spamo_cache.datasets.signed_weather.animate import FPS
from spamo_cache.datasets.signed_weather.signer import SIZE, Hand, Point, Signer, filmed, fingers
from spamo_cache.poses import Pose

DROP_OUT = 0.1
"""Share of the frames in which a hand is not found, of the poses that come with the corpus."""
_TREMBLE = 0.6
"""Standard deviation of a point, pixels."""
_LOST_FRAMES = 4.0
"""How long a hand is lost on the average."""

_BODY = (
    *("NOSE", "LEFT_EYE", "RIGHT_EYE", "MOUTH_LEFT", "MOUTH_RIGHT", "LEFT_SHOULDER"),
    *("RIGHT_SHOULDER", "LEFT_ELBOW", "RIGHT_ELBOW", "LEFT_WRIST", "RIGHT_WRIST"),
)
# Of MediaPipe's 468 points of a face, in shares of the head's radius from its middle: the oval,
# the tip of the nose, corners of the eyes, the brows.
_FACE = {
    "10": (0.0, -1.0), "152": (0.0, 1.0), "234": (-0.78, 0.0), "454": (0.78, 0.0),
    "1": (0.0, 0.25), "33": (-0.43, 0.0), "133": (-0.21, 0.0), "362": (0.21, 0.0),
    "263": (0.43, 0.0), "105": (-0.32, -0.26), "334": (0.32, -0.26),
}  # fmt: skip
_FACE_POINTS = np.array(list(_FACE.values()))
_BROWS = np.array([(0.0, 0.2 * (name in {"105", "334"})) for name in _FACE])
# Corners, outer and inner middle of the lips; x and y in shares of the mouth's half axes.
_MOUTH = {
    "61": (-1.0, 0.0), "291": (1.0, 0.0), "0": (0.0, -1.0), "17": (0.0, 1.0),
    "13": (0.0, -0.5), "14": (0.0, 0.5),
}  # fmt: skip
_MOUTH_POINTS = np.array(list(_MOUTH.values()))
# Nose, eyes and corners of the mouth, the signer's left first.
_HEAD = np.array([(0.0, 0.25), (0.32, 0.0), (-0.32, 0.0), (0.26, 0.52), (-0.26, 0.52)])
_HAND = (
    "WRIST",
    *("THUMB_CMC", "THUMB_MCP", "THUMB_IP", "THUMB_TIP"),
    *(
        f"{finger}_FINGER_{joint}" if finger != "PINKY" else f"PINKY_{joint}"
        for finger in ("INDEX", "MIDDLE", "RING", "PINKY")
        for joint in ("MCP", "PIP", "DIP", "TIP")
    ),
)
_ALONG = np.array([0.0, 1 / 3, 2 / 3, 1.0])[:, None]
_COMPONENTS: dict[str, tuple[str, ...]] = {
    "POSE_LANDMARKS": _BODY,
    "FACE_LANDMARKS": (*_FACE, *_MOUTH),
    "LEFT_HAND_LANDMARKS": _HAND,
    "RIGHT_HAND_LANDMARKS": _HAND,
}
_NAMES = tuple(f"{name}/{point}" for name, points in _COMPONENTS.items() for point in points)
_HANDS = {
    side: slice(len(_NAMES) - back * len(_HAND), len(_NAMES) - (back - 1) * len(_HAND))
    for side, back in (("left", 2), ("right", 1))
}


def estimated(
    signer: Signer, poses: Sequence[drawing.Pose], seed: int, drop_out: float = DROP_OUT
) -> Pose:
    """The pose of a clip.

    Args:
        poses: of the body, frame by frame.
        seed: of the clip; the same gives the same tremble at any ``drop_out``, and a hand that is
            lost at one is not found at a higher one.
        drop_out: share of the frames in which a hand is not found, 0 to 0.9, in runs.
    """
    rng = np.random.default_rng([seed, 1])
    points = _seen(signer, poses)
    points += rng.normal(0, _TREMBLE, points.shape)
    confidence = np.ones(points.shape[:2], np.float32)
    confidence[:, : len(_BODY)] = rng.uniform(0.8, 1, (len(poses), len(_BODY)))
    for hand in _HANDS.values():
        middle = points[:, hand].mean(axis=1)
        outside = ((middle < 0) | (middle > SIZE)).any(axis=1)
        confidence[outside | _lost(rng, len(poses), drop_out), hand] = 0
    # Rounded, so that no last bit of a machine's sine shows.
    shown = np.where(confidence[..., None] > 0, points.round(2), 0).astype(np.float32)
    return Pose(FPS, SIZE, SIZE, shown, confidence.round(3), _NAMES)


def _lost(rng: np.random.Generator, frames: int, share: float) -> NDArray[np.bool_]:
    """Frames in which a hand is not found: runs of some length, of this share in all."""
    starts, ends = rng.uniform(size=(2, frames))
    begin = share / _LOST_FRAMES / (1 - share + share / _LOST_FRAMES)
    lost = np.zeros(frames, bool)
    now = bool(starts[0] < share)
    for frame in range(frames):
        lost[frame] = now
        now = bool(starts[frame] < begin or (now and ends[frame] >= 1 / _LOST_FRAMES))
    return lost


def _seen(signer: Signer, poses: Sequence[drawing.Pose]) -> NDArray[np.float64]:
    """Where the points of pictures are, (frames, points, 2), in pixels from the upper left."""
    points = np.empty((len(poses), len(_NAMES), 2))
    mouths = np.array([[(0.26, 0.06 + 0.22 * pose.mouth)] for pose in poses])
    brows = np.array([pose.brow for pose in poses])[:, None, None]
    centres = np.array([[signer.face(pose)] for pose in poses])
    head = np.broadcast_to(_HEAD, (len(poses), *_HEAD.shape))
    lips = _MOUTH_POINTS * mouths + (0, 0.52)
    shares = np.concatenate([head, _FACE_POINTS - _BROWS * brows, lips], axis=1)
    placed = centres + shares * signer.head * signer.shoulder
    points[:, : len(_HEAD)] = placed[:, : len(_HEAD)]
    points[:, len(_BODY) : _HANDS["left"].start] = placed[:, len(_HEAD) :]
    for row, pose in zip(points, poses, strict=True):
        for offset, (name, hand) in enumerate((("left", pose.left), ("right", pose.right))):
            side = 1.0 if name == "left" else -1.0
            row[len(_HEAD) + offset : len(_BODY) : 2] = arm = signer.arm(hand, side)
            row[_HANDS[name]] = _joints(signer, hand, side, arm[2])
    matrices = np.array([filmed(pose.camera) for pose in poses])
    # A pixel's middle is half a pixel from its corner.
    moved: NDArray[np.float64] = points @ matrices[..., :2].mT + matrices[:, None, :, 2] + 0.5
    return moved


def _joints(signer: Signer, hand: Hand, side: float, wrist: Point) -> NDArray[np.float64]:
    """The 21 points of a hand: the wrist, then four of each finger from the thumb on."""
    strokes = fingers(hand)[[4, 0, 1, 2, 3]]
    roots, tips = strokes[:, :1], strokes[:, 1:]
    own = (roots + (tips - roots) * _ALONG).reshape(20, 2)
    return np.concatenate([[wrist], signer.on_hand(hand, side, own)])
