"""Decoding a split, scoring it, and translating what is in no corpus."""

from spamo_cache.evaluate.inference import LoadedRun, load_run, translate_features
from spamo_cache.evaluate.metrics import Scores, bleu4, measures, score
from spamo_cache.evaluate.scorecard import Scorecard, evaluate
from spamo_cache.evaluate.significance import Difference, compare

__all__ = [
    "Difference",
    "LoadedRun",
    "Scorecard",
    "Scores",
    "bleu4",
    "compare",
    "evaluate",
    "load_run",
    "measures",
    "score",
    "translate_features",
]
