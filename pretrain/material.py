"""Pretraining material: signers and poses that the corpus never shows.

Signers have seeds from 10,000 on; the corpus uses 1 to 8. Handshape, place and movement are drawn
independently of each other, so the material knows no lexicon and no sentence.
"""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from spamo_cache.datasets.signed_weather.animate import offset, perform, rest, shape
from spamo_cache.datasets.signed_weather.lexicon import HANDSHAPES, MOVEMENTS, PLACES, Sign
from spamo_cache.datasets.signed_weather.signer import SIZE, Hand, Pose, Signer

SHAPES = tuple(HANDSHAPES)
PLACE_NAMES = tuple(PLACES)
FIRST_SIGNER = 10_000
INPUT = 64
"""Side of the encoders' input, pixels."""


@dataclass(frozen=True)
class Stills:
    """Single pictures with what they show."""

    pictures: torch.Tensor
    """(N, 3, 64, 64) uint8."""
    shape: torch.Tensor
    """(N,) index into SHAPES."""
    place: torch.Tensor
    """(N,) index into PLACE_NAMES."""
    both: torch.Tensor
    """(N,) bool: the left hand mirrors the right."""
    palms: torch.Tensor
    """(N, 2, 2) palm centres, right and left, x and y in 0..1 of the picture."""


@dataclass(frozen=True)
class Scenes:
    """Short videos of random signs."""

    pictures: list[torch.Tensor]
    """Each (T, 3, 64, 64) uint8."""
    movement: list[torch.Tensor]
    """Each (T,) index into MOVEMENTS; -1 in transitions and at rest."""
    speed: list[torch.Tensor]
    """Each (T, 2) displacement of the right palm since the frame before, shoulder widths."""
    head_shake: list[torch.Tensor]
    """Each (T,) bool."""
    palm: list[torch.Tensor]
    """Each (T, 2) centre of the right palm, x and y in 0..1 of the picture."""


def shrink(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, 64, 64) uint8, resized as extraction does it."""
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    return F.interpolate(batch, (INPUT, INPUT), mode="bicubic", antialias=True).contiguous()


def stills(count: int, seed: int, workers: int = 2) -> Stills:
    """Random poses of random signers."""
    parts = _parallel(_stills, count, seed, workers)
    return Stills(*(torch.cat([part[field] for part in parts]) for field in range(5)))


def scenes(count: int, seed: int, workers: int = 2) -> Scenes:
    """Videos of three to five random signs by random signers."""
    parts = _parallel(_scenes, count, seed, workers)
    return Scenes(*([item for part in parts for item in part[field]] for field in range(5)))


def random_sign(rng: random.Random) -> Sign:
    """Any handshape at any place with any movement."""
    return Sign(
        handshape=rng.choice(SHAPES),
        place=rng.choice(PLACE_NAMES),
        movement=rng.choice(MOVEMENTS),
        roll=0.9 if rng.random() < 0.1 else 0.0,
        both=rng.random() < 0.35,
        head_shake=rng.random() < 0.15,
    )


def _parallel(work, count: int, seed: int, workers: int) -> list:
    blocks = [(min(500, count - start), seed * 1_000_003 + start) for start in range(0, count, 500)]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(work, *zip(*blocks, strict=True)))


def _stills(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    torch.set_num_threads(1)
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    facts = np.empty((count, 3), np.int64)
    palms = np.empty((count, 2, 2), np.float32)
    for index in range(count):
        signer = Signer.from_seed(FIRST_SIGNER + choose.randrange(1_000_000))
        sign = random_sign(choose)
        pose = _pose(sign, signer, choose, rng)
        pictures[index] = signer.draw(pose, rng)
        facts[index] = SHAPES.index(sign.handshape), PLACE_NAMES.index(sign.place), sign.both
        for side, hand in enumerate((pose.right, pose.left)):
            palms[index, side] = _seen_at(hand, signer, pose)
    shapes, places, both = torch.from_numpy(facts).unbind(1)
    return shrink(pictures), shapes, places, both.bool(), torch.from_numpy(palms)


def _pose(sign: Sign, signer: Signer, choose: random.Random, rng: np.random.Generator) -> Pose:
    x, y = np.array(PLACES[sign.place]) + rng.normal(0, 0.06, 2)
    dx, dy = offset(sign.movement, choose.random())
    roll = sign.roll + signer.style + rng.normal(0, 0.1)
    right = Hand(x + 0.27 * dx, y + 0.27 * dy, roll, shape(sign.handshape))
    left = replace(right, x=-right.x) if sign.both else rest(1)
    head = (rng.normal(0, 0.04), 0.0)
    shift = rng.normal(0, 2.0, 2)
    camera = (float(shift[0]), float(shift[1]), float(rng.uniform(0.95, 1.06)))
    return Pose(right, left, head, rng.uniform(0, 0.7), float(rng.random() < 0.2), camera)


def _seen_at(hand: Hand, signer: Signer, pose: Pose) -> tuple[float, float]:
    """Where a palm stands in the picture, 0..1."""
    dx, dy, zoom = pose.camera
    shift = (1 - zoom) * SIZE / 2
    x = signer.neck[0] + hand.x * signer.shoulder
    y = signer.neck[1] - hand.y * signer.shoulder
    return (zoom * x + shift + dx) / SIZE, (zoom * y + shift + dy) / SIZE


def _scenes(count: int, seed: int) -> tuple[list[torch.Tensor], ...]:
    torch.set_num_threads(1)
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    pictures, movements, speeds, shakes, palms = [], [], [], [], []
    for _ in range(count):
        signer = Signer.from_seed(FIRST_SIGNER + choose.randrange(1_000_000))
        signs = [random_sign(choose) for _ in range(choose.randint(3, 5))]
        beats = list(perform(signs, signer, rng))
        drawn = np.stack([signer.draw(beat.pose, rng) for beat in beats])
        at = np.array([(beat.pose.right.x, beat.pose.right.y) for beat in beats], np.float32)
        pictures.append(shrink(drawn))
        speeds.append(torch.from_numpy(np.diff(at, axis=0, prepend=at[:1])))
        performed = [None if beat.sign is None else signs[beat.sign] for beat in beats]
        movements.append(
            torch.tensor([-1 if s is None else MOVEMENTS.index(s.movement) for s in performed])
        )
        shakes.append(torch.tensor([s is not None and s.head_shake for s in performed]))
        palms.append(
            torch.tensor([_seen_at(b.pose.right, signer, b.pose) for b in beats], dtype=torch.float)
        )
    return pictures, movements, speeds, shakes, palms
