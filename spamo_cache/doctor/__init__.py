"""What a careful colleague would check before work begins: the corpus, and this machine."""

from spamo_cache.doctor.corpus import SAMPLE, lint
from spamo_cache.doctor.findings import Diagnosis, Finding

__all__ = ["SAMPLE", "Diagnosis", "Finding", "lint"]
