"""Whether two runs differ by more than chance: paired tests on the clips that both translated.

Both tests work on sacrebleu's statistics, and on the means of ROUGE as well:

    approximate randomisation  how often a difference as large comes about when each clip's two
                               translations are dealt to the two runs by the toss of a coin
    paired bootstrap           the same clips resampled for both: an interval of the difference
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spamo_cache.errors import UsageError
from spamo_cache.evaluate.answers import read_table
from spamo_cache.evaluate.measure import BOOTSTRAP, SEED, Measure, draws
from spamo_cache.evaluate.metrics import measures
from spamo_cache.train.checkpoint import RunFolder

TRIALS = 10_000
"""Tosses behind a p-value, as in sacrebleu."""

_TOSSED = 512
"""Trials that are tossed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of two runs.

    Attributes:
        a: the first run's score.
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


def compare(run: Path, other: Path, name: str = "test") -> dict[str, Difference]:
    """Metric -> how two evaluated runs differ.

    Args:
        name: of the evaluation, as ``evaluation/<name>.json`` has it.

    Raises:
        UsageError: one of them was not evaluated so, or not on the same references.
    """
    (ours, references), (theirs, expected) = (_answers(path, name) for path in (run, other))
    if references != expected:
        raise UsageError(
            f"scores of {name} are of {len(references)} references here, of {len(expected)} "
            "there, and they are not the same",
            where=other,
            remedy="compare runs of one corpus, text convention and split that drop no clips",
        )
    tokenize = RunFolder(run).pipeline().text.tokenize
    sides = ([side[clip] for clip in references] for side in (ours, theirs))
    one, two = (measures(side, list(references.values()), tokenize=tokenize) for side in sides)
    return {metric: difference(measure, two[metric]) for metric, measure in one.items()}


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


def _answers(run: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The hypothesis of each clip as it was scored, and its reference."""
    lines = read_table(run, name)
    hypotheses = {line["id"]: line["hypothesis"] for line in lines}
    return hypotheses, {line["id"]: line["reference"] for line in lines}
