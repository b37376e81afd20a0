"""Whose features are whose, with the videos at hand: each choice is planted and named.

What is planted is made by the networks and by numpy, not by the code that looks for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from spamo_cache.config.spec import MotionStream, SpatialStream
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.encoders.registry import build
from spamo_cache.extract import variants
from spamo_cache.extract.variants import Recipe, Seen, explain
from spamo_cache.store.compare import Cause, explanation, rows_of
from tests.extract.conftest import GOLDEN

pytestmark = pytest.mark.slow

Frames = NDArray[np.uint8]
STREAMS = {
    "spatial": SpatialStream(encoder="open_clip", weights="clip-vision", scales=(1,)),
    "motion": MotionStream(encoder="videomae", weights="videomae"),
}
COUNTS = (41, 52)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_ROWS", 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden networks, with weights large enough that what they see matters; and others."""
    folder = tmp_path_factory.mktemp("networks")
    for name in ("clip-vision", "videomae"):
        for seed, place in enumerate((name, f"other-{name}")):
            shutil.copytree(GOLDEN / name, folder / place)
            file = folder / place / "model.safetensors"
            torch.manual_seed(seed)
            given = load_file(file)
            save_file({k: v + 0.1 * torch.randn_like(v) for k, v in given.items()}, file)
    return folder


@pytest.fixture(scope="module")
def videos() -> list[Frames]:
    """Coloured shapes, other ones in each frame."""
    chance = np.random.default_rng(0)
    return [
        np.stack(
            [
                cv2.resize(chance.integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
                for _ in range(count)
            ]
        )
        for count in COUNTS
    ]


def squashed(frames: Frames) -> Frames:
    return np.stack([cv2.resize(frame, (60, 60)) for frame in frames])


def same(frames: Frames) -> Frames:
    return frames


def spec(stream: str, changes: Mapping[str, Any]) -> Any:
    return STREAMS[stream].model_copy(update=dict(changes))


def rows(stream: Any, base: Path, videos: list[Frames], **options: Any) -> list[NDArray[Any]]:
    encoder = build(stream, base, options.pop("compute", "float32"))
    return [encode_clip(encoder, frames, **options) for frames in videos]


Case = tuple[str, dict[str, Any], Callable[[Frames], Frames], dict[str, Any], str, str]
CASES: dict[str, Case] = {
    "colours": ("motion", {}, lambda f: f[..., ::-1].copy(), {}, "channels", "BGR"),
    "token": ("motion", {"token": "mean"}, same, {}, "token", "the mean of the patches"),
    "layer": ("motion", {"layer": -2}, same, {}, "layer", "theirs are of layer -2"),
    "rate": ("motion", {}, lambda f: f[::2], {}, "frame-rate", "took every second frame"),
    "begin": ("motion", {}, lambda f: f[3:], {}, "offset", "begin 3 frames later"),
    "stride": ("motion", {"stride": 6}, same, {}, "stride", "another stride: 6, not 8"),
    "tail": ("motion", {"tail": "pad"}, same, {}, "tail", "padded to one more row"),
    "arithmetic": ("motion", {}, same, {"compute": "bfloat16"}, "precision", "bfloat16"),
    "norm": ("spatial", {"output": "cls"}, same, {}, "layer-norm", "after the last layer norm"),
    "patches": ("spatial", {"output": "mean"}, same, {}, "token", "the mean of the patches"),
    "resize": ("spatial", {}, same, {"resize": "pil"}, "resize", "theirs by pil"),
    "crop": ("spatial", {}, squashed, {}, "crop", "squashed"),
    "two": (
        "spatial", {"output": "cls"}, lambda f: f[..., ::-1].copy(), {}, "", "BGR",
    ),
}  # fmt: skip


def found(
    stream: str, base: Path, videos: list[Frames], theirs: list[NDArray[Any]]
) -> tuple[Cause | None, float]:
    own = spec(stream, {})
    ours = rows(own, base, videos)
    seen = [
        Seen(frames, len(frames), rows_of(a), rows_of(b))
        for frames, a, b in zip(videos, theirs, ours, strict=True)
    ]
    lengths = [(clip.count, len(clip.theirs)) for clip in seen]
    recipe = Recipe(own, "torchvision-uint8", "float32")
    trials = explain(seen, recipe, base, lengths=lengths, progress=lambda *_: None)
    assert trials.reproduced < 1e-5
    return explanation(trials.tried, trials.apart), trials.apart


@pytest.mark.parametrize("name", CASES)
def test_a_planted_choice_is_named(name: str, base: Path, videos: list[Frames]) -> None:
    stream, changes, altered, options, kind, words = CASES[name]
    theirs = rows(spec(stream, changes), base, [altered(f) for f in videos], **options)
    cause, _ = found(stream, base, videos, theirs)
    assert cause is not None
    assert words in cause.what
    assert cause.kind == kind or name == "two"


def test_other_weights_are_no_other_choice(base: Path, videos: list[Frames]) -> None:
    theirs = rows(spec("spatial", {"weights": "other-clip-vision"}), base, videos)
    cause, apart = found("spatial", base, videos, theirs)
    assert cause is None
    assert apart > 0.1
