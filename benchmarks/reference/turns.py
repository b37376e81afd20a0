"""Contestants measured in turn: on a shared machine only ratios within a round mean anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contestants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Times:
    """Seconds per round."""

    cpu: list[float]
    wall: list[float]


def measure(contestants: Contestants, rounds: int) -> dict[str, Times]:
    """Run every contestant once per round, in the order given, after one round that is not counted
    (files come into the page cache, libraries warm up)."""
    times = {name: Times([], []) for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if number:
                times[name].cpu.append(time.process_time() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long ``slow`` takes: the median over rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
