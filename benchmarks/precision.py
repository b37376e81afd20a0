"""What each choice of a cache spec costs: arithmetic, resize and the store's float16.

Usage: python benchmarks/precision.py [--spec signed-weather] [--source FILE|FOLDER ...] [--clips 8]
                                      [--device auto]

Features of a few clips, each choice against its reference: the arithmetics against float32, the
resize `torchvision-uint8` against `pil`, the stored numbers against those that were computed.
Without a source the clips are drawn from the corpus that comes with the project.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spamo_cache import devices
from spamo_cache.config import CacheSpec, StreamSpec, load, named_file
from spamo_cache.datasets import signed_weather
from spamo_cache.datasets.manifest import Clip
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.encoders.preprocess import Resize
from spamo_cache.encoders.registry import Compute
from spamo_cache.video import read_clip

Frames = NDArray[np.uint8]
Rows = list[NDArray[np.float64]]
"""Features of each clip, (rows, width)."""


@dataclass(frozen=True)
class Cost:
    """How far features are from their reference."""

    least: float
    """Smallest cosine of a row."""
    mean: float
    largest: float
    """Largest absolute difference of a number."""
    movement: float
    """Share by which the difference of neighbouring rows is off: cosines do not show it."""

    @classmethod
    def of(cls, found: Rows, reference: Rows) -> Cost:
        a, b = np.concatenate(found), np.concatenate(reference)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        steps, wanted = (
            np.concatenate([np.diff(rows, axis=0) for rows in side]) for side in (found, reference)
        )
        off = float(np.linalg.norm(steps - wanted)) / max(float(np.linalg.norm(wanted)), 1e-12)
        return cls(
            least=float(cosines.min()),
            mean=float(cosines.mean()),
            largest=float(abs(a - b).max()),
            movement=off,
        )


def clips(sources: Sequence[Path], count: int) -> list[Frames]:
    """Frames of the sources, or of the first clips of a corpus drawn for the purpose."""
    if sources:
        return [_read(source.parent, source.name) for source in sources]
    with tempfile.TemporaryDirectory() as folder:
        signed_weather.make(Path(folder), size=max(28, count))
        drawn = signed_weather.manifest(Path(folder)).clips()[:count]
        return [read_clip(Path(folder), clip) for clip in drawn]


def _read(root: Path, source: str) -> Frames:
    return read_clip(
        root, Clip(id=source, split="all", source=source, text="", language="", extra={})
    )


def costs(
    stream: StreamSpec, base: Path, device: str, videos: Sequence[Frames]
) -> Iterator[tuple[str, Cost]]:
    """Each choice for a stream, by name, and what it costs."""

    def features(compute: Compute, resize: Resize = "torchvision-uint8") -> Rows:
        encoder = registry.build(stream, base, compute, device)
        encoded = (encode_clip(encoder, frames, resize=resize, device=device) for frames in videos)
        return [rows.astype(np.float64) for rows in encoded]

    exact = features("float32")
    for compute in ("bfloat16", "float16"):
        yield f"compute: {compute}", Cost.of(features(compute), exact)
    yield "resize: torchvision-uint8", Cost.of(exact, features("float32", "pil"))
    stored = [rows.astype(np.float16).astype(np.float64) for rows in exact]
    yield "store: float16", Cost.of(stored, exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", default="signed-weather")
    parser.add_argument("--source", type=Path, nargs="+", default=[])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    path = named_file(arguments.spec, "cache_specs", "default.yaml")
    spec = load(path, CacheSpec)
    device = devices.resolve(arguments.device)
    videos = clips(arguments.source, arguments.clips)
    print("| stream | choice | least cosine | mean cosine | largest difference | movement |")
    print("|---|---|---|---|---|---|")
    for name, stream in spec.streams.items():
        for choice, cost in costs(stream, path.parent, device, videos):
            print(
                f"| {name} | {choice} | {cost.least:.7f} | {cost.mean:.7f} | {cost.largest:.2g} "
                f"| {100 * cost.movement:.2f} % |"
            )
    frames = sum(map(len, videos))
    print(
        f"\n{len(videos)} clips, {frames} frames, on {device}. The arithmetics and the store "
        "against float32, the resize against pil.\nmovement: how far the difference of "
        "neighbouring rows is off, as a share of it."
    )


if __name__ == "__main__":
    main()
