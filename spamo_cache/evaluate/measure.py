"""A metric as numbers per clip that add up: what resampling and testing need of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SEED = 12345
"""Seed of the resamples: the same clips are drawn for every metric and run of a split."""

BOOTSTRAP = 1000
"""Resamples of the scored clips behind an interval."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric on one set of clips.

    Attributes:
        statistics: (clips, numbers), of which every score is a function of the sum.
        of: that function, in points of 100.
        signature: all settings behind the number, as sacrebleu words them.
    """

    statistics: np.ndarray
    of: Callable[[Sequence[float]], float]
    signature: str

    @property
    def score(self) -> float:
        return self.of(self.statistics.sum(0).tolist())

    @property
    def per_clip(self) -> list[float]:
        return [self.of(row) for row in self.statistics.tolist()]

    def resampled(self, drawn: np.ndarray) -> np.ndarray:
        """(resamples,) scores where clips count as often as (resamples, clips) ``drawn`` says."""
        return np.array([self.of(row) for row in (drawn @ self.statistics).tolist()])


def mean_of(scores: Sequence[float], signature: str) -> Measure:
    """A metric that is the mean of its clips' scores, in points of 100."""
    statistics = np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)
    return Measure(statistics, lambda row: row[0] / row[1], signature)


@lru_cache(maxsize=1)
def draws(clips: int, resamples: int) -> np.ndarray:
    """(resamples, clips): how often each clip is drawn, which says as much as the draws."""
    chance = np.random.default_rng(SEED)
    found = chance.multinomial(clips, [1 / clips] * clips, size=resamples)
    found.flags.writeable = False  # all metrics share it
    return found


def interval(measure: Measure, resamples: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a metric over resampled clips."""
    scores = measure.resampled(draws(len(measure.statistics), resamples))
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
