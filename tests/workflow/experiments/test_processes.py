"""Child processes: their environment, their answers, and how they end."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from spamo_cache import config, devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError, StoreError, UsageError
from spamo_cache.store.leases import LeaseLostError
from spamo_cache.workflow.experiments import processes
from spamo_cache.workflow.experiments.processes import ProcessPool, worker_envs
from spamo_cache.workflow.experiments.tasks import (
    _TASK,
    AnalyzeTask,
    TrainTask,
    _described,
    rebuilt,
)

TASK = AnalyzeTask(folder=Path("nowhere"), device="cpu")
PIPELINES = [
    path
    for path in sorted(Path(__file__).parents[3].glob("pipelines/*/*.yaml"))
    if path.parent.name != "experiments"
]


def run(code: str | None, monkeypatch: pytest.MonkeyPatch, **env: str) -> list[str]:
    """Warnings of a child whose task does ``code`` in place of an analysis."""
    if code is not None:
        monkeypatch.setattr(processes, "_CHILD", child(code))
    warnings: list[str] = []

    async def work() -> None:
        async with ProcessPool([env]) as pool, pool.slot() as call:
            await call(TASK, warnings.append)

    asyncio.run(work())
    return warnings


def child(code: str) -> str:
    return (
        "import os, sys, time\n"
        "from spamo_cache.workflow.experiments.tasks import AnalyzeTask, child_main\n"
        f"def work(task, watcher):\n    {code}\n"
        "AnalyzeTask.run = work\nchild_main()"
    )


def gpus_of(jobs: int | None, device: str) -> list[str]:
    return [env["CUDA_VISIBLE_DEVICES"] for env in worker_envs(jobs, None, device)]


def test_environments_are_gpus_or_shares_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_gpus", lambda _: ["3", "5"])
    assert gpus_of(None, "auto") == ["3", "5"]
    assert gpus_of(3, "cuda") == ["3", "5", "3"]
    monkeypatch.setattr(devices, "cpu_cores", lambda: 8)
    assert worker_envs(None, 2, "cpu")[0]["OMP_NUM_THREADS"] == "1"  # the suite's own
    monkeypatch.delenv("OMP_NUM_THREADS")
    several = worker_envs(None, 2, "cpu")
    assert len(several) == 4
    assert several[0]["OMP_NUM_THREADS"] == "2"
    assert several[0]["CUDA_VISIBLE_DEVICES"] == ""
    # Who asks for all cores gets them: as many big models as cores would fill any memory.
    (alone,) = worker_envs(None, None, "cpu")
    assert alone["OMP_NUM_THREADS"] == "8"


@pytest.mark.slow
def test_the_environment_is_there_before_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "watcher.warning(os.environ['CUDA_VISIBLE_DEVICES'] + str('torch' in sys.modules))"
    assert run(code, monkeypatch, CUDA_VISIBLE_DEVICES="7") == ["7False"]


@pytest.mark.slow
def test_prints_of_libraries_are_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('{}'); os.system('echo {}'); watcher.warning('one'); watcher.warning('two')"
    assert run(code, monkeypatch) == ["one", "two"]


@pytest.mark.slow
def test_an_error_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the real task: class, place and remedy arrive apart from each other."""
    with pytest.raises(UsageError, match="nowhere") as caught:
        run(None, monkeypatch)
    assert caught.value.where == "nowhere"
    assert caught.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "what", "place"),
    [
        ("raise ValueError(7)", "ValueError: 7", "<string>:4"),
        ("raise MemoryError", "out of memory", None),
        ("raise RuntimeError('CUDA out of memory. Tried')", "out of memory", None),
        ("open('/nowhere/at/all')", "No such file or directory", "/nowhere/at/all"),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9", None),
        ("os.abort()", "was ended by signal 6", None),
        ("os._exit(3)", "ended with code 3", None),
        ("os._exit(0)", "ended with code 0", None),
        ("print('no such library', file=sys.stderr, flush=True); os._exit(1)", "no such lib", None),
    ],
)
def test_whatever_ends_a_child_is_an_error(
    code: str, what: str, place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpamoError, match=what) as caught:
        run(code, monkeypatch)
    assert caught.value.where == place
    assert ("--jobs" in (caught.value.remedy or "")) is ("signal 9" in what)


@pytest.mark.slow
def test_blocks_share_a_process_until_one_of_them_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "watcher.warning(str(os.getpid())); 1 / (task.folder.name != 'fatal')"
    monkeypatch.setattr(processes, "_CHILD", child(code))
    pids: list[str] = []

    async def work() -> None:
        async with ProcessPool([{}]) as pool:
            for name in ("one", "two", "fatal", "three"):
                with suppress(SpamoError):
                    async with pool.slot() as call:
                        await call(AnalyzeTask(folder=Path(name), device="cpu"), pids.append)

    asyncio.run(work())
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert not any(Path("/proc", pid).exists() for pid in pids)


PARENT = """
import asyncio, signal, sys
from pathlib import Path
from spamo_cache.workflow.experiments import processes
from spamo_cache.workflow.experiments.tasks import AnalyzeTask

processes._CHILD = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests ignore Ctrl-C

async def work():
    async def one(pool):
        async with pool.slot() as call:
            say = lambda text: print(text, flush=True)
            await call(AnalyzeTask(folder=Path("any"), device="cpu"), say)
    async with processes.ProcessPool([{}, {}]) as pool:
        await asyncio.gather(one(pool), one(pool))

asyncio.run(work())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are watched by pidfd")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_children_end_with_their_parent(ended_by: signal.Signals) -> None:
    code = child("watcher.warning(str(os.getpid())); time.sleep(600)")
    command = [sys.executable, "-c", PARENT, code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        watched = [os.pidfd_open(int(parent.stdout.readline())) for _ in range(2)]
        parent.send_signal(ended_by)
        outlived = [one for one in watched if not select.select([one], [], [], 30)[0]]
        for one in watched:
            os.close(one)
        parent.kill()
    assert not outlived, "a child outlived its parent"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_task_arrives_as_it_was_sent(path: Path) -> None:
    pipeline = config.load(path, Pipeline, ["spec_set={streams.motion.stride: 4}"])
    task = TrainTask(
        pipeline=pipeline,
        base=path.parent,
        output=Path("out"),
        manifest=None,
        features={"spatial": "s3://bucket/a store"},
        root=Path("corpus"),
        device="cuda",
    )
    assert _TASK.validate_json(task.model_dump_json()) == task


@pytest.mark.slow
def test_tasks_of_a_block_share_a_process_that_survives_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash takes its process with it, and the next task gets another one."""
    code = "watcher.warning(str(os.getpid())); getattr(os, task.device)(int(task.folder.name))"
    monkeypatch.setattr(processes, "_CHILD", child(code))
    pids: list[str] = []

    async def work() -> None:
        async with ProcessPool([{}]) as pool, pool.slot() as call:
            for device, number in (("strerror", 0), ("close", 99), ("_exit", 0), ("strerror", 0)):
                with suppress(SpamoError):
                    await call(AnalyzeTask(folder=Path(str(number)), device=device), pids.append)

    asyncio.run(work())
    assert pids[0] == pids[1] == pids[2] != pids[3]
    for pid in pids[2:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_an_error_that_one_package_derives_arrives_as_what_it_is_derived_from() -> None:
    lost = LeaseLostError("somebody else has it", where="partition 3", remedy="rerun")
    arrived = rebuilt(_described(lost))
    assert type(arrived) is StoreError
    assert (arrived.what, arrived.where, arrived.remedy) == (lost.what, lost.where, lost.remedy)
