"""Every executor and any number of workers give the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.config import CacheSpec
from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.extract.executors.dask import Cluster, _client, _own_device, slurm_options
from spamo_cache.extract.progress import Progress
from spamo_cache.extract.run import extract

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


@pytest.fixture
def go(corpus: Path, manifest: Any, spec: CacheSpec, tmp_path: Path) -> Callable[..., Any]:
    def run(place: str, **options: Any) -> Any:
        return extract(
            manifest, corpus, spec, GOLDEN, store_root=tmp_path / place, device="cpu", **options
        )

    return run


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


def test_a_local_cluster_equals_serial(
    go: Callable[..., Any], reference: dict[str, str], digest: Callable[[Path], str]
) -> None:
    seen: list[Progress] = []
    summary = go("dask", workers=2, progress=seen.append)
    assert summary.done == 6
    assert digests(summary, digest) == reference
    assert max(step.frames for step in seen if step.stage == "extract") == 101


def test_threads_do_not_change_a_byte(
    go: Callable[..., Any],
    reference: dict[str, str],
    digest: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spamo_cache.extract import worker

    for threads in (1, 5):
        monkeypatch.setattr(worker, "cores", lambda threads=threads: threads)
        summary = go(f"threads-{threads}", executor="serial")
        assert digests(summary, digest) == reference


@pytest.fixture
def scheduler() -> Iterator[tuple[str, Any]]:
    """A cluster that somebody else has started."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address, cluster


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


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from spamo_cache.extract.executors import dask

    monkeypatch.setattr(dask, "_CONNECT_SECONDS", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with (
            pytest.raises(UsageError, match="no Dask scheduler answers"),
            _client(Cluster(scheduler=address)),
        ):
            pass


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
    path.write_text("jobs: none\n")
    with pytest.raises(ConfigError, match="jobs"):
        slurm_options(path)


def test_workers_of_a_local_cluster_share_out_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [_own_device("cuda", name) for name in (0, 1, 2, "tcp://x")] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda",
    ]
    assert _own_device("cpu", 1) == "cpu"
