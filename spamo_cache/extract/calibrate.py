"""How fast this device computes these streams from these clips: measured, when asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from spamo_cache.extract import worker
from spamo_cache.extract.job import Advance, Item, Job
from spamo_cache.extract.summary import Rate, usual_rate
from spamo_cache.extract.work import Work
from spamo_cache.extract.worker import Part

SECONDS = 20.0


def calibrate(job: Job, work: Work) -> Rate:
    """Decode and encode a sample of the clips that are to be computed, and write nothing.

    Returns:
        The rate on the job's device; the usual one where no clip is left to compute.
    """
    names = [name for name in work.missing if work.computed(name).any()]
    items = _sample(work, names)
    first = next(items, None)
    if first is None:
        return usual_rate(job.device)
    worker.compute(job, [first], _parts(names), _unheard)  # loads networks, warms up the device
    began = time.perf_counter()
    parts = _parts(names)
    timed = _until(began + SECONDS, first, items)
    frames = worker.compute(job, timed, parts, _unheard).frames
    took = time.perf_counter() - began
    flops = sum(
        work.found.streams[name].flops_per_row * sum(map(len, part.features.values()))
        for name, part in parts.items()
    )
    return Rate(flops / took, frames / took) if flops else usual_rate(job.device)


def _parts(names: list[str]) -> dict[str, Part]:
    return {name: Part() for name in names}


def _sample(work: Work, names: list[str]) -> Iterator[Item]:
    """Readable clips to be computed, in an order that is a fair sample wherever it is cut."""
    masks = [work.computed(name) for name in names]
    mask = np.any(masks, axis=0) & (work.found.counted.frames > 0)
    positions = np.random.default_rng(0).permutation(np.flatnonzero(mask))
    return (work.item(int(position)) for position in positions)


def _until(end: float, first: Item, items: Iterator[Item]) -> Iterator[Item]:
    """The first clip, then others until it is time."""
    yield first
    for item in items:
        if time.perf_counter() > end:
            return
        yield item


def _unheard(_: Advance) -> None:
    pass
