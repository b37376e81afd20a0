"""Partitions by Dask: a local cluster, an existing scheduler, or Slurm jobs.

A worker that dies costs the partition it was computing, which Dask gives to another one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spamo_cache.config import read_yaml
from spamo_cache.errors import ConfigError, SpamoError, UsageError
from spamo_cache.extract import worker
from spamo_cache.extract.job import Advance, Done, Job, Report, Task

_TOPIC = "spamo-cache-progress"
_REPORT_SECONDS = 0.25
_CONNECT_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the workers are."""

    workers: int = 1
    """Of a local cluster."""
    scheduler: str | None = None
    """Address of an existing one, ``tcp://host:port``."""
    slurm: Path | None = None
    """YAML with the options of ``dask_jobqueue.SLURMCluster`` and the number of ``jobs``."""


def run(job: Job, tasks: Sequence[Task], report: Report, cluster: Cluster) -> Iterator[Done]:
    """Compute the tasks on the cluster, in the order in which they are finished.

    Raises:
        UsageError: no scheduler at the address given.
        ConfigError: an unusable Slurm file.
        SpamoError: a partition that killed every worker it was given to.
    """
    from distributed import as_completed

    with _client(cluster) as client:
        client.subscribe_topic(_TOPIC, lambda event: report(Advance(*event[1])))
        waiting = iter(tasks)
        # A few tasks ahead of the workers: a graph of all would be large and slow to submit.
        ahead = 2 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        first = [_submit(client, job, task) for _, task in zip(range(ahead), waiting, strict=False)]
        running = as_completed(first, loop=client.loop)
        for future in running:
            yield _result(future)
            following = next(waiting, None)
            if following is not None:
                running.add(_submit(client, job, following))


def slurm_options(path: Path) -> tuple[int, dict[str, Any]]:
    """Number of jobs and options for ``SLURMCluster`` from a YAML file.

    Raises:
        ConfigError: a missing file, or no sensible number of ``jobs``.
    """
    options = read_yaml(path)
    jobs = options.pop("jobs", 1)
    if not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"jobs: {jobs!r} is not a positive number", where=path)
    # One task fills a job: its threads are the worker's own.
    return jobs, {"processes": 1, "scheduler_options": {"dashboard_address": ":0"}, **options}


def run_in_worker(job: Job, task: Task) -> Done:
    """What a Dask worker executes; progress goes back as events, a few a second."""
    from distributed import get_worker

    this = get_worker()
    pending = [0, 0, 0]
    sent = time.monotonic()

    def send() -> None:
        if any(pending):
            this.log_event(_TOPIC, tuple(pending))
            pending[:] = [0, 0, 0]

    def report(step: Advance) -> None:
        nonlocal sent
        for k, value in enumerate((step.clips, step.frames, int(step.failures))):
            pending[k] += value
        if time.monotonic() - sent > _REPORT_SECONDS:
            send()
            sent = time.monotonic()

    done = worker.run(replace(job, device=_own_device(job.device, this.name)), task, report)
    send()
    return done


def _own_device(device: str, name: object) -> str:
    """Spread a local cluster's workers, which are numbered, over the GPUs there are."""
    if device != "cuda" or not isinstance(name, int):
        return device
    import torch

    return f"cuda:{name % torch.cuda.device_count()}"


def _submit(client: Any, job: Job, task: Task) -> Any:
    return client.submit(run_in_worker, job, task, pure=False, key=f"partition-{task.partition}")


def _result(future: Any) -> Done:
    from distributed import KilledWorker

    try:
        done: Done = future.result()
    except KilledWorker as error:
        raise SpamoError(
            f"{error.task} killed every worker it was given to",
            remedy="most often memory: use fewer workers, or look into the workers' logs",
        ) from None
    return done


@contextmanager
def _client(cluster: Cluster) -> Iterator[Any]:
    from distributed import Client

    with ExitStack() as stack:
        address: Any = cluster.scheduler
        if cluster.slurm is not None:
            address = stack.enter_context(_slurm(cluster.slurm))
        elif address is None:
            address = stack.enter_context(_local(cluster.workers))
        try:
            client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"no Dask scheduler answers: {error}",
                where=address,
                remedy="start one (`dask scheduler`) and give its address, tcp://host:port",
            ) from None
        yield stack.enter_context(client)


def _local(workers: int) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        # Any free port: another run on this host may hold the usual one.
        dashboard_address=":0",
        # A worker's memory holds decoded frames, which cannot be spilled or restarted away.
        memory_limit=0,
        silence_logs=50,
    )


def _slurm(path: Path) -> Any:
    jobs, options = slurm_options(path)
    from dask_jobqueue.slurm import SLURMCluster

    try:
        cluster = SLURMCluster(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"SLURMCluster refuses these options: {error}", where=path) from None
    cluster.scale(jobs=jobs)
    return cluster
