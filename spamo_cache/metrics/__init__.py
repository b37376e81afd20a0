"""Scores of translations: what training selects its weights by, and what an evaluation tells."""

from spamo_cache.metrics.intervals import (
    BOOTSTRAP,
    Difference,
    Measure,
    SeedsDifference,
    Spread,
    difference,
    mean_of,
    seeds_difference,
    spread,
)
from spamo_cache.metrics.scores import (
    Scores,
    bleu4,
    bleu4_measure,
    measures,
    sentence_bleu,
    summarize,
)
from spamo_cache.metrics.words import bare, unspaced, words

__all__ = [
    "BOOTSTRAP",
    "Difference",
    "Measure",
    "Scores",
    "SeedsDifference",
    "Spread",
    "bare",
    "bleu4",
    "bleu4_measure",
    "difference",
    "mean_of",
    "measures",
    "seeds_difference",
    "sentence_bleu",
    "spread",
    "summarize",
    "unspaced",
    "words",
]
