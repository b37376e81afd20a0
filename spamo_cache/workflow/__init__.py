"""What the commands do, as functions: from names and paths to stores, runs, scores and pages."""

from spamo_cache.workflow.analyze import analyze, attribute
from spamo_cache.workflow.evaluate import evaluate
from spamo_cache.workflow.extract import extract
from spamo_cache.workflow.report import report
from spamo_cache.workflow.reproduce import reproduce
from spamo_cache.workflow.train import train
from spamo_cache.workflow.translate import load_run, translate

__all__ = [
    "analyze",
    "attribute",
    "evaluate",
    "extract",
    "load_run",
    "report",
    "reproduce",
    "train",
    "translate",
]
