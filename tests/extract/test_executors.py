"""Every executor and any number of workers give the same bytes."""

from __future__ import annotations

import os
import signal
from asyncio import run as run_async
from asyncio import wait_for
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest
from distributed import Security
from distributed.comm import connect

import spamo_cache as sc
from spamo_cache import devices
from spamo_cache.config import CacheSpec
from spamo_cache.errors import ConfigError, SpamoError, UsageError
from spamo_cache.extract import executors, worker
from spamo_cache.extract.decoding import DecodeConfig
from spamo_cache.extract.executors import (
    Cluster,
    _client,
    _own_device,
    run_dask,
    slurm_options,
)
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.progress import Progress
from spamo_cache.extract.worker import PartitionResult, PartitionTask, WorkerConfig
from tests.support.launcher import Launch

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


@pytest.fixture(scope="module", autouse=True)
def _workers_begin_with_their_imports(launch: Launch) -> Iterator[None]:
    """They are forks of one process that has the libraries, which takes each of them seconds."""
    with launch.as_python():
        yield


@pytest.fixture
def go(corpus: Path, manifest: Any, spec: CacheSpec, tmp_path: Path) -> Callable[..., Any]:
    def extracted(place: str, **options: Any) -> Any:
        return extract(
            manifest, corpus, spec, GOLDEN, store_root=tmp_path / place, device="cpu", **options
        )

    return extracted


@pytest.fixture(scope="module")
def reference(
    corpus: Path,
    manifest: Any,
    spec: CacheSpec,
    digest: Callable[[Path], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    place = tmp_path_factory.mktemp("reference")
    options: dict[str, Any] = {"store_root": place, "device": "cpu", "executor": "serial"}
    return digests(extract(manifest, corpus, spec, GOLDEN, **options), digest)


def digests(summary: Any, digest: Callable[[Path], str]) -> dict[str, str]:
    return {name: digest(path) for name, path in summary.stores.items()}


@pytest.mark.slow
def test_a_local_cluster_equals_serial(
    go: Callable[..., Any], reference: dict[str, str], digest: Callable[[Path], str]
) -> None:
    """Two workers are those of the existing scheduler, below."""
    seen: list[Progress] = []
    summary = go("dask", workers=3, progress=seen.append)
    assert summary.done == 6
    assert digests(summary, digest) == reference
    assert max(step.frames for step in seen if step.stage == "extract") == 101


@pytest.mark.slow
def test_threads_do_not_change_a_byte(
    go: Callable[..., Any],
    reference: dict[str, str],
    digest: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for threads in (1, 5):
        monkeypatch.setattr(devices, "cpu_cores", lambda threads=threads: threads)
        summary = go(f"threads-{threads}", executor="serial")
        assert digests(summary, digest) == reference


@pytest.fixture(scope="module")
def scheduler() -> Iterator[tuple[str, Any]]:
    """A cluster that somebody else has started; the last test that uses it kills its workers."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=50,
    ) as cluster:
        yield cluster.scheduler_address, cluster


@pytest.mark.slow
def test_an_existing_scheduler_survives_the_death_of_a_worker(
    go: Callable[..., Any],
    reference: dict[str, str],
    digest: Callable[[Path], str],
    scheduler: tuple[str, Any],
) -> None:
    address, cluster = scheduler
    victims = [nanny.pid for nanny in cluster.workers.values()]

    def kill(step: Progress) -> None:
        if step.stage == "extract" and step.clips and victims:
            os.kill(victims.pop(), signal.SIGKILL)
            victims.clear()

    summary = go("existing", scheduler=address, progress=kill)
    assert not victims
    assert summary.done == 6
    assert digests(summary, digest) == reference


def config(streams: Any) -> WorkerConfig:
    return WorkerConfig(
        decoding=DecodeConfig(root=Path(), resize="pil", decoders=1),
        spec_base=Path(),
        streams=streams,
        compute="auto",
        device="cpu",
        dtype="float16",
        threads=1,
    )


@pytest.mark.slow
def test_a_partition_that_kills_every_worker_is_one_clear_error(
    scheduler: tuple[str, Any],
) -> None:
    address, cluster = scheduler
    cluster.scheduler.allowed_failures = 1
    # Whoever looks for the stream's store dies.
    fatal = defaultdict(partial(os._exit, 1))
    task = PartitionTask("7-motion", 7, (), {"motion": ()})
    with pytest.raises(SpamoError, match="partition 7 killed every worker") as error:
        list(run_dask(config(fatal), [task], print, Cluster(scheduler=address)))
    assert "memory" in str(error.value.remedy)


@pytest.mark.slow
def test_finished_tasks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand partitions must not pile up, neither here nor at the scheduler."""
    from distributed import LocalCluster

    monkeypatch.setattr(worker, "run_task", lambda _, task, __: PartitionResult(task.name))
    tasks = (PartitionTask(str(number), number, (), {}) for number in range(200))
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        known = [
            (int(done.task), len(cluster.scheduler.tasks))
            for done in run_dask(config({}), tasks, print, Cluster(scheduler=address))
        ]
    assert sorted(partition for partition, _ in known) == list(range(200))
    assert max(count for _, count in known) < 20


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    family = [process, *process.children(recursive=True)]
    found = [socket for member in family for socket in member.net_connections("inet")]
    return {tuple(socket.laddr) for socket in found if socket.status == psutil.CONN_LISTEN}


async def reach(address: str, security: Security) -> None:
    """Connect and ask who is there, as every message to run something begins."""
    arguments = security.get_connection_args("client")
    comm = await connect(address, timeout=2, **arguments)
    try:
        await comm.write({"op": "identity", "reply": True})
        assert "id" in await wait_for(comm.read(), 2)
    finally:
        comm.abort()


@pytest.mark.slow
def test_nobody_else_can_connect_to_a_local_cluster() -> None:
    """Whoever connects can run code as the user: other users of the host, and other hosts."""
    this = psutil.Process()
    before = listening(this)
    with _client(Cluster(workers=1)) as client:
        sockets = listening(this) - before
        assert {host for host, _ in sockets} == {"127.0.0.1"}
        (nanny,) = client.cluster.workers.values()
        members = [client.cluster.scheduler_address, nanny.address, nanny.worker_address]
        assert {urlparse(address).port for address in members} < {port for _, port in sockets}
        assert client.cluster.dashboard_link.startswith("http://127.0.0.1:")
        for address in members:
            run_async(reach(address, client.security))
            for stranger in (Security(), Security.temporary()):
                plain = stranger.tls_ca_file is None
                given = address.replace("tls://", "tcp://") if plain else address
                with pytest.raises(OSError):  # noqa: PT011 - many kinds, none of them a reply
                    run_async(reach(given, stranger))


@pytest.mark.slow
def test_what_dask_sets_for_its_workers_is_for_them_alone() -> None:
    """Trainings that a command started behind an extraction took twice the time for it."""
    before = dict(os.environ)
    with _client(Cluster(workers=1)) as client:
        (nanny,) = client.cluster.workers.values()
        assert nanny.pre_spawn_env["OMP_NUM_THREADS"] == "1"
        # It would cost the worker itself a fifth of its time.
        assert "MALLOC_TRIM_THRESHOLD_" not in nanny.pre_spawn_env
        assert dict(os.environ) == before
    assert dict(os.environ) == before


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 0.3)
    said = {
        "tcp://127.0.0.1:9": "no Dask scheduler answers",
        "nonsense": "no Dask scheduler answers",
        "tls://127.0.0.1:9": "no certificates",
    }
    for address, what in said.items():
        with pytest.raises(UsageError, match=what), _client(Cluster(scheduler=address)):
            pass
    # Before anything is read: the folder of the corpus is not even there.
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        sc.extract("phoenix14t", root="nowhere", scheduler="tcp://127.0.0.1:9", device="cpu")


def test_slurm_files(tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    path.write_text("jobs: 3\nqueue: gpu\ncores: 8\nmemory: 32GB\nwalltime: '01:00:00'\n")
    jobs, options = slurm_options(path)
    assert jobs == 3
    from dask_jobqueue.slurm import SLURMCluster

    with SLURMCluster(**options) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH --cpus-per-task=8" in script
    assert "--dashboard-address 127.0.0.1:0" in script
    assert "--preload-nanny spamo_cache.extract.nanny" in script
    path.write_text("jobs: none\n")
    with pytest.raises(ConfigError, match="jobs"):
        slurm_options(path)


@pytest.mark.slow
def test_workers_of_a_local_cluster_share_out_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [_own_device("cuda", name) for name in (0, 1, 2, "tcp://x")] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda",
    ]
    assert _own_device("cpu", 1) == "cpu"
