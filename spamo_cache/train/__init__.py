"""Stage 2: features and sentences to a translator."""

from spamo_cache.runs.folder import RunSummary
from spamo_cache.train.features import Features, MemoryFeatures
from spamo_cache.train.loop import Progress
from spamo_cache.train.run import train

__all__ = [
    "Features",
    "MemoryFeatures",
    "Progress",
    "RunSummary",
    "train",
]
