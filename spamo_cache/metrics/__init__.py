"""Scores of translations: what training selects its weights by, and what an evaluation tells."""

from spamo_cache.metrics.intervals import (
    BOOTSTRAP,
    Difference,
    Measure,
    Spread,
    difference,
    mean_of,
    spread,
)
from spamo_cache.metrics.scores import Scores, bleu4, measures, sentence_bleu, summarize
from spamo_cache.metrics.words import bare, unspaced, words

__all__ = [
    "BOOTSTRAP",
    "Difference",
    "Measure",
    "Scores",
    "Spread",
    "bare",
    "bleu4",
    "difference",
    "mean_of",
    "measures",
    "sentence_bleu",
    "spread",
    "summarize",
    "unspaced",
    "words",
]
