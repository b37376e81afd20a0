"""A procedural signer: appearance from a seed, one picture from one pose."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 128
"""Width and height of a picture, pixels."""

GRAINS = 8
"""Pictures' worth of noise that a sensor has."""

Point = NDArray[np.float64]
Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]

# Four corners of the palm, and where the hole of a ring is.
_PALM = np.array([(0.21, 0.17), (-0.21, 0.14), (-0.16, -0.30), (0.16, -0.30), (0.29, 0.17)])
_SHIFT = 4  # cv2 draws at 1/16 pixel
_SKINS: tuple[Colour, ...] = (
    (236, 198, 172), (225, 175, 140), (205, 150, 110),
    (165, 110, 80), (125, 82, 60), (240, 205, 185),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (35, 25, 20),
    (110, 70, 40),
    (200, 160, 90),
    (65, 60, 60),
    (90, 45, 30),
)


@dataclass(frozen=True, slots=True)
class Hand:
    """Where a hand is and what it shows; interpolating two of them is linear in every field."""

    x: float
    y: float
    """Palm centre in shoulder widths from the neck: x to the viewer's right, y up."""
    roll: float
    """Turn in the picture plane, radians."""
    shape: NDArray[np.float64]
    """(7,): four fingers, spread, thumb, ring; see :class:`lexicon.Handshape`."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Everything that moves."""

    right: Hand
    left: Hand
    head: tuple[float, float] = (0.0, 0.0)
    """Displacement of the head, shoulder widths."""
    mouth: float = 0.2
    brow: float = 0.0
    camera: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Shift in pixels and zoom."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A body, its clothes, its room and its way of signing; all drawn from ``seed``."""

    seed: int
    skin: Colour
    shirt: Colour
    hair: Colour
    wall: tuple[Colour, Colour]
    shoulder: float
    """Shoulder width, pixels."""
    neck: tuple[float, float]
    hand: float
    """Hand length, shoulder widths."""
    head: float
    long_hair: bool
    sleeve: float
    """Share of the forearm that is covered."""
    tempo: float
    amplitude: float
    style: float
    """Habitual roll of the hands, radians."""
    jitter: float
    noise: float
    """Standard deviation of the sensor noise, grey levels."""

    @classmethod
    def from_seed(cls, seed: int) -> Signer:
        """The same seed is the same person anywhere."""
        rng = random.Random(f"signer {seed}")  # noqa: S311

        def near(colour: Colour, spread: int) -> Colour:
            r, g, b = (min(255, max(0, c + rng.randint(-spread, spread))) for c in colour)
            return r, g, b

        def any_colour(low: int, high: int) -> Colour:
            return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)

        skin = near(rng.choice(_SKINS), 10)
        wall = any_colour(100, 235)
        return cls(
            seed=seed,
            skin=skin,
            shirt=any_colour(15, 115),
            hair=near(rng.choice(_HAIRS), 12),
            wall=(wall, near(wall, 45)),
            shoulder=rng.uniform(41, 46),
            neck=(SIZE / 2 + rng.uniform(-4, 4), rng.uniform(54, 60)),
            hand=rng.uniform(0.72, 0.82),
            head=rng.uniform(0.36, 0.42),
            long_hair=rng.random() < 0.4,
            sleeve=rng.choice((0.0, 0.4, 0.85)),
            tempo=rng.uniform(0.9, 1.12),
            amplitude=rng.uniform(0.88, 1.12),
            style=rng.uniform(-0.12, 0.12),
            jitter=rng.uniform(0.1, 0.5),
            noise=rng.uniform(1.0, 4.0),
        )

    def draw(self, pose: Pose, rng: np.random.Generator) -> Picture:
        """One picture.

        Args:
            pose: body state.
            rng: source of the sensor noise.

        Returns:
            (128, 128, 3) uint8 RGB.
        """
        picture = _wall(self.wall)
        self._torso(picture)
        self._head(picture, self.face(pose), pose)
        for side, hand in ((1.0, pose.left), (-1.0, pose.right)):
            self._arm(picture, *self.arm(hand, side))
            self._hand(picture, hand, side)
        return self._camera(picture, pose.camera, rng)

    def _place(self, x: float, y: float) -> Point:
        return np.array([self.neck[0] + x * self.shoulder, self.neck[1] - y * self.shoulder])

    def face(self, pose: Pose) -> Point:
        """Middle of the head, before the camera."""
        return _moved(self._place(*pose.head), y=-1.15 * self.head * self.shoulder)

    def arm(self, hand: Hand, side: float) -> tuple[Point, Point, Point]:
        """Shoulder, elbow and wrist, before the camera; side is 1 of the signer's left arm."""
        s = self.shoulder
        down = np.array([-np.sin(hand.roll) * -side, np.cos(hand.roll)])
        wrist = self._place(hand.x, hand.y) + down * self.hand * s * 0.30
        shoulder = self._place(side * 0.45, -0.14)
        return shoulder, _elbow(shoulder, wrist, 0.86 * s, 0.84 * s, side), wrist

    def _torso(self, picture: Picture) -> None:
        s = self.shoulder
        corners = [
            (-0.5, -0.10),
            (-0.16, 0.04),
            (0.16, 0.04),
            (0.5, -0.10),
            (0.46, -2),
            (-0.46, -2),
        ]
        _polygon(picture, [self._place(x, y) for x, y in corners], self.shirt)
        for x in (-0.42, 0.42):
            _disc(picture, self._place(x, -0.16), 0.13 * s, self.shirt)

    def _head(self, picture: Picture, at: Point, pose: Pose) -> None:
        r = self.head * self.shoulder
        if self.long_hair:
            _ellipse(picture, _moved(at, y=0.3 * r), (0.92 * r, 1.25 * r), self.hair)
        _line(picture, self._place(0, -0.05), at, _shade(self.skin, 0.82), 0.26 * self.shoulder)
        _ellipse(picture, at, (0.78 * r, r), self.skin)
        _ellipse(picture, _moved(at, y=-0.3 * r), (0.84 * r, 0.82 * r), self.hair, arc=(180, 360))
        for side in (-1, 1):
            eye = _moved(at, x=side * 0.32 * r)
            _disc(picture, eye, 0.11 * r, (35, 30, 30))
            brow = _moved(eye, y=-(0.26 + 0.2 * pose.brow) * r)
            _line(
                picture,
                _moved(brow, x=-0.2 * r),
                _moved(brow, x=0.2 * r),
                _shade(self.hair, 0.9),
                1.5,
            )
        _ellipse(
            picture,
            _moved(at, y=0.52 * r),
            (0.26 * r, (0.06 + 0.22 * pose.mouth) * r),
            (150, 60, 70),
        )

    def _arm(self, picture: Picture, shoulder: Point, elbow: Point, wrist: Point) -> None:
        s = self.shoulder
        cloth = _shade(self.shirt, 1.15)
        _outlined(picture, shoulder, elbow, cloth, 0.24 * s)
        _outlined(picture, elbow, wrist, self.skin, 0.17 * s)
        if self.sleeve:
            _outlined(picture, elbow, elbow + (wrist - elbow) * self.sleeve, cloth, 0.21 * s)

    def on_hand(self, hand: Hand, side: float, points: Point) -> Point:
        """Points of a hand, (n, 2), before the camera.

        Args:
            points: in hand lengths from the palm's centre: towards the thumb, along the fingers.
        """
        size = self.hand * self.shoulder
        cos, sin = np.cos(hand.roll), np.sin(hand.roll)
        x, y = points.T
        x, y = x * cos + y * sin, -x * sin + y * cos
        offsets = np.stack([-side * x * size, -y * size], axis=1)
        placed: Point = self._place(hand.x, hand.y) + offsets
        return placed

    def _hand(self, picture: Picture, hand: Hand, side: float) -> None:
        """Palm, thumb and four fingers, the folded ones as knuckles; dark edges keep them apart."""
        size, ring = self.hand * self.shoulder, hand.shape[6]
        placed = self.on_hand(hand, side, np.concatenate([_PALM, fingers(hand).reshape(10, 2)]))
        palm, hole, strokes = placed[:4], placed[4], placed[5:].reshape(5, 2, 2)
        edge, light = _shade(self.skin, 0.45), _shade(self.skin, 1.08)
        width = 0.115 * size
        _polygon(picture, palm, edge, grow=2)
        for start, end in strokes:
            _line(picture, start, end, edge, width + 2)
        _polygon(picture, palm, self.skin)
        for start, end in strokes:
            _line(picture, start, end, edge, width + 1.2)
            _line(picture, start, end, light, width)
        if ring > 0.5:
            _disc(picture, hole, 0.155 * size, light)
            _disc(picture, hole, 0.075 * size, edge)

    def _camera(
        self, picture: Picture, camera: tuple[float, float, float], rng: np.random.Generator
    ) -> Picture:
        matrix = filmed(camera)
        moved = cv2.warpAffine(
            picture, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        grain = _grain()[rng.integers(GRAINS)] * self.noise
        noisy: Any = cv2.add(moved, grain.astype(np.int16), dtype=cv2.CV_8U)
        return cast("Picture", noisy)


def fingers(hand: Hand) -> Point:
    """Root and tip of the four fingers, the one beside the thumb first, and of the thumb.

    Returns:
        (5, 2, 2), as :meth:`Signer.on_hand` takes points.
    """
    straights, spread, thumb, ring = hand.shape[:4], *hand.shape[4:7]
    strokes = []
    for index, straight in enumerate(straights):
        offset = 1.5 - index
        root = (0.135 * offset, 0.14 - 0.02 * abs(offset))
        angle = spread * offset
        length = 0.10 + 0.44 * straight * (0.86 if index in (0, 3) else 1.0)
        tip = (root[0] + length * np.sin(angle), root[1] + length * np.cos(angle))
        if index == 0 and ring > 0:
            tip = (0.30 * ring + tip[0] * (1 - ring), 0.38 * ring + tip[1] * (1 - ring))
        strokes.append((root, tip))
    x, y = (out * thumb + across * (1 - thumb) for out, across in ((0.52, -0.02), (0.10, 0.06)))
    if ring > 0:
        x, y = 0.44 * ring + x * (1 - ring), 0.22 * ring + y * (1 - ring)
    return np.array([*strokes, ((0.16, -0.16), (x, y))])


def filmed(camera: tuple[float, float, float]) -> NDArray[np.float64]:
    """What a camera's shift and zoom make of points: a matrix (2, 3)."""
    dx, dy, zoom = camera
    shift = (1 - zoom) * SIZE / 2
    return np.array([[zoom, 0, shift + dx], [0, zoom, shift + dy]])


@cache
def _grain() -> NDArray[np.float64]:
    """A few pictures' worth of noise; drawing it anew for each would cost more than the signer."""
    return np.random.default_rng(0).normal(size=(GRAINS, SIZE, SIZE, 1)).repeat(3, axis=3)


def _wall(colours: tuple[Colour, Colour]) -> Picture:
    steps = np.linspace(0, 1, SIZE)[:, None, None]
    column = np.array(colours[0]) * (1 - steps) + np.array(colours[1]) * steps
    return np.repeat(column.astype(np.uint8), SIZE, axis=1)


def _elbow(shoulder: Point, wrist: Point, upper: float, lower: float, side: float) -> Point:
    """Two-link inverse kinematics; of two solutions, the elbow that points down and outwards."""
    reach = wrist - shoulder
    distance = float(np.clip(np.linalg.norm(reach), 1e-6, (upper + lower) * 0.999))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = np.sqrt(max(upper**2 - along**2, 0.0))
    unit = reach / max(float(np.linalg.norm(reach)), 1e-6)
    normal = np.array([-unit[1], unit[0]])
    first = shoulder + along * unit + aside * normal
    second = shoulder + along * unit - aside * normal
    lowest: Point = max(first, second, key=lambda p: p[1] + 0.8 * side * (p[0] - shoulder[0]))
    return lowest


def _moved(point: Point, *, x: float = 0.0, y: float = 0.0) -> Point:
    moved: Point = point + np.array([x, y])
    return moved


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, int(c * factor)) for c in colour)
    return r, g, b


def _fixed(point: Point) -> tuple[int, int]:
    return round(float(point[0]) * 16), round(float(point[1]) * 16)


def _line(picture: Picture, a: Point, b: Point, colour: Colour, width: float) -> None:
    cv2.line(picture, _fixed(a), _fixed(b), colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def _outlined(picture: Picture, a: Point, b: Point, colour: Colour, width: float) -> None:
    _line(picture, a, b, _shade(colour, 0.55), width + 2)
    _line(picture, a, b, colour, width)


def _disc(picture: Picture, centre: Point, radius: float, colour: Colour) -> None:
    cv2.circle(picture, _fixed(centre), round(radius * 16), colour, -1, cv2.LINE_AA, _SHIFT)


def _ellipse(
    picture: Picture,
    centre: Point,
    axes: tuple[float, float],
    colour: Colour,
    arc: tuple[int, int] = (0, 360),
) -> None:
    half = (round(axes[0] * 16), round(axes[1] * 16))
    cv2.ellipse(picture, _fixed(centre), half, 0, *arc, colour, -1, cv2.LINE_AA, _SHIFT)


def _polygon(picture: Picture, corners: Iterable[Point], colour: Colour, grow: int = 0) -> None:
    points = np.array([_fixed(corner) for corner in corners], np.int32)
    if grow:
        cv2.polylines(picture, [points], True, colour, 2 * grow, cv2.LINE_AA, _SHIFT)
    cv2.fillPoly(picture, [points], colour, cv2.LINE_AA, _SHIFT)
