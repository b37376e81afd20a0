"""What a run has learnt beyond its score."""

from spamo_cache.analysis.alignment import analyze

__all__ = ["analyze"]
