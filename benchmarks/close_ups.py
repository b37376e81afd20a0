"""What close-ups cost: decoding, cutting and resizing, forward passes, with and without them.

Usage: python benchmarks/close_ups.py [--clips 6] [--frames 120] [--size 1280x720] [--rounds 7]

The same H.264 clips are decoded for SpaMo's two streams, and for both hands and the face beside
them, in turn within one run: seconds of decoding proper, and of cutting and resizing. Forward
passes are those of `cache_specs/spamo-regions.yaml`, by the operations of its networks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from reference.turns import ratio

from spamo_cache import config, poses
from spamo_cache.config import CacheSpec
from spamo_cache.config.spec import Region
from spamo_cache.datasets.manifest import Clip
from spamo_cache.encoders import registry
from spamo_cache.encoders.preprocess import Interpolation, ResizeSpec
from spamo_cache.extract.clip_poses import PoseFile
from spamo_cache.extract.decoding import ClipTask, DecodeConfig, Decoders
from spamo_cache.extract.regions import View
from spamo_cache.video import probe

CLOSE_UPS: tuple[Region, ...] = ("right-hand", "left-hand", "face")
FPS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tasks = [clip(root, k, given.frames, width, height) for k in range(given.clips)]
        measure(root, tasks, given.rounds)
    forward_passes()


def clip(root: Path, number: int, frames: int, width: int, height: int) -> ClipTask:
    """A film of something that moves before a background with some grain, and its pose."""
    rng = np.random.default_rng(number)
    wall = rng.integers(60, 180, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    name = f"{number}.mp4"
    with av.open(str(root / name), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(frames):
            picture = wall + rng.integers(0, 12, wall.shape, np.uint8)
            left = (k * 7) % (width - width // 5)
            picture[height // 3 : 2 * height // 3, left : left + width // 5] = (220, 180, 160)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    file = root / f"{number}.pose"
    file.write_bytes(poses.pack(signed(rng, frames, width, height)))
    found = probe(root, Clip(id=name, split="", source=name, text="", language=""))
    return ClipTask(name, name, None, None, None, found, PoseFile(file, poses.digest(file)))


def signed(rng: np.random.Generator, frames: int, width: int, height: int) -> poses.Pose:
    """Hands of an eighth of the picture's height that wander, and a face; as MediaPipe has them."""
    counts = {"RIGHT_HAND_LANDMARKS": 21, "LEFT_HAND_LANDMARKS": 21, "FACE_LANDMARKS": 468}
    middles = np.cumsum(rng.normal(0, 0.01, (len(counts), frames, 1, 2)), axis=1) + 0.5
    spreads = [rng.uniform(-0.06, 0.06, (count, 2)) for count in counts.values()]
    groups = [middle + spread for middle, spread in zip(middles, spreads, strict=True)]
    points = (np.concatenate(groups, axis=1) * (width, height)).astype(np.float32)
    names = tuple(f"{name}/{k}" for name, count in counts.items() for k in range(count))
    seen = np.ones(points.shape[:2], np.float32)
    return poses.Pose(FPS, width, height, points, seen, names)


def measure(root: Path, tasks: list[ClipTask], rounds: int) -> None:
    """Print what each stage takes with close-ups and without, and the ratio."""
    interpolations: tuple[Interpolation, ...] = ("bicubic", "bilinear")
    whole = [ResizeSpec(size=224, shortest=224, interpolation=way) for way in interpolations]
    plain = {View(spec) for spec in whole}
    close = {View(replace(whole[0], shortest=None), region) for region in CLOSE_UPS}
    views = {"whole frames": plain, "with close-ups": plain | close}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in views}
    decoders = Decoders(DecodeConfig(root=root, resize="torchvision-uint8", decoders=1))
    for turn in range(rounds + 1):
        for name, sights in views.items():
            done = [decoded for _, decoded in decoders.ahead(tasks, sights)]
            if failed := [reason for decoded in done for reason in decoded.reasons.values()]:
                raise SystemExit(failed[0])
            seconds = sum(d.decode_seconds for d in done), sum(d.prepare_seconds for d in done)
            if turn:  # the first round warms up
                taken[name].append(seconds)
    decoders.close()
    frames = sum(task.probe.frames for task in tasks)
    print(f"{len(tasks)} clips, {frames} frames; milliseconds a frame, medians of {rounds} rounds")
    for k, stage in enumerate(("decoding", "poses, cutting, resizing")):
        one, both = ([seconds[k] for seconds in taken[name]] for name in views)
        ms = [1000 * statistics.median(times) / frames for times in (one, both)]
        print(
            f"{stage:<26} {ms[0]:6.2f} whole frames, {ms[1]:6.2f} with close-ups: "
            f"{ratio(both, one):.3f} times"
        )


def forward_passes() -> None:
    """Operations a frame by stream, and what close-ups add."""
    path = config.named_file("spamo-regions", "cache_specs", "spec.yaml")
    cost = {}
    for name, stream in config.load(path, CacheSpec).streams.items():
        encoder = registry.without_weights(stream, path.parent) or registry.build(
            stream, path.parent
        )
        cost[name] = encoder.flops_per_row / encoder.stride
    for name, flops in cost.items():
        print(f"{name:<26} {flops / 1e9:8.1f} GFLOP a frame")
    close = sum(cost[name] for name in CLOSE_UPS)
    print(f"close-ups against the rest: {close / (sum(cost.values()) - close):.2f}")


if __name__ == "__main__":
    main()
