"""Batches on their device: one shape, every frame once, no wait, and memory that is short."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Lock, current_thread
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from spamo_cache import devices
from spamo_cache.compat import avoid_cudnn_attention, cpu_threads
from spamo_cache.config import CacheSpec, parse
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import Encoder, stack_windows, window
from spamo_cache.extract import engine
from spamo_cache.extract.decoding import DecodeConfig
from spamo_cache.extract.device import CudaDevice, Device, Row, cuda_tokens, open_device, packed
from spamo_cache.extract.extraction import extract

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


def clip_of(frames: int, size: int, seed: int) -> torch.Tensor:
    """uint8 (frames, 3, size, size), channels last in memory."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8, generator=random)
    return pixels.permute(0, 3, 1, 2)


def rows_of(lengths: Sequence[int], span: int, stride: int, size: int) -> list[Row]:
    rows: list[Row] = []
    for number, frames in enumerate(lengths):
        clip = clip_of(frames, size, number)
        starts = range(0, max(frames - span, 0) + 1, stride)
        rows += [(f"clip-{number}", row, clip, start) for row, start in enumerate(starts)]
    return rows


@pytest.mark.parametrize(("span", "stride"), [(1, 1), (1, 4), (4, 2), (4, 4), (4, 7)])
def test_a_batch_has_the_frames_of_its_windows_each_once(span: int, stride: int) -> None:
    rows = rows_of([9, 3, 1, 12], span, stride, 2)[1:]
    wanted = stack_windows([window(clip, start, span) for _, _, clip, start in rows], span)
    pieces, taken = packed(rows, span, len(rows) + 3)
    frames = torch.cat(pieces)
    found = frames[taken].movedim(-1, -3)
    torch.testing.assert_close(found[: len(rows)], wanted, atol=0, rtol=0)
    assert (found[len(rows) :] == wanted[-1]).all()
    under = {
        (name, min(start + k, len(clip) - 1)) for name, _, clip, start in rows for k in range(span)
    }
    assert len(frames) == len(under)


class Static(Device):
    """A device whose batches all have one shape, as those of a GPU."""

    static = True


@pytest.mark.parametrize("name", ["spatial", "motion"])
def test_rows_do_not_depend_on_what_is_beside_them(name: str, spec: CacheSpec) -> None:
    """Of a short batch, which is padded, the bits are those in the company of others."""
    encoder = registry.build(spec.streams[name], GOLDEN)
    device = Static("cpu", [1024])
    size = device.rows(encoder)
    rows = rows_of([16 * size], encoder.span, encoder.span, 224)[:size]
    with cpu_threads(1):
        whole = device.encode(encoder, rows)
        for count in {1, size - 1}:
            assert torch.equal(device.encode(encoder, rows[:count]), whole[:count])
            assert torch.equal(device.encode(encoder, rows[-count:]), whole[-count:])


def test_what_does_not_fit_is_computed_in_smaller_batches(
    spec: CacheSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = registry.build(spec.streams["spatial"], GOLDEN)
    rows = rows_of([15], 1, 1, 224)
    with cpu_threads(1):
        wanted = Device("cpu", [1024]).encode(encoder, rows)
        encode, shapes = encoder.encode, []

        def scarce(pixels: torch.Tensor) -> torch.Tensor:
            shapes.append(len(pixels))
            if len(pixels) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return encode(pixels)

        monkeypatch.setattr(encoder, "encode", scarce)
        device = Static("cpu", [1024, 512, 260])
        found = device.encode(encoder, rows)
        assert (device.batch_tokens, device.rows(encoder)) == (260, 4)
        device.encode(encoder, rows[:3])
        assert shapes == [15, 7, 4, 4, 4, 4, 4]
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
        first, second = device.take_notes()
        assert "memory of cpu is short" in first
        assert "260 tokens" in second
        assert not device.take_notes()
        with pytest.raises(torch.OutOfMemoryError):
            Device("cpu", [1024]).encode(encoder, rows)


class Moment:
    """A CUDA event, of a device that is done with everything at once."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.timed, self.at = enable_timing, None

    at: float | None

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.at is not None

    def elapsed_time(self, other: Moment) -> float:
        assert self.timed
        assert self.at is not None
        assert other.at is not None
        return 1000 * (other.at - self.at)


class Queue:
    """A CUDA stream, of the same device."""

    def wait_event(self, event: Moment) -> None:
        assert event.at is not None

    def wait_stream(self, other: Queue) -> None:
        pass


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is this CPU: no line of its class is run for the first time on a real one."""
    empty = torch.empty

    def here(*given: Any, pin_memory: bool = False, device: str = "cpu", **more: Any) -> Any:
        return empty(*given, **more)

    monkeypatch.setattr(torch, "empty", here)
    stand_ins = {
        "Event": Moment,
        "Stream": Queue,
        "current_stream": Queue,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "get_device_capability": lambda _: (9, 0),
        "mem_get_info": lambda _: (int(139e9), int(141e9)),
        "memory_reserved": lambda _: 0,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def test_one_thread_launches_what_others_have_gathered(
    spec: CacheSpec, hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever libraries keep for each thread is made once; and batches are not mixed up."""
    encoder = registry.build(spec.streams["spatial"], GOLDEN)
    batches = [rows_of([count], 1, 1, 224) for count in (3, 1, 2, 3)]
    encode, by, cudnn = encoder.encode, set[str](), set[bool]()

    def noted(pixels: torch.Tensor) -> torch.Tensor:
        by.add(current_thread().name)
        cudnn.add(torch.backends.cuda.cudnn_sdp_enabled())
        return encode(pixels)

    avoid_cudnn_attention()  # as whatever trains or translates in this process does
    with cpu_threads(1), ThreadPoolExecutor(3) as threads:
        wanted = [Static("cpu", [780]).encode(encoder, rows) for rows in batches]
        monkeypatch.setattr(encoder, "encode", noted)
        assert open_device("cuda").batch_tokens == 65_536
        for _ in range(2):
            device = CudaDevice("cuda", [780, 260])
            found = threads.map(partial(device.encode, encoder), batches)
            for features, rows in zip(found, wanted, strict=True):
                torch.testing.assert_close(features, rows, atol=2e-6, rtol=1e-5)
            busy, idle = device.take_time()
            assert busy > 0
            assert idle >= 0
    assert by == {"launch_0"}
    assert cudnn == {True}
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("gigabytes", "tokens"),
    [(139, 65_536), (79, 65_536), (44, 49_152), (23.6, 49_152), (14.7, 32_768), (7.6, 16_384)],
)
def test_batches_are_of_fixed_sizes_by_free_memory(gigabytes: float, tokens: int) -> None:
    assert cuda_tokens(int(gigabytes * 1e9))[0] == tokens
    assert cuda_tokens(int(gigabytes * 1e9))[-1] == cuda_tokens(0)[0] == 16_384


@pytest.fixture
def ten(tmp_path: Path) -> dict[str, Any]:
    """A corpus of ten clips that are a partition each."""
    clips = []
    for number in range(10):
        folder = tmp_path / "corpus" / f"{number}"
        folder.mkdir(parents=True)
        for k in range(8):
            cv2.imwrite(str(folder / f"{k}.png"), np.full((32, 40, 3), 20 * number + k, np.uint8))
        clips.append(
            Clip(id=folder.name, split="train", source=folder.name, text="ja", language="x")
        )
    spec = {
        "name": "ten",
        "streams": {"spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1]}},
        "store": {
            "chunk_rows": {"frame": 8, "window": 2},
            "shard_rows": {"frame": 8, "window": 2},
        },
    }
    return {
        "manifest": Manifest.from_clips("toy", clips),
        "root": tmp_path / "corpus",
        "spec": parse(spec, CacheSpec, where="test"),
        "spec_base": GOLDEN,
        "store_root": tmp_path / "features",
        "executor": "serial",
        "device": "cpu",
    }


def test_every_batch_has_one_thread_until_the_last_engine_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        engine.shared("cpu", DecodeConfig(root=tmp_path / name, resize="pil", decoders=1), 1)
        for name in ("phoenix14t", "csl-daily")
    )
    with cpu_threads(2):
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        other.__exit__(None, None, None)
        assert torch.get_num_threads() == 2

        def broken(_: str) -> Device:
            raise RuntimeError("no CUDA GPUs are available")

        monkeypatch.setattr(engine, "open_device", broken)
        config = DecodeConfig(root=tmp_path, resize="pil", decoders=1)
        with pytest.raises(RuntimeError), engine.shared("cpu", config, 1):
            pass
        assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_the_device_does_not_wait_between_partitions(
    ten: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a shard is written and verified, the next partition is on the device already."""
    alone, held = Lock(), list[tuple[float, float]]()

    def hold(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        with alone:
            began = time.perf_counter()
            time.sleep(0.2)
            held.append((began, time.perf_counter()))
        return torch.zeros(len(pixels), self.width)

    monkeypatch.setattr(Encoder, "encode", hold)
    monkeypatch.setattr(devices, "cpu_cores", lambda: 2)
    summary = extract(**ten)
    assert (summary.done, len(held)) == (10, 10)
    busy = sum(end - began for began, end in held)
    assert busy / (held[-1][1] - held[0][0]) >= 0.97
    assert summary.busy is not None
    assert summary.busy >= 0.97


@pytest.mark.slow
def test_what_fails_stops_the_partition_that_was_begun_beside_it(
    ten: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both leases are given back, and nothing is left of either."""
    calls: list[int] = []

    def broken(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no such kernel")
        return torch.zeros(len(pixels), self.width)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", broken)
        with pytest.raises(RuntimeError, match="no such kernel"):
            extract(**ten)
    assert len(calls) < 9
    left = [path for path in ten["store_root"].rglob("*") if ".work" in path.parts]
    assert not [path for path in left if path.is_file()]
    assert extract(**ten).done >= 6
