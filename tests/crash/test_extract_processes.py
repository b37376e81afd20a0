"""Real processes: interrupted, side by side, and losing their workers or their scheduler."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import config
from spamo_cache.config import CacheSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.extract.extraction import extract
from spamo_cache.extract.summary import Summary
from spamo_cache.store.reader import FeatureStore
from tests.support.launcher import Child, Launch

ROOT = Path(__file__).parents[2]
CLIPS, PARTITIONS, FRAMES = 64, 16, 64 * 12
SECONDS = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Start = Callable[..., Child]
Contents = Callable[[Path], dict[str, str]]
Receipts = Callable[[Path], dict[str, tuple[bytes, int]]]


def serially(site: Path, store: Path) -> Summary:
    """Extract, or go on, in this process: cheaper than a new one."""
    spec = config.load(site / "spec.yaml", CacheSpec)
    manifest = Manifest.read(site / "manifest.csv", "manifest")
    return extract(manifest, site, spec, site, store_root=store, executor="serial", device="cpu")


@pytest.fixture(scope="module")
def expected(site: Path, tmp_path_factory: pytest.TempPathFactory, contents: Contents) -> Any:
    """What every way of running it has to give."""
    store = tmp_path_factory.mktemp("whole")
    serially(site, store)
    return contents(store)


def events(process: Child) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in process.stdout)


def wait_for_clips(process: Child, clips: int = 1) -> int:
    """Read the log until so many clips are done."""
    for event in events(process):
        if event["event"] == "progress" and event["stage"] == "extract" and event["clips"] >= clips:
            return int(event["clips"])
    raise AssertionError(f"ended early: {process.communicate()[1]}")


def finish(process: Child, code: int = 0) -> tuple[dict[str, Any], str]:
    """The last line of its log, and what it said to people."""
    out, told = process.communicate(timeout=SECONDS)
    assert process.returncode == code, told
    return json.loads(out.splitlines()[-1]) if code == 0 else {}, told


def family(home: str) -> list[int]:
    """Processes with this SPAMO_HOME: a command's, and all it has started."""
    mark = f"SPAMO_HOME={home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # gone, or somebody else's
    return found


def assert_no_strays(home: Path) -> None:
    deadline = time.monotonic() + 20
    while family(str(home)):
        assert time.monotonic() < deadline, f"still running: {family(str(home))}"
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["--executor serial", "--workers 2"])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    how: str,
    start: Start,
    *,
    site: Path,
    tmp_path: Path,
    expected: Any,
    contents: Contents,
    receipts: Receipts,
) -> None:
    store = tmp_path / "store"
    process = start(store, *how.split())
    wait_for_clips(process, 8)
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
    _, told = finish(process, code=130)
    assert "run the same command again" in told
    assert len(told.splitlines()) == 1, told
    assert_no_strays(tmp_path / "home")
    finished = receipts(store)
    assert 0 < len(finished) < 2 * PARTITIONS
    for path in store.glob("*/*.zarr"):
        held = sum(str(path) in receipt for receipt in finished)
        assert FeatureStore.open(path).counts()["ok"] == 4 * held, "the index was not sealed"
    summary = serially(site, store)
    assert summary.reused + summary.done == CLIPS
    assert finished.items() <= receipts(store).items()
    assert contents(store) == expected


def test_two_commands_share_the_work(
    start: Start, tmp_path: Path, expected: Any, contents: Contents
) -> None:
    store = tmp_path / "store"
    both = [start(store, "--executor", "serial") for _ in range(2)]
    summaries = [finish(process)[0] for process in both]
    assert sum(summary["computed_frames"] for summary in summaries) == FRAMES
    assert all(summary["failed"] == [] for summary in summaries)
    assert contents(store) == expected


def test_workers_killed_again_and_again(
    start: Start, tmp_path: Path, expected: Any, contents: Contents
) -> None:
    store = tmp_path / "store"
    process = start(store, "--workers", "2")
    kills, last = 0, dict[str, Any]()
    for last in events(process):
        at_work = last["event"] == "progress" and last["stage"] == "extract"
        if at_work and 0 < last["clips"] < CLIPS and kills < 3:
            victims = [pid for pid in family(str(tmp_path / "home")) if is_worker(pid)]
            os.kill(max(victims), signal.SIGKILL)
            kills += 1
    assert kills, "it was over too soon"
    assert process.wait(SECONDS) == 0
    summary = last
    assert (summary["done"], summary["failed"]) == (CLIPS, [])
    assert contents(store) == expected
    assert_no_strays(tmp_path / "home")


def is_worker(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"spawn_main" in command


def test_a_full_disk_is_one_clear_error(site: Path, tmp_path: Path) -> None:
    """A disk of its own in a namespace of its own, which grows once it was full."""
    store = tmp_path / "store"
    store.mkdir()
    named = "-d manifest --manifest manifest.csv --spec spec.yaml"
    command = f"{sys.executable} -m spamo_cache extract {named}"
    script = f"""
        mount -t tmpfs -o size=380k none {store} || exit 77
        {command} --store {store} --executor serial > /dev/null
        echo "exit code $?" >&2
        mount -o remount,size=50M {store} || exit 77
        {command} --store {store} --executor serial | grep -E 'there already|computed'
    """
    given = {"PYTHONPATH": str(ROOT), "SPAMO_HOME": str(tmp_path / "home")}
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("this system has no unshare")
    done = subprocess.run(
        [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=site,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system does not let users mount")
    # Beside how far the extraction is.
    told = [line for line in done.stderr.splitlines() if " extract manifest" not in line]
    first, *_, last = told
    assert first == "error: cannot write: No space left on device", done.stderr
    assert last == "exit code 1"
    reused, computed = (int(line.split()[-1]) for line in done.stdout.splitlines())
    assert reused > 0
    assert reused + computed == CLIPS


# --- a cluster of somebody else's -----------------------------------------------------------------


@pytest.fixture
def dask(launch: Launch, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a part of a cluster, whose scheduler writes its address to a file."""
    running = []

    def begin(part: str, *options: str) -> Child:
        given = ["--scheduler-file", tmp_path / "scheduler.json", *options]
        home = str(tmp_path / "cluster")
        process = launch(f"distributed.cli.{part}", *given, SPAMO_HOME=home)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()
    assert_no_strays(tmp_path / "cluster")


def address(tmp_path: Path) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            return str(json.loads((tmp_path / "scheduler.json").read_text())["address"])
        except (OSError, ValueError):
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.1)


def test_a_scheduler_that_dies_is_one_clear_error(
    dask: Any, start: Start, site: Path, tmp_path: Path, *, expected: Any, contents: Contents
) -> None:
    local = ("--host", "127.0.0.1", "--no-dashboard")
    scheduler = dask("dask_scheduler", "--port", "0", *local)
    at = address(tmp_path)
    dask("dask_worker", "--nthreads", "1", "--no-nanny", *local)
    store = tmp_path / "store"
    process = start(store, "--scheduler", at)
    wait_for_clips(process, 8)
    scheduler.kill()
    _, told = finish(process, code=1)
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, told
    assert "the connection to the Dask scheduler is lost" in errors[0]
    assert "Traceback" not in told
    serially(site, store)
    assert contents(store) == expected


SBATCH = """\
#!/bin/sh
# Keeps the script, as Slurm does, and runs it at once: a process of its own, the job's number.
echo "$@" >> "$JOBS/sbatch"
for script; do :; done
cp "$script" "$JOBS/script"
setsid sh "$JOBS/script" > "$JOBS/log" 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """\
#!/bin/sh
echo "$@" >> "$JOBS/scancel"
for job; do kill -TERM -- "-$job"; done
exit 0
"""


def test_slurm_jobs(start: Start, tmp_path: Path, expected: Any, contents: Contents) -> None:
    """Through dask-jobqueue and commands of Slurm's names that really start the job."""
    tools, jobs = tmp_path / "bin", tmp_path / "jobs"
    tools.mkdir()
    jobs.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL, "squeue": "#!/bin/sh\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    cluster = tmp_path / "slurm.yaml"
    cluster.write_text("jobs: 1\ncores: 1\nmemory: 2GB\nwalltime: '00:10:00'\ninterface: lo\n")
    store = tmp_path / "store"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    process = start(store, "--slurm", str(cluster), PATH=path, JOBS=str(jobs))
    summary, _ = finish(process)
    assert (summary["done"], summary["failed"]) == (CLIPS, [])
    assert contents(store) == expected
    assert (jobs / "sbatch").read_text().count("\n") == 1
    assert (jobs / "scancel").read_text().strip().isdecimal()
    # Only who can read files of this user could have connected, and those are gone.
    script = (jobs / "script").read_text()
    (key,) = re.findall(r"--tls-key (\S+)", script)
    assert "--protocol tls://" in script
    assert not Path(key).exists()
    assert_no_strays(tmp_path / "home")
