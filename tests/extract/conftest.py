"""A small corpus of image folders and the tiny networks of the golden tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from spamo_cache.config import CacheSpec, parse
from spamo_cache.datasets.manifest import Clip, Manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
FRAMES = {"a": 21, "b": 9, "c": 16, "d": 24, "e": 1, "f": 30}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for name, frames in FRAMES.items():
        (root / name).mkdir()
        for k in range(frames):
            image = generator.integers(0, 256, (32, 40, 3), np.uint8)
            cv2.imwrite(str(root / name / f"{k}.png"), image)
    return root


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    splits = {"a": "train", "b": "train", "c": "dev", "d": "train", "e": "test", "f": "test"}
    clips = [
        Clip(id=f"clip-{name}", split=splits[name], source=name, text="ja", language="German")
        for name in FRAMES
    ]
    return Manifest.from_clips("toy", clips)


@pytest.fixture(scope="session")
def spec() -> CacheSpec:
    """Partitions of two clips or so."""
    return parse(
        {
            "name": "tiny",
            "streams": {
                "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1]},
                "motion": {"encoder": "videomae", "weights": "videomae"},
            },
            "store": {
                "chunk_rows": {"frame": 16, "window": 2},
                "shard_rows": {"frame": 48, "window": 6},
            },
        },
        CacheSpec,
        where="test",
    )


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    """Hash of all that must be equal in equal stores: features and clip index."""

    def of(store: Path) -> str:
        found = hashlib.sha256()
        for folder in ("features", "clips"):
            for file in sorted((store / folder).rglob("*")):
                if file.is_file():
                    found.update(f"{file.relative_to(store)}\n".encode() + file.read_bytes())
        return found.hexdigest()

    return of
