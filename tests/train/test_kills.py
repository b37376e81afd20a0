"""Kill -9 at random points of both stages: the resumed run ends as the uninterrupted one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from spamo_cache import io
from tests.support import environment, program

RUNS = 10
"""Each killed twice."""


@pytest.fixture(scope="module")
def nursery(launch):
    """Send an order, get the child's exit status and what it said."""
    with launch.as_python():
        command = program("train_victim")
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def order(out: Path, fatal: int | None = None) -> tuple[int, dict]:
        said: dict = {}
        process.stdin.write(json.dumps({"out": str(out), "fatal": fatal}) + "\n")
        process.stdin.flush()
        while "status" not in said:
            said |= json.loads(process.stdout.readline())
        return said["status"], said

    yield order
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """An uninterrupted run and how many events it has."""
    out = tmp_path_factory.mktemp("whole") / "run"
    status, said = nursery(out)
    assert status == 0, said
    return out, said["events"]


def results(run: Path) -> dict[str, object]:
    """Everything but times, places, and what this call took of the work."""
    done = io.read_json(run / "done.json")
    done |= {"seconds": 0, "path": "", "steps": 0, "step_seconds": None}
    done |= {"waiting": None, "peak_bytes": None}
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "done.json"}
    return files | {"done": done}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(RUNS))
def test_killed_anywhere_the_run_ends_the_same(nursery, whole, tmp_path, number):
    uninterrupted, events = whole
    chance = random.Random(number)
    # One kill in each tenth of the run, wherever chance puts it there; whoever goes on from it is
    # killed as well, within as many events as any resumed run has.
    first, last = number * events // RUNS + 1, (number + 1) * events // RUNS
    for fatal in (chance.randint(first, last), chance.randint(1, max(1, events // RUNS // 2))):
        status, said = nursery(tmp_path / "run", fatal)
        assert status == -signal.SIGKILL, said
    status, said = nursery(tmp_path / "run")
    assert status == 0, said
    assert results(tmp_path / "run") == results(uninterrupted)
