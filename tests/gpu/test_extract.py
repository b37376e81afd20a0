"""Stage 1 where devices differ: arithmetic, batches, memory, threads, and what is begun again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from spamo_cache.compat import cpu_threads
from spamo_cache.config import CacheSpec, SpatialStream, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder
from spamo_cache.encoders.preprocess import Normalise, Preprocess, ResizeSpec
from spamo_cache.errors import SpamoError
from spamo_cache.extract.device import Device, Row, open_device
from spamo_cache.extract.engine import shared
from spamo_cache.extract.extraction import extract
from spamo_cache.store.reader import FeatureStore

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
SPEC = {
    "name": "tiny",
    "streams": {
        "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1, 2]},
        "motion": {"encoder": "videomae", "weights": "videomae"},
    },
    "store": {
        "chunk_rows": {"frame": 8, "window": 2},
        "shard_rows": {"frame": 32, "window": 4},
    },
}
FRAMES = (21, 9, 17, 30)

Digests = dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Four image folders, each a partition."""
    root, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for number, frames in enumerate(FRAMES):
        (root / f"{number}").mkdir()
        for k in range(frames):
            picture = random.integers(0, 256, (32, 40, 3), np.uint8)
            cv2.imwrite(str(root / f"{number}" / f"{k}.png"), picture)
    clips = [
        Clip(id=f"{number}", split="train", source=f"{number}", text="ja", language="German")
        for number in range(len(FRAMES))
    ]
    return root, Manifest.from_clips("toy", clips)


@pytest.fixture
def go(corpus: tuple[Path, Manifest], tmp_path: Path, device: str) -> Callable[..., Any]:
    def extracted(place: str, compute: str = "auto", **options: Any) -> Any:
        spec = parse({**SPEC, "compute": compute}, CacheSpec, where="test")
        given: dict[str, Any] = {"executor": "serial", "device": device, **options}
        return extract(corpus[1], corpus[0], spec, GOLDEN, store_root=tmp_path / place, **given)

    return extracted


def digests(summary: Any) -> Digests:
    """Of every shard, by stream and partition."""
    assert not summary.failed
    return {
        name: {
            shard.name: hashlib.sha256(shard.read_bytes()).hexdigest()
            for shard in sorted(store.glob("features/c.*"))
        }
        for name, store in summary.stores.items()
    }


def features(summary: Any) -> dict[str, NDArray[np.float64]]:
    ids = [f"{number}" for number in range(len(FRAMES))]
    return {
        name: np.concatenate(FeatureStore.open(store).read(ids)).astype(np.float64)
        for name, store in summary.stores.items()
    }


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_narrow_arithmetic_stays_near_float32(go: Callable[..., Any]) -> None:
    wide, narrow = go("wide", "float32"), go("narrow", "float16")
    for name, wanted in features(wide).items():
        found = features(narrow)[name]
        assert cosine(wanted, found) >= 0.9999
        # What a translator reads is how rows differ from those before.
        moved = np.linalg.norm(np.diff(found - wanted, axis=0), axis=1).mean()
        assert moved <= 0.02 * np.linalg.norm(np.diff(wanted, axis=0), axis=1).mean()


@pytest.mark.slow
def test_the_same_bytes_by_any_number_of_workers_and_after_an_interrupt(
    go: Callable[..., Any], tmp_path: Path, device: str
) -> None:
    whole = go("one")
    assert_said(whole, device)
    wanted = digests(whole)
    assert all(len(shards) == 4 for shards in wanted.values())
    if device == "cuda":  # what tests/extract/test_executors.py holds of the CPU
        assert digests(go("two", executor="dask", workers=2)) == wanted
    # One partition of each stream is lost, as by a crash.
    shutil.copytree(tmp_path / "one", tmp_path / "lost")
    for receipt in (tmp_path / "lost").rglob("receipts/1.json"):
        receipt.unlink()
        (receipt.parents[1] / "features" / "c.1.0").unlink()
    again = go("lost")
    assert (again.computed_frames, digests(again)) == (FRAMES[1], wanted)


def assert_said(summary: Any, device: str) -> None:
    """How it was computed, in receipts and summary."""
    for store in summary.stores.values():
        said = json.loads((store / "receipts" / "0.json").read_text())["provenance"]
        assert said["compiled"] is False  # so little does not pay
        assert said["batch_tokens"] == open_device(device).batch_tokens
        assert said["compute"] == ("float32" if device == "cpu" else "float16")
    assert summary.compile_seconds == 0.0
    assert 0 < summary.busy <= 1


# --- one encoder on its device --------------------------------------------------------------------


class Small(Encoder):
    """A row per frame of 16 x 16 pixels, by two layers."""

    per = "frame"
    stride = 1
    width = 24
    tokens_per_row = 64
    flops_per_row = 1

    def __init__(self) -> None:
        super().__init__()
        square = ResizeSpec(size=16, shortest=16, interpolation="bicubic")
        self.preprocess = Preprocess(resize_spec=square, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.3))
        self.normalise = Normalise(self.preprocess)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            layers = (nn.Flatten(), nn.Linear(768, 32), nn.GELU(), nn.Linear(32, 24))
            self.network = nn.Sequential(*layers, nn.LayerNorm(24))
        self.requires_grad_(requires_grad=False)


def device_of(name: str, batch_tokens: Sequence[int]) -> Device:
    """Of the name's kind, with batches of these sizes."""
    return type(open_device(name))(name, batch_tokens)


def rows_of(count: int, side: int) -> list[Row]:
    random = torch.Generator().manual_seed(count)
    shape = (count, side, side, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    clip = pixels.permute(0, 3, 1, 2)
    return [("clip", row, clip, row) for row in range(count)]


def encode(device: Device, encoder: Encoder, rows: Sequence[Row]) -> torch.Tensor:
    with cpu_threads(1):
        return device.encode(encoder, rows)


def test_rows_of_a_padded_batch_are_those_of_a_full_one(device: str) -> None:
    stream = SpatialStream(encoder="open_clip", weights="clip-vision", scales=(1,))
    encoder = registry.build(stream, GOLDEN, "auto", device)
    there = open_device(device)
    there.static = True
    rows = rows_of(min(there.rows(encoder), 64), 224)
    whole = encode(there, encoder, rows)
    for count in (1, 5, len(rows) - 1):
        assert torch.equal(encode(there, encoder, rows[:count]), whole[:count])
        assert torch.equal(encode(there, encoder, rows[-count:]), whole[-count:])


def test_threads_share_a_device(device: str, tmp_path: Path) -> None:
    """Of batches computed at once, each has the rows it has alone."""
    from spamo_cache.extract.decoding import DecodeConfig

    encoder = Small().to(device)
    batches = [rows_of(count, 16) for count in (3, 16, 9, 1, 12, 16, 7, 2) * 4]
    with shared(device, DecodeConfig(root=tmp_path, resize="pil", decoders=1), 3) as engine:
        wanted = [engine.device.encode(encoder, rows) for rows in batches]
        futures = [engine.threads.submit(engine.device.encode, encoder, rows) for rows in batches]
        for future, alone in zip(futures, wanted, strict=True):
            assert torch.equal(future.result(), alone)
        busy, idle = engine.device.take_time()
    assert busy > 0
    assert idle >= 0


def test_memory_that_is_short_makes_batches_smaller(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, rows = Small().to(device), rows_of(16, 16)
    there = device_of(device, [16 * 64, 8 * 64, 4 * 64])
    wanted = encode(there, encoder, rows)
    plain = encoder.encode

    def scarce(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 4 and device == "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if len(pixels) > 4:
            torch.empty(1 << 50, dtype=torch.uint8, device=device)
        return plain(pixels)

    monkeypatch.setattr(encoder, "encode", scarce)
    found = encode(there, encoder, rows)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert there.rows(encoder) == 4
    assert len(there.take_notes()) == 2


@pytest.mark.slow
def test_compiled_features_are_the_eager_ones(device: str, tmp_path: Path) -> None:
    if device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler is here")
    encoder = Small() if device == "cpu" else golden_motion(device)
    there = device_of(device, [16 * encoder.tokens_per_row])
    rows = rows_of(16 * encoder.span, encoder.preprocess.resize_spec.size)[:: encoder.span]
    eager = encode(there, encoder, rows)
    with cpu_threads(1):
        assert there.compile(encoder, must=True) > 0
    assert encoder.compiled
    assert (tmp_path / "home" / "compiled").is_dir()
    found = encode(there, encoder, rows)
    near = 1e-5 if device == "cpu" else 2e-2
    torch.testing.assert_close(found, eager, atol=near, rtol=near)
    assert cosine(found.double().numpy(), eager.double().numpy()) >= 0.99999
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count in (1, 7, 15):
        assert torch.equal(encode(there, encoder, rows[:count]), found[:count])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
    assert there.forward_rate(encoder, 0.05) > 0


def golden_motion(device: str) -> Encoder:
    spec = parse(SPEC, CacheSpec, where="test")
    return registry.build(spec.streams["motion"], GOLDEN, "auto", device)


def test_what_cannot_be_compiled_is_computed_as_it_is(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a note; or, where it was asked for, it is one clear error."""
    encoder, rows, there = Small().to(device), rows_of(3, 16), open_device(device)
    wanted = encode(there, encoder, rows)

    def no_compiler(*_: object, **__: object) -> object:
        def fail(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler.\nSet TORCHDYNAMO_VERBOSE=1.")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(SpamoError, match="cannot be compiled: RuntimeError: no C") as raised:
        there.compile(encoder, must=True)
    assert "TORCHDYNAMO" not in str(raised.value)
    there.compile(encoder, must=False)
    (note,) = there.take_notes()
    assert "not compiled" in note
    assert not encoder.compiled
    assert not encoder.compilable, "once is enough"
    assert torch.equal(encode(there, encoder, rows), wanted)
