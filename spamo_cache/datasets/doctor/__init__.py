"""What a careful colleague would check before work begins: the corpus, and this machine."""

from spamo_cache.datasets.doctor.findings import Diagnosis, Finding
from spamo_cache.datasets.doctor.lint import SAMPLE, lint

__all__ = ["SAMPLE", "Diagnosis", "Finding", "lint"]
