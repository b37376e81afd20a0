"""Decoding a split, scoring it, and translating what is in no corpus."""

from spamo_cache.evaluate.inference import LoadedRun, load_run, translate_features
from spamo_cache.evaluate.metrics import Scores, bleu4, score
from spamo_cache.evaluate.scorecard import Scorecard, evaluate

__all__ = [
    "LoadedRun",
    "Scorecard",
    "Scores",
    "bleu4",
    "evaluate",
    "load_run",
    "score",
    "translate_features",
]
