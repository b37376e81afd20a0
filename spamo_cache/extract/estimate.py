"""How fast a device computes: a usual rate, or one measured on a sample of the clips."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from spamo_cache import devices
from spamo_cache.extract import worker
from spamo_cache.extract.decoding import ClipTask
from spamo_cache.extract.planning import RemainingWork
from spamo_cache.extract.worker import StreamResult, TaskProgress, WorkerConfig

SECONDS = 20.0
"""Of measuring."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a device computes."""

    flops: float
    """Operations of the networks per second, everything around them included."""
    frames: float | None = None
    """Frames per second of all streams together; None where nothing was measured."""


def usual_rate(device: str) -> Rate:
    """What to expect of a data-centre GPU in half precision, or of CPU cores in float32."""
    on_gpu = torch.device(device).type == "cuda"
    return Rate(4e14 if on_gpu else 6e10 * devices.cpu_cores())


def measured_rate(config: WorkerConfig, work: RemainingWork) -> Rate:
    """Decode and encode a sample of the remaining clips, and write nothing.

    Returns:
        The rate on the configured device; the usual one where no clip is left to compute.
    """
    names = [name for name in work.missing if work.computed(name).any()]
    clips = _sample(work, names)
    first = next(clips, None)
    if first is None:
        return usual_rate(config.device)
    worker.compute(config, [first], _results(names), _ignore)  # loads networks, warms up the device
    began = time.perf_counter()
    results = _results(names)
    timed = _until(began + SECONDS, first, clips)
    frames = worker.compute(config, timed, results, _ignore).frames
    seconds = time.perf_counter() - began
    flops = sum(
        work.plan.streams[name].flops_per_row * sum(map(len, result.features.values()))
        for name, result in results.items()
    )
    return Rate(flops / seconds, frames / seconds) if flops else usual_rate(config.device)


def _results(names: list[str]) -> dict[str, StreamResult]:
    return {name: StreamResult() for name in names}


def _sample(work: RemainingWork, names: list[str]) -> Iterator[ClipTask]:
    """Readable clips to be computed, in an order that is a fair sample wherever it is cut."""
    masks = [work.computed(name) for name in names]
    mask = np.any(masks, axis=0) & (work.plan.counted.frames > 0)
    positions = np.random.default_rng(0).permutation(np.flatnonzero(mask))
    return (work.clip_task(int(position)) for position in positions)


def _until(end: float, first: ClipTask, clips: Iterator[ClipTask]) -> Iterator[ClipTask]:
    """The first clip, then others until time is up."""
    yield first
    for clip in clips:
        if time.perf_counter() > end:
            return
        yield clip


def _ignore(_: TaskProgress) -> None:
    pass
