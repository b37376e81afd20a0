"""sacrebleu's metrics with their signatures and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

BOOTSTRAP = 1000
"""Resamples of the scored clips behind an interval."""

SEED = 12345
"""Seed of the resamples: the same clips are drawn for every metric and run of a split."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores in points of 100.

    Attributes:
        values: ``bleu1`` to ``bleu4`` (n-gram order up to 1..4) and ``chrf``.
        intervals: the 95 % bootstrap interval of each; empty for fewer than two clips.
        signatures: sacrebleu's, with tokenizer and version.
        n: scored clips.
        bootstrap: ``resamples`` and ``seed`` behind the intervals.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    signatures: dict[str, str]
    n: int
    bootstrap: dict[str, int]


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str,
    bootstrap: int = BOOTSTRAP,
) -> Scores:
    """Score one reference per hypothesis; an empty hypothesis counts like any other.

    Args:
        tokenize: sacrebleu's tokenizer for BLEU.
        bootstrap: resamples; 0 leaves the intervals out.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    metrics: dict[str, Any] = {
        f"bleu{order}": BLEU(tokenize=tokenize, max_ngram_order=order) for order in range(1, 5)
    }
    metrics["chrf"] = CHRF()
    results = {
        name: metric.corpus_score(hypotheses, [references]) for name, metric in metrics.items()
    }
    resamples = bootstrap if len(references) > 1 else 0
    return Scores(
        values={name: float(result.score) for name, result in results.items()},
        intervals={
            name: interval(metric, hypotheses, references, resamples=resamples)
            for name, metric in metrics.items()
            if resamples
        },
        signatures={name: str(metric.get_signature()) for name, metric in metrics.items()},
        n=len(references),
        bootstrap={"resamples": resamples, "seed": SEED},
    )


def bleu4(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str) -> float:
    """Corpus BLEU-4 in points of 100: what training selects on."""
    return float(BLEU(tokenize=tokenize).corpus_score(hypotheses, [references]).score)


def interval(
    metric: Any, hypotheses: Sequence[str], references: Sequence[str], *, resamples: int
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a sacrebleu metric over resampled clips.

    Not sacrebleu's own: version 2.6 fails as soon as one resample scores 0.
    """
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, [references]))
    clips = len(references)
    # How often each clip is drawn says as much as the draws, in one product for all resamples.
    drawn = np.random.default_rng(SEED).multinomial(clips, [1 / clips] * clips, size=resamples)
    sums = (drawn @ statistics.astype(np.int64)).tolist()
    scores = [metric._compute_score_from_stats(row).score for row in sums]
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
