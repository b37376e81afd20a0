"""A metric as statistics per clip that add up, its bootstrap interval, and paired tests.

Whether two systems differ by more than chance is tested on the clips that both translated, by
sacrebleu's statistics and by the means of ROUGE as well:

    approximate randomisation  how often a difference as large comes about when each clip's two
                               translations are dealt to the two systems by the toss of a coin
    paired bootstrap           the same clips resampled for both: an interval of the difference

Whether two ways of training differ takes several seeds of each, and both sources of chance: which
clips were tested on, and which seeds were drawn. :func:`seeds_difference` adds up their variances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, pi, sqrt
from statistics import fmean, stdev, variance

import numpy as np

SEED = 12345
"""Seed of the resamples: the same clips are drawn for every metric and run of a split."""

BOOTSTRAP = 1000
"""Resamples of the scored clips behind an interval."""

TRIALS = 10_000
"""Tosses behind a p-value, as in sacrebleu."""

LEVEL = 0.05
"""Below this p a difference counts as told apart from chance."""

_TOSSED = 512
"""Trials that are tossed together."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What runs that differ in their seed alone came to.

    Attributes:
        name: of the runs, or of a metric.
        runs: how many there are.
        mean: of their scores.
        deviation: standard deviation of a sample; 0 for a single run.
    """

    name: str
    runs: int
    mean: float
    deviation: float


def spread(name: str, scores: Sequence[float]) -> Spread:
    """Mean and deviation of ``scores``, of which there is at least one."""
    deviation = stdev(scores) if len(scores) > 1 else 0.0
    return Spread(name, len(scores), fmean(scores), deviation)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of two systems on the same clips.

    Attributes:
        a: the first system's score.
        b: the other's.
        difference: ``a - b``.
        interval: 95 % of it, by paired bootstrap.
        p: of approximate randomisation; two-sided.
        p_bootstrap: of paired bootstrap; two-sided.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p: float
    p_bootstrap: float


def difference(one: Measure, other: Measure, *, trials: int = TRIALS) -> Difference:
    """How one metric of two systems on the same clips differs."""
    gap = one.score - other.score
    drawn = draws(len(one.statistics), BOOTSTRAP)
    resampled = one.resampled(drawn) - other.resampled(drawn)
    low, high = np.percentile(resampled, [2.5, 97.5])
    tossed = _tossed(one, other, trials)
    # Centred, the resampled differences are what chance alone would make of no difference.
    # sacrebleu centres absolute values instead, whose p is below 0.05 twice as often as it should.
    centred = np.abs(resampled - resampled.mean())
    return Difference(
        a=one.score,
        b=other.score,
        difference=gap,
        interval=(float(low), float(high)),
        p=_p(tossed, gap),
        p_bootstrap=_p(centred, gap),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsDifference:
    """One metric of two ways of training, several seeds of each.

    Attributes:
        difference: of the means over seeds.
        interval: 95 % of it.
        p: two-sided.
        seeds: pairs of runs with equal seeds; of a single one, both are over clips alone.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    seeds: int

    @property
    def significant(self) -> bool:
        """Told apart from chance, at the level of 0.05."""
        return self.p < LEVEL


def seeds_difference(
    ones: Sequence[Measure], others: Sequence[Measure], *, trials: int = TRIALS
) -> SeedsDifference:
    """How two ways of training differ, by runs that are paired by their seeds and clips.

    The variance of the mean difference is that over resampled clips, seeds as they are, plus that
    over seeds, clips as they are: ``s^2 / n`` of the n differences. What a seed does to single
    clips is in both, so the test errs on the safe side. Few seeds say little of their variance:
    the ratio is held against Student's t, whose degrees of freedom are Satterthwaite's. Where
    seeds differ much and there are three, that takes a difference of over four standard errors.

    With a single seed it is :func:`difference`, which knows nothing of other seeds.

    Args:
        ones: one measure per seed, all on the same clips.
        others: of the other way, in the same order of seeds and clips.
        trials: tosses, for a single seed.
    """
    if len(ones) == 1:
        single = difference(ones[0], others[0], trials=trials)
        return SeedsDifference(
            difference=single.difference, interval=single.interval, p=single.p, seeds=1
        )
    gaps = [one.score - other.score for one, other in zip(ones, others, strict=True)]
    clips = len(ones[0].statistics)
    drawn = draws(clips, BOOTSTRAP)
    both = [measure.resampled(drawn) for measure in (*ones, *others)]
    resampled = np.mean(both[: len(ones)], axis=0) - np.mean(both[len(ones) :], axis=0)
    of_clips, of_seeds = float(resampled.var(ddof=1)), variance(gaps) / len(gaps)
    gap, error = fmean(gaps), sqrt(of_clips + of_seeds)
    if not error:
        return SeedsDifference(
            difference=gap, interval=(gap, gap), p=float(abs(gap) < 1e-9), seeds=len(gaps)
        )
    freedom = error**4 / (of_seeds**2 / (len(gaps) - 1) + of_clips**2 / max(1, clips - 1))
    p, half = _student(abs(gap) / error, freedom)
    return SeedsDifference(
        difference=gap, interval=(gap - half * error, gap + half * error), p=p, seeds=len(gaps)
    )


def _student(t: float, freedom: float) -> tuple[float, float]:
    """Of Student's t: how likely it is to be as far from 0 as ``t``, and its 97.5th percentile."""
    # With t = sqrt(freedom) tan(angle) the density is a power of the cosine.
    angles = np.linspace(0, pi / 2, 100_001)
    below = np.cumsum(np.cos(angles) ** (freedom - 1))
    below /= below[-1]
    p = 1 - float(np.interp(atan(t / sqrt(freedom)), angles, below))
    return p, sqrt(freedom) * float(np.tan(np.interp(1 - LEVEL, below, angles)))


def _tossed(one: Measure, other: Measure, trials: int) -> np.ndarray:
    """(trials,) absolute differences of two systems that each clip's translations are dealt to."""
    chance, clips = np.random.default_rng(SEED), len(one.statistics)
    moved = (one.statistics - other.statistics).astype(np.float64)
    gaps: list[float] = []
    while len(gaps) < trials:
        # In parts, lest those of a large split fill the memory; bits are drawn by 32.
        sides = chance.integers(2, size=(_TOSSED, clips), dtype=bool) @ moved
        firsts, seconds = other.statistics.sum(0) + sides, one.statistics.sum(0) - sides
        pairs = zip(firsts.tolist(), seconds.tolist(), strict=True)
        gaps += [abs(one.of(first) - other.of(second)) for first, second in pairs]
    return np.array(gaps[:trials])


def _p(chance: np.ndarray, gap: float) -> float:
    """Share of what chance made that is as large as the gap, counting the gap itself as one.

    sacrebleu leaves ties out, so that a run against itself comes out as different (p = 0.0001).
    """
    reached = chance >= abs(gap) - 1e-9
    return float((reached.sum() + 1) / (len(chance) + 1))
