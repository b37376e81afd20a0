"""Partition after partition in this process: for debugging, and where processes cost too much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spamo_cache.extract import worker
from spamo_cache.extract.job import Done, Job, Report, Task


def run(job: Job, tasks: Iterable[Task], report: Report) -> Iterator[Done]:
    """Compute the tasks in order."""
    for task in tasks:
        yield worker.run(job, task, report)
