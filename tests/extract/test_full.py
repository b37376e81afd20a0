"""A full disk, full memory: one clear error, and a store that goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spamo_cache.config import CacheSpec
from spamo_cache.errors import SpamoError, shortage
from spamo_cache.extract import decoding
from spamo_cache.extract.device import Device
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.worker import shortages_explained

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"

Go = Callable[..., Any]


@pytest.fixture
def go(corpus: Path, manifest: Any, spec: CacheSpec, tmp_path: Path) -> Go:
    options = {"store_root": tmp_path / "features", "executor": "serial", "device": "cpu"}
    return lambda **changes: extract(manifest, corpus, spec, GOLDEN, **{**options, **changes})


@pytest.fixture
def whole(go: Go, digest: Callable[[Path], str], tmp_path: Path) -> dict[str, str]:
    stores = go(store_root=tmp_path / "whole").stores
    return {name: digest(path) for name, path in stores.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory of cpu is full"),
    ],
    ids=["python", "torch", "gpu"],
)
@pytest.mark.parametrize("part", ["decode", "encode"])
def test_full_memory_stops_cleanly_and_goes_on(
    go: Go,
    whole: dict[str, str],
    *,
    digest: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: Exception,
    said: str,
) -> None:
    owner, name = {
        "decode": (decoding, "squares"),
        "encode": (Device, "_computed"),
    }[part]
    plain, calls = getattr(owner, name), []

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise error
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(SpamoError, match=said) as raised:
            go()
    assert "partition" in str(raised.value.where)
    assert "same command" in str(raised.value.remedy)
    stores = go().stores
    assert {name: digest(path) for name, path in stores.items()} == whole


def test_other_errors_are_not_taken_for_full_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), shortages_explained(0, "cpu"):
        raise RuntimeError("shape mismatch")


def test_what_the_system_has_no_more_of_is_told_from_other_faults() -> None:
    threads = "the system allows no more processes or threads"
    assert shortage(RuntimeError("can't start new thread")) == threads
    assert shortage(ImportError("libtorch.so: failed to map segment from shared object"))
    assert shortage(MemoryError()) == "out of memory"
    # FFmpeg's words for what a damaged video asks of it.
    assert shortage(BlockingIOError(11, "Resource temporarily unavailable")) is None
    assert shortage(RuntimeError("shape mismatch")) is None


@pytest.mark.slow
def test_no_more_threads_is_one_error_wherever_it_happens(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(SpamoError, match="no more processes or threads") as raised:
            go()
    assert "ulimit" in str(raised.value.remedy)
    assert go().done == 6
