"""BLEU, chrF, TER and ROUGE-L with signatures and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from spamo_cache.metrics.intervals import BOOTSTRAP, SEED, Measure, interval
from spamo_cache.metrics.rouge import rouge
from spamo_cache.metrics.words import unspaced


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores in points of 100.

    Attributes:
        values: metric -> score.
        intervals: the 95 % bootstrap interval of each; empty for fewer than two clips.
        signatures: all settings of each, with tokenizer and version.
        n: scored clips.
        bootstrap: ``resamples`` and ``seed`` behind the intervals.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    signatures: dict[str, str]
    n: int
    bootstrap: dict[str, int]


def measures(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str
) -> dict[str, Measure]:
    """``bleu1`` to ``bleu4`` (n-gram order up to 1..4), ``chrf``, ``ter`` and the three ROUGE-L.

    Args:
        tokenize: sacrebleu's tokenizer for BLEU.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    # TER counts words between spaces; where there are none, it has to be told of characters.
    spaceless = unspaced(references)
    metrics: dict[str, Any] = {
        f"bleu{order}": _bleu(tokenize, max_ngram_order=order) for order in range(1, 5)
    }
    metrics |= {"chrf": CHRF(), "ter": TER(normalized=spaceless, asian_support=spaceless)}
    counted = {name: _counted(metric, hypotheses, references) for name, metric in metrics.items()}
    return counted | rouge(hypotheses, references)


def _counted(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Measure:
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, [references]))
    return Measure(
        statistics,
        lambda row: float(metric._compute_score_from_stats(row).score),
        str(metric.get_signature()),
    )


def summarize(measured: Mapping[str, Measure], *, bootstrap: int = BOOTSTRAP) -> Scores:
    """The scores of all metrics of one set of clips.

    Args:
        bootstrap: resamples; 0 leaves the intervals out.
    """
    clips = len(next(iter(measured.values())).statistics)
    resamples = bootstrap if clips > 1 else 0
    return Scores(
        values={name: measure.score for name, measure in measured.items()},
        intervals={
            name: interval(measure, resamples) for name, measure in measured.items() if resamples
        },
        signatures={name: measure.signature for name, measure in measured.items()},
        n=clips,
        bootstrap={"resamples": resamples, "seed": SEED},
    )


def bleu4_measure(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str
) -> Measure:
    """BLEU-4 by its counts of every clip."""
    return _counted(_bleu(tokenize), hypotheses, references)


def bleu4(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str) -> float:
    """Corpus BLEU-4 in points of 100: what training selects on."""
    return float(_bleu(tokenize).corpus_score(hypotheses, [references]).score)


def sentence_bleu(bleu: Measure) -> list[float]:
    """Each clip's own BLEU, of the orders that it has n-grams of."""
    metric: Any = BLEU(effective_order=True)
    return [float(metric._compute_score_from_stats(row).score) for row in bleu.statistics.tolist()]


def _bleu(tokenize: str, **settings: Any) -> Any:
    # A final " ." is a convention of the field; `force` is silent about it, and changes no score.
    return BLEU(tokenize=tokenize, force=True, **settings)
