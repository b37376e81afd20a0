"""Decoding a split, scoring it, and translating what is in no corpus."""

from spamo_cache.evaluate.conventions import score
from spamo_cache.evaluate.evaluation import compare, evaluate
from spamo_cache.evaluate.features import translate_features

__all__ = ["compare", "evaluate", "score", "translate_features"]
