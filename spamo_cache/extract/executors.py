"""Ways of running the tasks of an extraction; all give the same bytes.

``serial`` runs them in this process. Dask runs them on a local cluster, an existing scheduler or
Slurm jobs; a worker that dies costs the partitions it was at, which another one takes over.

Whoever can connect to a scheduler or a worker can run code as the user who started it. Clusters
started here therefore speak TLS with credentials made for the run, and nobody else has them.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar
from uuid import uuid4

from spamo_cache import config, extras, io
from spamo_cache.config import read_yaml
from spamo_cache.errors import ConfigError, SpamoError, UsageError
from spamo_cache.extract import worker
from spamo_cache.extract.engine import AT_ONCE, shared
from spamo_cache.extract.worker import (
    RERUN,
    PartitionResult,
    PartitionTask,
    Report,
    TaskProgress,
    WorkerConfig,
)

_REPORT_SECONDS = 0.25
_LOOK_SECONDS = 2.0
"""Between looks at how many workers there are."""
_CONNECT_SECONDS = 30
_DASHBOARD = "127.0.0.1:0"
"""Any free port, as another run on this host may hold the usual one; for this host alone."""
_LEAVE_CTRL_C_TO_THE_COMMAND = """
import signal

def dask_setup(worker):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
"""
"""What workers of a local cluster run first: a terminal sends Ctrl-C to all processes at once."""
_NANNY = "spamo_cache.extract.nanny"

Executor = Literal["dask", "serial"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the workers are."""

    workers: int = 1
    """Of a local cluster."""
    scheduler: str | None = None
    """Address of an existing one, ``tcp://host:port``."""
    slurm: Path | None = None
    """YAML with the options of ``dask_jobqueue.SLURMCluster`` and the number of ``jobs``."""


def check(executor: Executor, scheduler: str | None, slurm: Path | None) -> None:
    """Raise what is wrong with the choice of who does the work, before any is done.

    Raises:
        UsageError: more than one is asked for.
        ConfigError: an unusable Slurm file.
    """
    if (scheduler or slurm) and (executor == "serial" or (scheduler and slurm)):
        raise UsageError(
            "only one of --scheduler, --slurm and --executor serial can do the work",
            remedy="give one of them",
        )
    if slurm is not None:
        slurm_options(slurm)


def run_serial(
    config: WorkerConfig, tasks: Iterable[PartitionTask], report: Report
) -> Iterator[PartitionResult]:
    """Compute the tasks in order, in this process: for debugging, or where processes cost much."""
    running: deque[Future[PartitionResult]] = deque()
    with (
        shared(config.device, config.decoding, worker.threads_of(config)) as engine,
        ThreadPoolExecutor(AT_ONCE, thread_name_prefix="partition") as threads,
    ):
        try:
            for task in tasks:
                if len(running) == AT_ONCE:
                    yield running.popleft().result()
                running.append(threads.submit(worker.run_task, config, task, report))
            while running:
                yield running.popleft().result()
        except BaseException:
            engine.stop()
            raise


def run_dask(
    config: WorkerConfig,
    tasks: Iterable[PartitionTask],
    report: Report,
    cluster: Cluster,
    found: Callable[[str, str], None] = lambda _, __: None,
) -> Iterator[PartitionResult]:
    """Compute the tasks on the cluster, in the order in which they are finished.

    Args:
        found: called with the address of the scheduler and that of the dashboard, if it has one.

    Raises:
        UsageError: no scheduler at the address given.
        ConfigError: an unusable Slurm file.
        SpamoError: a partition that killed every worker it was given to, or a scheduler that died.
    """
    with _connected(cluster, found) as client:
        flow = _TaskFlow(client, config, report)
        waiting = iter(tasks)
        more = True
        while flow.running or more:
            while more and flow.has_room():
                task = next(waiting, None)
                more = task is not None
                if task is not None:
                    flow.submit(task)
            yield from flow.finished()


def each_on_dask(
    call: Callable[..., Result],
    items: Mapping[str, tuple[Any, ...]],
    cluster: Cluster,
    found: Callable[[str, str], None] = lambda _, __: None,
) -> Iterator[Result]:
    """Call a function with the arguments of each item on the cluster, as workers become free.

    Args:
        items: by their names, for errors.
        found: as :func:`run_dask` calls it.

    Raises:
        UsageError, ConfigError, SpamoError: as :func:`run_dask`.
    """
    with _connected(cluster, found) as client:
        done: SimpleQueue[Any] = SimpleQueue()
        running: dict[Any, str] = {}
        waiting = iter(items.items())
        at_once = AT_ONCE * max(cluster.workers, 1)
        more = True
        while running or more:
            while more and len(running) < at_once:
                name, arguments = next(waiting, ("", ()))
                if more := bool(arguments):
                    future = client.submit(call, *arguments, pure=False)
                    running[future] = name
                    future.add_done_callback(done.put)
            with suppress(Empty):
                future = done.get(timeout=_LOOK_SECONDS) if running else None
                if future is not None:
                    yield _result(future, f"clip {running.pop(future)}")
            threads = client.scheduler_info(n_workers=-1)["workers"]
            at_once = AT_ONCE * max(1, len(threads))


@contextmanager
def _connected(cluster: Cluster, found: Callable[[str, str], None]) -> Iterator[Any]:
    with _quiet(), _client(cluster) as client, _explained():
        # Without bokeh the page of a dashboard says no more than that.
        has_page = client.cluster is not None and extras.is_there("bokeh")
        found(client.scheduler.address, client.cluster.dashboard_link if has_page else "")
        yield client


class _TaskFlow:
    """Tasks in flight: enough that no worker waits, few enough for a small graph."""

    def __init__(self, client: Any, config: WorkerConfig, report: Report) -> None:
        self._client, self._config = client, config
        # Of this extraction alone: a scheduler may serve several at once.
        self._name = f"spamo-cache-{uuid4().hex}"
        self._done: SimpleQueue[Any] = SimpleQueue()
        self._looked, self._workers = 0.0, 1
        self.running: dict[Any, int] = {}
        client.subscribe_topic(self._name, lambda event: report(TaskProgress(*event[1])))

    def has_room(self) -> bool:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            self._looked, self._workers = time.monotonic(), max(1, len(workers))
        return len(self.running) < AT_ONCE * self._workers

    def submit(self, task: PartitionTask) -> None:
        key = f"{self._name}-{task.name}"
        call = (run_in_worker, self._config, task, self._name)
        future = self._client.submit(*call, pure=False, key=key)
        self.running[future] = task.partition
        future.add_done_callback(self._done.put)

    def finished(self) -> Iterator[PartitionResult]:
        """The next one, if there is one before it is time to look for more workers."""
        if self.running:
            with suppress(Empty):
                future = self._done.get(timeout=_LOOK_SECONDS)
                # With its last reference the scheduler forgets the task.
                yield _result(future, f"partition {self.running.pop(future)}")


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
    options = {"processes": 1, **options}
    options["scheduler_options"] = {
        "dashboard_address": _DASHBOARD,
        **options.get("scheduler_options", {}),
    }
    options["worker_extra_args"] = [
        *("--dashboard-address", _DASHBOARD),
        *("--preload-nanny", _NANNY),
        *options.get("worker_extra_args", []),
    ]
    return jobs, options


def run_in_worker(config: WorkerConfig, task: PartitionTask, topic: str) -> PartitionResult:
    """Run a task in a Dask worker; progress goes back as events, a few a second."""
    from distributed import get_worker

    this = get_worker()
    sent, failures = 0.0, 0

    def report(step: TaskProgress) -> None:
        nonlocal sent, failures
        whole = step.clips == len(task.clips)
        if whole or len(step.failed) > failures or time.monotonic() - sent > _REPORT_SECONDS:
            this.log_event(topic, (step.task, step.clips, step.frames, dict(step.failed)))
            sent, failures = time.monotonic(), len(step.failed)

    config = replace(config, device=_own_device(config.device, this.name))
    return worker.run_task(config, task, report)


def _own_device(device: str, name: object) -> str:
    """Spread a local cluster's workers, which are numbered, over the GPUs there are."""
    if device != "cuda" or not isinstance(name, int):
        return device
    import torch

    return f"cuda:{name % torch.cuda.device_count()}"


def _result(future: Any, what: str) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise SpamoError(
            f"{what} killed every worker it was given to, the last one at "
            f"{error.last_worker.address}",
            remedy="most often memory: use fewer --workers, look into the workers' logs, " + RERUN,
        ) from None


def _quiet() -> AbstractContextManager[None]:
    """Dask logs what goes wrong at length; what the user can act on is raised instead."""
    from distributed.utils import silence_logging_cmgr

    quiet: AbstractContextManager[None] = silence_logging_cmgr(logging.CRITICAL)
    return quiet


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a scheduler's death, however it shows, into one error.

    Raises:
        SpamoError: in place of what was raised.
    """
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError, TimeoutError, ConnectionError) as error:
        raise SpamoError(
            f"the connection to the Dask scheduler is lost ({type(error).__name__})",
            remedy=f"see why it ended, start it again, {RERUN}",
        ) from error


@contextmanager
def _client(cluster: Cluster) -> Iterator[Any]:
    from distributed import Client

    with ExitStack() as stack:
        address: Any = cluster.scheduler
        if cluster.slurm is not None:
            address = stack.enter_context(_slurm(cluster.slurm))
        elif address is None:
            address = stack.enter_context(_local(cluster.workers))
        else:
            _check_certificates(address)
        try:
            client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UsageError(
                f"no Dask scheduler answers: {error}",
                where=address,
                remedy="start one (`dask scheduler`) and give its address, tls://host:port",
            ) from None
        yield stack.enter_context(client)


def check_scheduler(address: str) -> None:
    """Raise UsageError unless a Dask scheduler answers there."""
    with _quiet(), _client(Cluster(scheduler=address)):
        pass


def _check_certificates(address: str) -> None:
    """Raise UsageError where TLS is asked for and nothing says with which certificates."""
    from distributed import Security

    if not address.startswith("tls://") or Security().get_connection_args("client")["ssl_context"]:
        return
    raise UsageError(
        "no certificates to connect to this scheduler with",
        where=address,
        remedy="name them in Dask's configuration (distributed.comm.tls: ca-file, client.cert, "
        "client.key), as for the scheduler itself",
    )


@contextmanager
def _local(workers: int) -> Iterator[Any]:
    from distributed import LocalCluster, Security

    with _environment_kept(), _started():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=AT_ONCE,
            processes=True,
            protocol="tls://",
            security=Security.temporary(),
            preload=[_LEAVE_CTRL_C_TO_THE_COMMAND],
            preload_nanny=[_NANNY],
            dashboard_address=_DASHBOARD,
            # A worker's memory holds decoded frames, which cannot be spilled or restarted away.
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
    with _environment_kept(), cluster:
        yield cluster


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what Dask sets in this process for the workers that it starts.

    Processes that are started later, as for training, would inherit it: one thread each, and
    a memory that is given back at once, at which they take twice the time.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _started() -> Iterator[None]:
    """Turn a cluster's failure to start into one error.

    Raises:
        SpamoError: in place of what was raised.
    """
    try:
        yield
    except (OSError, RuntimeError, TimeoutError) as error:
        raise SpamoError(
            f"no local cluster can be started: {error.__cause__ or error}",
            remedy="see this shell's limits (ulimit -a), or work in one process: --executor serial",
        ) from error


def _credentials(folder: Path) -> Any:
    """Credentials for one run, those of the workers in files that their jobs can read."""
    from distributed import Security

    made = Security.temporary()
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        file = folder / name
        with io.writing(file):
            file.touch(0o600)
            file.write_text(getattr(made, name), encoding="ascii")
        setattr(made, name, str(file))
    return made


@contextmanager
def _slurm(path: Path) -> Iterator[Any]:
    jobs, options = slurm_options(path)
    from dask_jobqueue.slurm import SLURMCluster

    parent = Path(options.pop("shared_temp_directory", config.home())).expanduser()
    with io.writing(parent):
        io.make_folders(parent)
        folder = TemporaryDirectory(prefix="slurm-", dir=parent)  # for its owner alone
    with folder as private:
        try:
            cluster = SLURMCluster(security=_credentials(Path(private)), **options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"SLURMCluster refuses these options: {error}", where=path) from None
        with cluster:
            cluster.scale(jobs=jobs)
            yield cluster
