"""Footage in the two forms that corpora have: folders of PNG at 210x260, and 720p H.264."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FPS = 25
_GRAIN = 0.8
"""Standard deviation of the sensor noise, levels: a PNG of 210x260 then has about as many bytes as
PHOENIX14T's (63 KB)."""


def frames(count: int, height: int, width: int, seed: int, grain: float) -> NDArray[np.uint8]:
    """A figure that moves its arms before a soft background: uint8 (count, height, width, 3)."""
    chance = np.random.default_rng(seed)
    coarse = chance.uniform(60, 190, (6, 8, 3)).astype(np.float32)
    scene = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    shape = (height, width, 3)
    noise = [chance.normal(0, grain, shape).astype(np.float32) for _ in range(4)]
    filmed = np.empty((count, *shape), np.uint8)
    for k in range(count):
        picture: NDArray[np.float32] = scene.astype(np.float32)
        _figure(picture, 2 * np.pi * k / _FPS + seed)
        # Grain that moves: rolled, which is cheap, and new in every frame.
        picture += np.roll(noise[k % 4], (37 * k, 91 * k), axis=(0, 1))
        filmed[k] = picture.clip(0, 255)
    return filmed


def png_folders(root: Path, lengths: list[int]) -> list[str]:
    """One folder of PNG files per clip; returns their names."""
    names = [f"clip{k}" for k in range(len(lengths))]
    for seed, (name, length) in enumerate(zip(names, lengths, strict=True)):
        (root / name).mkdir(parents=True)
        for k, frame in enumerate(frames(length, 260, 210, seed, _GRAIN)):
            Image.fromarray(frame).save(root / name / f"images{k + 1:04}.png")
    return names


def again(root: Path, folders: list[str], count: int) -> list[str]:
    """These folders and, until there are ``count``, the same frames under other names."""
    names = [f"clip{k}" for k in range(count)]
    for k, name in enumerate(names[len(folders) :]):
        shutil.copytree(root / folders[k % len(folders)], root / name, copy_function=os.link)
    return names


def mp4_files(root: Path, lengths: list[int], bits_per_second: int) -> list[str]:
    """One 1280x720 H.264 file per clip; returns their names."""
    import av  # too large to be carried to where only PNG is read

    root.mkdir(parents=True, exist_ok=True)
    names = [f"clip{k}.mp4" for k in range(len(lengths))]
    for seed, (name, length) in enumerate(zip(names, lengths, strict=True)):
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(_FPS))
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            stream.bit_rate = bits_per_second
            for frame in frames(length, 720, 1280, seed, 2 * _GRAIN):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return names


def _figure(picture: NDArray[np.float32], phase: float) -> None:
    height, width = picture.shape[:2]
    unit = height / 10
    centre, shoulder = width / 2, 4.2 * unit
    skin, cloth = (205.0, 160.0, 135.0), (45.0, 50.0, 70.0)
    cv2.ellipse(picture, (int(centre), int(8 * unit)), (int(2.4 * unit), int(4 * unit)), 0, 0, 360,
                cloth, -1)  # fmt: skip
    cv2.circle(picture, (int(centre), int(2.6 * unit)), int(1.1 * unit), skin, -1)
    for side in (-1, 1):
        hand = (
            int(centre + side * (1.6 + np.sin(phase)) * unit),
            int(5.5 * unit + 1.8 * unit * np.cos(1.7 * phase + side)),
        )
        start = (int(centre + side * 1.9 * unit), int(shoulder + unit))
        cv2.line(picture, start, hand, cloth, int(0.9 * unit))
        cv2.circle(picture, hand, int(0.6 * unit), skin, -1)
