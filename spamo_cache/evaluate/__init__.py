"""Decoding a split, scoring it, and translating what is in no corpus."""

from spamo_cache.evaluate.scorecard import Scorecard, evaluate
from spamo_cache.evaluate.significance import compare
from spamo_cache.evaluate.translate import translate_features
from spamo_cache.runs.load import LoadedRun, load_run

__all__ = [
    "LoadedRun",
    "Scorecard",
    "compare",
    "evaluate",
    "load_run",
    "translate_features",
]
