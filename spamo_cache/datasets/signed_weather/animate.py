"""Signs -> poses: movements, transitions, the rest position, head and mouth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spamo_cache.datasets.signed_weather.lexicon import HANDSHAPES, PLACES, Sign
from spamo_cache.datasets.signed_weather.signer import Hand, Pose, Signer

FPS = 15
FRAMES_PER_SIGN = 11
FRAMES_PER_TRANSITION = 4
_AMPLITUDE = 0.27  # shoulder widths


@dataclass(frozen=True, slots=True)
class Beat:
    """One frame before it is drawn."""

    pose: Pose
    sign: int | None
    """Index of the sign being performed; None in transitions and at rest."""


def shape(name: str) -> np.ndarray:
    """A handshape as the (7,) vector that hands interpolate between."""
    given = HANDSHAPES[name]
    return np.array([*given.fingers, given.spread, given.thumb, given.ring], dtype=float)


def offset(movement: str, t: float) -> tuple[float, float]:
    """Displacement of the hand at time ``t`` in 0..1, in units of the amplitude.

    Opposite movements pass through the same positions, up and down or left and right in reverse,
    cw and ccw the other way round the circle, so that no single picture tells them apart.
    """
    turn = 2 * math.pi * 1.5 * t
    paths = {
        "up": (0.0, _stroke(t)),
        "down": (0.0, _stroke(1 - t)),
        "right": (_stroke(t), 0.0),
        "left": (_stroke(1 - t), 0.0),
        "cw": (math.sin(turn), math.cos(turn)),
        "ccw": (-math.sin(turn), math.cos(turn)),
        "shake": (0.8 * math.sin(2 * math.pi * 3 * t), 0.0),
        "tap": (0.0, -0.8 * abs(math.sin(2 * math.pi * t))),
        "arc": (1.2 * (2 * t - 1), math.sin(math.pi * t)),
        "hold": (0.0, 0.0),
    }
    return paths[movement]


def _stroke(t: float) -> float:
    """Two slow strokes from -1 to 1, each with a quick return."""
    phase = (2 * t) % 1.0 if t < 1 else 1.0
    return 2 * phase / 0.75 - 1 if phase < 0.75 else 1 - 2 * (phase - 0.75) / 0.25


def rest(side: float, roll: float = 0.35) -> Hand:
    """A hand lying low beside the body (side -1 is the signer's right, the viewer's left)."""
    return Hand(x=side * 0.62, y=-1.22, roll=roll, shape=shape("flat"))


def perform(signs: Sequence[Sign], signer: Signer, rng: np.random.Generator) -> Iterator[Beat]:
    """The beats of a whole clip: rest, each sign with a transition before it, rest."""
    still = Pose(right=rest(-1), left=rest(1))
    beats = [Beat(still, None)] * 2
    pace = signer.tempo * rng.uniform(0.92, 1.08)
    gap = max(2, round(FRAMES_PER_TRANSITION / pace))
    for index, sign in enumerate(signs):
        poses = list(_sign(sign, signer, max(8, round(FRAMES_PER_SIGN / pace)), rng))
        beats += [Beat(pose, None) for pose in _between(beats[-1].pose, poses[0], gap)]
        beats += [Beat(pose, index) for pose in poses]
    beats += [Beat(pose, None) for pose in _between(beats[-1].pose, still, gap)]
    yield from _filmed([*beats, Beat(still, None)], signer, rng)


def _sign(sign: Sign, signer: Signer, frames: int, rng: np.random.Generator) -> Iterator[Pose]:
    x, y = np.array(PLACES[sign.place]) + rng.normal(0, 0.05, 2)
    roll = sign.roll + signer.style + rng.normal(0, 0.08)
    amplitude = _AMPLITUDE * signer.amplitude * rng.uniform(0.9, 1.1)
    hand = shape(sign.handshape)
    for frame in range(frames):
        t = frame / (frames - 1)
        dx, dy = offset(sign.movement, t)
        right = Hand(x + amplitude * dx, y + amplitude * dy, roll, hand)
        left = replace(right, x=-right.x) if sign.both else rest(1)
        head = (0.09 * math.sin(2 * math.pi * 2.5 * t), 0.0) if sign.head_shake else (0.0, 0.0)
        mouth = 0.35 + 0.3 * math.sin(1.7 * frame)
        yield Pose(right, left, head, mouth, brow=float(sign.head_shake))


def _between(start: Pose, end: Pose, frames: int) -> Iterator[Pose]:
    for frame in range(1, frames + 1):
        t = 0.5 - 0.5 * math.cos(math.pi * frame / (frames + 1))
        yield Pose(_mix(start.right, end.right, t), _mix(start.left, end.left, t))


def _mix(a: Hand, b: Hand, t: float) -> Hand:
    def lerp(u: float, v: float) -> float:
        return u + (v - u) * t

    mixed = a.shape + (b.shape - a.shape) * t
    return Hand(lerp(a.x, b.x), lerp(a.y, b.y), lerp(a.roll, b.roll), mixed)


def _filmed(beats: Sequence[Beat], signer: Signer, rng: np.random.Generator) -> Iterator[Beat]:
    """A hand-held camera: a shift that wanders, a zoom that stays."""
    zoom = rng.uniform(0.96, 1.05)
    shift = rng.normal(0, 1.5, 2)
    for beat in beats:
        shift = 0.95 * shift + rng.normal(0, signer.jitter, 2)
        camera = (float(shift[0]), float(shift[1]), float(zoom))
        yield Beat(replace(beat.pose, camera=camera), beat.sign)
